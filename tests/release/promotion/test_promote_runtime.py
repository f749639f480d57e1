"""A promotion of an image for a server of the team's own: its file is policy of the target branch."""

from pathlib import Path
from typing import Any

import pytest

from checks.storage import layout
from release import runtimes
from release.overlay import overlays
from release.record.records import Records
from release.runtimes import lookup
from release.verbs.build import BuildOptions, build
from release.verbs.status import status
from tests import promotion_tree as tree
from tests import team_runtime
from tests.ledger_tree import git, keep
from tests.promotion_tree import Release, move
from tests.team_runtime import FILE, NAME

pytestmark = pytest.mark.slow

alone = tree.alone
HIDDEN = team_runtime.text().replace("[acme-serve]", "[acme-serve, --log-prompts]")


def of_team(plain: dict[str, Any]) -> None:
    plain["serve"] |= {"runtime": NAME, "dtype": "fp32"}
    for rules in plain["promote"]["environments"].values():
        rules["runtimes"] = [NAME]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A clone on main with the team's file, before anything is built."""
    tree.prepare(tmp_path / "work", of_team)
    team_runtime.write(tmp_path / "work")
    keep(tmp_path / "work", "a server of our own")
    return tmp_path / "work"


def release(root: Path) -> Release:
    report = build(root, BuildOptions())
    tree.served(root, report, runtime=NAME)
    return Release(f"{report.place}@{report.image}", report, tree.signed(root, report))


def test_it_is_promoted_and_status_finds_what_the_promotion_wrote(root: Path) -> None:
    release(root)
    move(root, "staging")
    move(root, "production")
    team_runtime.write(root, team_runtime.text().replace("shm_mb: 64", "shm_mb: 128"))
    keep(root, "more room for the next image")
    assert status(root).contradictions == ()


def test_the_cluster_starts_it_by_its_own_settings(root: Path) -> None:
    made = release(root)
    pointer = move(root, "staging").after
    assert pointer is not None
    runtime = lookup.at(root, made.report.commit, NAME)
    place = pointer.image.partition("@")[2]
    pulled = pointer.model_copy(update={"image": f"registry.example/team/acme@{place}"})
    serve = Records(root).at(made.report.commit).serve
    files = overlays.render("staging", pulled, made.report, runtime, serve)
    patch = files[layout.ENVIRONMENTS / "staging" / overlays.SERVER].decode()
    assert "path: /health" in patch
    assert "containerPort: 8000" in patch


def test_a_file_that_only_an_unreviewed_commit_has_is_refused(root: Path) -> None:
    """A branch builds by another file and takes it back before it is merged: no owner of main saw it."""
    git(root, "switch", "--quiet", "--create", "proposed")
    team_runtime.write(root, HIDDEN)
    keep(root, "a quick test")
    made = release(root)
    assert made.report.commit == git(root, "rev-parse", "HEAD")
    team_runtime.write(root)
    keep(root, "take it back")
    git(root, "switch", "--quiet", "main")
    git(root, "merge", "--quiet", "--no-ff", "-m", "merge proposed", "proposed")
    said = tree.gaps(root, "staging")
    assert f"{FILE} at {made.report.commit[:12]}: is not what main has or once had" in said


def test_an_image_by_a_file_that_main_had_before_is_promoted(root: Path) -> None:
    release(root)
    team_runtime.write(root, team_runtime.text().replace("concurrency: 4", "concurrency: 8"))
    keep(root, "for later images")
    assert move(root, "staging").after is not None


def test_an_image_that_was_composed_by_another_file_is_refused(root: Path) -> None:
    """Whoever builds has changed Lockstep: the label has the digest of the reviewed file, the command is another."""
    with pytest.MonkeyPatch.context() as patch:
        real = lookup.here
        patch.setattr(lookup, "here", lambda root, name: _hidden(real(root, name)))
        release(root)
    said = tree.gaps(root, "staging")
    assert "config Entrypoint is" in said
    assert "a build gives" in said


def test_a_file_with_a_shipped_name_is_refused_even_if_somebody_built_by_it(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release(root)
    (tmp_path / "shipped").mkdir()
    (tmp_path / "shipped" / f"{NAME}.yaml").write_text(team_runtime.text())
    monkeypatch.setattr(runtimes, "FOLDER", tmp_path / "shipped")
    assert f"{FILE}: Lockstep ships a runtime of this name" in tree.gaps(root, "staging")


def _hidden(runtime: Any) -> Any:
    return runtime.model_copy(update={"entrypoint": ("acme-serve", "--log-prompts")})
