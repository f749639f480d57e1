"""render: what is written is what a promotion compares."""

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from checks.process.errors import ParamsRefused
from checks.storage import layout
from release.cli import main
from release.overlay import edits
from release.verbs.render import render
from tests.conftest import REPOSITORY
from tests.overlay_sample import BASE, GATEWAY, edit, failures, put, rendered, upgraded

COMPONENTS = layout.ENVIRONMENTS / "components"
RENDERED = layout.ENVIRONMENTS / "staging" / "kustomization.yaml"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository with the two files of an environment that people write."""
    for name in ("staging", "production"):
        folder = tmp_path / layout.ENVIRONMENTS / name
        folder.mkdir(parents=True)
        shutil.copy(REPOSITORY / layout.ENVIRONMENTS / name / "environment.yaml", folder)
    return tmp_path


def files(root: Path) -> set[Path]:
    return {path.relative_to(root) for path in root.rglob("*") if path.is_file()}


def test_it_writes_what_is_compared_and_no_more(root: Path) -> None:
    before = files(root)
    written = render(root, "staging")
    assert set(written) == {RENDERED, BASE / "kustomization.yaml", BASE / "objects.yaml"}
    assert files(root) == before | set(written)
    tree = root / layout.ENVIRONMENTS
    put(tree, rendered())
    assert failures(tree) == []
    assert render(root, "staging") == []
    edit(tree, "staging", lambda knobs: knobs.update(gateway={"image": GATEWAY}))
    assert set(render(root, "staging")) == {
        COMPONENTS / "gateway" / name for name in ("kustomization.yaml", "objects.yaml")
    }
    assert failures(tree) == []


def test_it_mends_what_was_edited_by_hand_and_keeps_other_files(root: Path) -> None:
    render(root, "staging")
    (root / RENDERED).write_text("resources: []\n")
    (root / BASE / "objects.yaml").unlink()
    (root / BASE / "mine.yaml").write_text("mine\n")
    assert set(render(root, "staging")) == {RENDERED, BASE / "objects.yaml"}
    assert (root / BASE / "mine.yaml").read_text() == "mine\n"
    put(root / layout.ENVIRONMENTS, rendered())
    (failure,) = failures(root / layout.ENVIRONMENTS)
    assert failure.startswith(f"{BASE}/mine.yaml: no environment has such a file")


def test_a_folder_of_an_earlier_version_is_replaced_as_a_whole(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that another environment uses, so that one command mends all that stops a promotion."""
    kserve = COMPONENTS / "kserve"
    shutil.copytree(REPOSITORY / kserve, root / kserve)
    render(root, "staging")
    before = files(root)
    upgraded(monkeypatch, kserve)
    later = {path: data for path, data in edits.shared_folders()[kserve].items() if path.name != "objects.yaml"}
    monkeypatch.setattr(edits, "shared_folders", lambda: {kserve: later})
    assert set(render(root, "staging")) == set(later)
    assert before - files(root) == {kserve / "copied" / "objects.yaml"}


def test_the_command_names_every_file_that_it_wrote(root: Path) -> None:
    command = ["-C", str(root), "render", "staging"]
    first, second = (CliRunner().invoke(main, command) for _ in range(2))
    assert first.exit_code == second.exit_code == 0
    assert set(first.output.splitlines()) == {
        f"wrote {path}" for path in (RENDERED, BASE / "kustomization.yaml", BASE / "objects.yaml")
    }
    assert second.output == "nothing to write: all files are as environment.yaml gives them\n"


def test_knobs_with_which_no_update_ends_are_refused_and_nothing_is_written(root: Path) -> None:
    path = root / layout.ENVIRONMENTS / "staging" / "environment.yaml"
    path.write_text(f"{path.read_text()}gpus: 1\ncapacity: 1\n")
    before = files(root)
    with pytest.raises(ParamsRefused, match="write `update: replace` and `downtime: allowed`, or `capacity: 2`"):
        render(root, "staging")
    assert files(root) == before
    path.write_text(path.read_text().replace("update: surge", "update: replace\ndowntime: allowed"))
    assert RENDERED in render(root, "staging")


def test_an_environment_without_its_file_is_refused(root: Path) -> None:
    with pytest.raises(ParamsRefused, match=r"canary/environment\.yaml: is missing"):
        render(root, "canary")
