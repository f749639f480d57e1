"""A base is replaced under three adapters by one commit, each judged again, or nothing moves; one commit takes it back."""

import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from checks.formats import pointer
from checks.formats.pointer import Pointer
from checks.formats.serving import LoadedAdapter, Neighbours
from checks.process.errors import Outrun, PromotionRefused, Refusal
from checks.storage import layout
from release.cli import main
from release.promotion import move_commit
from release.verbs.history import history
from release.verbs.promote import promote_together
from release.verbs.rollback import rollback_together
from release.verbs.status import status
from tests import promotion_tree as tree
from tests.adapters_tree import KNOBS, STAGING, Begin, changed, rebased, released, served
from tests.ledger_tree import git, keep
from tests.promotion_tree import gaps, move

pytestmark = pytest.mark.slow

alone = tree.alone
WHY = "CVE-2026-1 in the base"


def runs(top: Path) -> dict[str, Pointer]:
    return {name: pointer.parse((top / name / STAGING / layout.POINTER).read_bytes(), name) for name in KNOBS}


def bases(top: Path) -> set[str | None]:
    (state,) = status(top / "support").environments
    assert state.wrong == []
    return {adapter.base for adapter in state.adapters}


def refused(top: Path) -> str:
    with pytest.raises(Refusal) as found:
        promote_together(top / "support", "staging", why=WHY)
    return "\n".join([str(found.value), *found.value.others])


def test_a_base_moves_under_all_adapters_by_one_commit_and_returns_by_one(begin: Begin) -> None:
    top = begin("all on another base")
    old_bases, old_names, old = bases(top), served(top), runs(top)
    # One adapter alone cannot leave the base of the others.
    assert "support v0.1.0 is sha256" in gaps(top / "router", "staging")
    assert "router v0.1.0: its base is" in gaps(top / "support", "staging")

    start = git(top, "rev-parse", "HEAD")
    done = promote_together(top / "support", "staging", why=WHY)
    for one in done.moves.values():
        assert (one.done, one.after and one.after.version) == ("moved", "v0.2.0")
    assert all({check.about for check in one.checks} >= {"verdict", "serving"} for one in done.moves.values())
    assert git(top, "rev-list", "--count", f"{start}..HEAD") == "1"
    assert git(top, "show", "--no-patch", "--format=%s") == "promote staging of support to v0.2.0 and 2 more"
    assert {path.split("/")[0] for path in changed(top, start)} == set(KNOBS)
    assert {name: one.commit for name, one in done.moves.items()} == dict.fromkeys(KNOBS, git(top, "rev-parse", "HEAD"))
    new_bases = bases(top)
    assert len(new_bases) == len(old_bases) == 1
    assert new_bases != old_bases
    for name in KNOBS:
        (last, *_) = history(top / name).environments["staging"]
        assert (last.kind, last.why, last.problem) == ("promote", WHY, "")
        tags = git(top, "tag", "--points-at", "HEAD").splitlines()
        assert f"{name}={name}#staging#2" in tags

    back = rollback_together(top / "support", "staging", why="slower")
    assert git(top, "rev-list", "--count", f"{start}..HEAD") == "2"
    assert {name: one.done for name, one in back.moves.items()} == dict.fromkeys(KNOBS, "moved")
    assert (bases(top), served(top), runs(top)) == (old_bases, old_names, old)
    for name in KNOBS:
        (last, *_) = history(top / name).environments["staging"]
        assert (last.kind, last.why, last.problem) == ("rollback", "slower", "")
        assert "in quarantine" in gaps(top / name, "staging")


def test_nothing_moves_if_one_adapter_was_not_made_on_the_new_base(top: Path, place: str) -> None:
    before = runs(top)
    rebased(top, place, "support", "router")
    start = git(top, "rev-parse", "HEAD")
    text = refused(top)
    assert re.search(r"support: writer v0.1.0: its base is sha256:\w+, that of support v0.2.0 is sha256", text)
    assert "or move all to another base: docs/how-to/adapter.md" in text
    shown = CliRunner().invoke(main, ["-C", str(top / "support"), "promote", "staging", "--adapters", "--dry-run"])
    assert shown.exit_code == PromotionRefused.exit_code
    assert re.search(r"^router:\n(.*\n)+.*staging would run v0.2.0", shown.stdout, re.MULTILINE)
    assert (runs(top), git(top, "rev-parse", "HEAD")) == (before, start)


