"""The record that one job takes from the artifact of another: data, whatever else the artifact has.

The record of a cluster: tests/release/verbs/test_launch.py.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from checks.process.errors import EvidenceRefused
from checks.storage import layout
from release.record import hand_over
from tests.conftest import REPOSITORY
from tests.pipeline_repository import commit, git

PROJECT = Path("projects/router")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The checkout of a repository with one project below the git root."""
    root = tmp_path / "checkout"
    (root / PROJECT / layout.REPORTS).mkdir(parents=True)
    shutil.copy(REPOSITORY / layout.PIPELINE, root / PROJECT)
    (root / PROJECT / layout.VERDICT).write_text("of the commit\n")
    (root / "lockstep").write_text("reviewed\n")
    git(root, "init", "--quiet")
    commit(root, "start")
    return root


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    """What the job before left: its record, and why it refused."""
    folder = tmp_path / "artifact"
    for path in (layout.LOCK, layout.CODE_LOCK, layout.VERDICT, layout.REFUSAL):
        (folder / PROJECT / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / PROJECT / path).write_text("of the job\n")
    return folder


def changed(root: Path) -> set[str]:
    lines = git(root, "status", "--porcelain", "--untracked-files=all", "--ignored").splitlines()
    return {line[3:] for line in lines}


def test_the_record_and_the_refusal_of_the_project_are_taken(checkout: Path, artifact: Path) -> None:
    hand_over.take(checkout / PROJECT, artifact)
    taken = (layout.LOCK, layout.CODE_LOCK, layout.VERDICT, layout.REFUSAL)
    assert changed(checkout) == {str(PROJECT / path) for path in taken}
    assert all((checkout / PROJECT / path).read_text() == "of the job\n" for path in taken)


def test_nothing_that_could_run_is_taken(checkout: Path, artifact: Path) -> None:
    hand_over.take(checkout / PROJECT, artifact)
    before = changed(checkout)
    attacks = (
        "lockstep", ".venv/bin/python", ".git/config", "code.lock", "projects/other/dvc.lock", "projects/router/dvc.yaml",
        "projects/router/kinds/gate/mine.py", "projects/router/reports/.gitattributes", "projects/router/reports/x.dvc",
    )  # fmt: skip
    for path in attacks:
        (artifact / path).parent.mkdir(parents=True, exist_ok=True)
        (artifact / path).write_text("an attack\n")
    config = (checkout / ".git/config").read_text()
    hand_over.take(checkout / PROJECT, artifact)
    assert changed(checkout) == before
    assert (checkout / "lockstep").read_text() == "reviewed\n"
    assert (checkout / ".git/config").read_text() == config


def test_what_the_gates_read_is_taken_and_no_other_output(checkout: Path, artifact: Path) -> None:
    hand_over.take(checkout / PROJECT, artifact)
    before = changed(checkout)
    read = ("data/splits/test.jsonl", "data/predictions/candidate.jsonl", "data/probes.json", "data/learned.jsonl")
    for path in (*read, "data/raw/rows.jsonl", "data/x.py", "models/merged/config.json"):
        (artifact / PROJECT / path).parent.mkdir(parents=True, exist_ok=True)
        (artifact / PROJECT / path).write_text("of the job\n")
    hand_over.take(checkout / PROJECT, artifact)
    assert changed(checkout) - before == {str(PROJECT / path) for path in read}
    link(artifact / PROJECT / "data/splits/valid.jsonl")
    with pytest.raises(EvidenceRefused, match=r"data/splits/valid\.jsonl: is not a regular file of a record"):
        hand_over.take(checkout / PROJECT, artifact)


def link(path: Path) -> None:
    (path.parent / "target").write_text("a secret of the machine\n")
    path.symlink_to("target")


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def linked_folder(path: Path) -> None:
    path.parent.rename(path.parent.with_name("elsewhere"))
    path.parent.symlink_to("elsewhere")
    path.write_text("a secret of the machine\n")


@pytest.mark.parametrize("make", [link, loop, linked_folder, Path.mkdir, os.mkfifo])
def test_a_record_of_other_than_plain_files_is_refused_and_changes_nothing(
    checkout: Path, artifact: Path, make: Callable[[Path], None]
) -> None:
    spoilt = artifact / PROJECT / layout.VERDICT
    spoilt.unlink()
    make(spoilt)
    with pytest.raises(EvidenceRefused, match=r"reports/verdict\.json: is not a regular file of a record"):
        hand_over.take(checkout / PROJECT, artifact)
    assert changed(checkout) == set()


def test_reports_are_taken_by_name_and_nothing_beside_them(checkout: Path, tmp_path: Path) -> None:
    folder = tmp_path / "image"
    folder.mkdir()
    for name in ("image.json", "verdict.json", "code.lock"):
        (folder / name).write_text("of the job\n")
    hand_over.take_reports(checkout / PROJECT, folder, layout.IMAGE_REPORT)
    assert changed(checkout) == {str(PROJECT / layout.IMAGE_REPORT)}
    with pytest.raises(EvidenceRefused, match=r"image/serving\.json: is not a regular file of a record"):
        hand_over.take_reports(checkout / PROJECT, folder, layout.IMAGE_REPORT, layout.SERVING_REPORT)