def test_nothing_moves_if_one_release_fails_a_check_and_the_line_names_its_project(begin: Begin, place: str) -> None:
    top = begin("all on another base")
    before = runs(top)
    path = top / "writer" / layout.VERDICT
    path.write_text(path.read_text().replace('"pass"', '"fail"', 1))
    keep(top, "a verdict by hand")
    lines = refused(top).splitlines()
    assert lines[0].startswith("nothing moves: writer: ")
    assert all(line.startswith("writer: ") for line in lines[1:])
    assert runs(top) == before


def test_two_adapters_move_together_on_the_base_that_runs(begin: Begin) -> None:
    top = begin("router and writer released")
    start = git(top, "rev-parse", "HEAD")
    done = promote_together(top / "support", "staging", why="both")
    assert list(done.moves) == ["router", "writer"]
    assert {path.split("/")[0] for path in changed(top, start)} == {"router", "writer"}
    with pytest.raises(PromotionRefused, match="all projects run their images in staging already"):
        promote_together(top / "support", "staging")
    with pytest.raises(PromotionRefused, match="--adapters: staging lists no adapter of another project"):
        promote_together(top / "router", "staging")
    back = rollback_together(top / "support", "staging", why="worse")
    assert list(back.moves) == ["router", "writer"]
    assert {release.version for release in runs(top).values()} == {"v0.1.0"}
    with pytest.raises(Refusal, match=r"nothing moves: router: v0\.2\.0 is in quarantine"):
        rollback_together(top / "support", "staging", why="again")


def planned_beside(top: Path, name: str, releases: dict[str, Pointer]) -> Neighbours:
    others = tuple(
        LoadedAdapter(project=other, version=release.version, model=release.model, probes=release.model)
        for other, release in releases.items() if other != name
    )  # fmt: skip
    return Neighbours(environment="staging", server="support", adapters=others)


def test_each_release_must_be_verified_beside_those_that_move_with_it(begin: Begin, place: str) -> None:
    top = begin("all on another base")
    plan = promote_together(top / "support", "staging", why=WHY, dry_run=True)
    after = {name: one.after for name, one in plan.moves.items() if one.after}
    for name in KNOBS:
        tree.rewrite(
            top / name, layout.PARAMS,
            lambda plain: plain["promote"]["environments"]["staging"].update(served_as_verified=True),
        )  # fmt: skip
    text = refused(top)
    for name in KNOBS:
        assert f"{name}: it was not verified beside the other adapters on its server" in text
    for seed, name in enumerate(KNOBS, 20):
        released(top / name, place, seed, base=2, beside=planned_beside(top, name, after))
    done = promote_together(top / "support", "staging", why=WHY)
    notes = [check.note for one in done.moves.values() for check in one.checks if check.about == "serving"]
    assert [note.endswith("; verified beside the adapters that run") for note in notes] == [True] * 3


def test_two_people_move_two_adapters_at_once_and_the_second_asks_again(
    begin: Begin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has a clone. The second move was decided beside an adapter that has moved, so it is decided again."""
    top = begin("router and writer released")
    keep(top, "what building left")
    git(tmp_path, "init", "--quiet", "--bare", "--initial-branch=main", "origin.git")
    git(top, "remote", "add", "origin", str(tmp_path / "origin.git"))
    git(top, "push", "--quiet", "--set-upstream", "origin", "main")
    proposed = promote_together(top / "support", "staging", why="both", pr=True)
    assert {name: one.done for name, one in proposed.moves.items()} == {"router": "proposed", "writer": "proposed"}
    branch = "lockstep/support/staging-v0.2.0"
    paths = git(tmp_path / "origin.git", "diff", "--name-only", "main", branch).splitlines()
    assert {path.split("/")[0] for path in paths} == {"router", "writer"}
    other = tree.copy(top, tmp_path / "other")
    commit = move_commit.commit

    def overtaken(*decided: Any) -> Any:
        monkeypatch.setattr(move_commit, "commit", commit)
        assert move(other / "writer", "staging").done == "moved"
        return commit(*decided)

    monkeypatch.setattr(move_commit, "commit", overtaken)
    with pytest.raises(Outrun):
        move(top / "router", "staging")
    assert move(top / "router", "staging").done == "moved"
    git(top, "pull", "--quiet")
    moved = [git(top, "diff", "--name-only", f"{name}~1", name).splitlines() for name in ("HEAD~1", "HEAD")]
    assert [{path.split("/")[0] for path in paths} for paths in moved] == [{"writer"}, {"router"}]
    assert {name: release.version for name, release in runs(top).items()} == {
        "support": "v0.1.0", "router": "v0.2.0", "writer": "v0.2.0",
    }  # fmt: skip
    assert len(bases(top)) == 1
