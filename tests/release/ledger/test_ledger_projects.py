"""Two projects in one repository: their moves, tags and checkpoints are apart, and neither waits for the other."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from checks.process.errors import Outrun
from checks.storage import layout
from release.ledger import Change, Ledger, compose_release, disagreements
from tests import ledger_tree as tree
from tests.ledger_tree import PROMOTE, change, git, keep, opened, promote, refs

nobodys_configuration, work, remote = tree.nobodys_configuration, tree.work, tree.remote
ROUTER, SUMMARY = Path("projects/router"), Path("projects/summary")


@pytest.fixture
def two(work: Path) -> Path:
    """The clone with both projects, pushed."""
    for folder in (ROUTER, SUMMARY):
        (work / folder).mkdir(parents=True)
        for name in (layout.PARAMS, layout.PIPELINE):
            (work / folder / name).write_text("{}\n")
    keep(work, "two projects")
    git(work, "push", "--quiet", "origin", "main")
    return work


def moved(root: Path) -> list[str | None]:
    ledger, tip = opened(root)
    return [move.after.version if move.after else None for move in ledger.moves(tip, "staging")]


@pytest.mark.parametrize("way", ["remote", "laptop"])
def test_two_projects_move_at_the_same_time_and_both_moves_land(two: Path, remote: Path, way: str) -> None:
    other = tree.clone(two.parent / "other", str(remote), "Bob") if way == "remote" else two
    if way == "laptop":
        git(two, "remote", "remove", "origin")
    ledger, tip = opened(two / ROUTER)
    wanted = change(ledger, tip, "staging", "A")
    promote(other / SUMMARY, "staging", "B")
    made = ledger.commit(tip, wanted)
    assert git(two, "log", "-1", "--format=%an", f"{made}~1") == ("Bob" if way == "remote" else "Ada")
    assert (moved(two / ROUTER), moved(two / SUMMARY)) == (["v0.1.0"], ["v0.1.0"])
    home = remote if way == "remote" else two
    assert {name for name in refs(home) if "tags" in name} == {
        "refs/tags/projects/router=router@v0.1.0",
        "refs/tags/projects/router=router#staging#1",
        "refs/tags/projects/summary=router@v0.1.0",
        "refs/tags/projects/summary=router#staging#1",
    }
    for folder in (ROUTER, SUMMARY):
        ledger, tip = opened(two / folder)
        assert disagreements(f"{folder}=router", ledger.tags(), ledger.moves(tip, "staging")) == []


@pytest.mark.parametrize(("first", "second"), [(".", SUMMARY), (SUMMARY, ".")])
def test_a_project_at_the_git_root_moves_at_the_same_time_as_another(
    two: Path, remote: Path, first: str, second: str
) -> None:
    for name in (layout.PARAMS, layout.PIPELINE):
        (two / name).write_text("{}\n")
    keep(two, "a project at the git root")
    git(two, "push", "--quiet", "origin", "main")
    ledger, tip = opened(two / first)
    wanted = change(ledger, tip, "staging", "A")
    promote(tree.clone(two.parent / "other", str(remote), "Bob") / second, "staging", "B")
    ledger.commit(tip, wanted)
    assert (moved(two), moved(two / SUMMARY)) == (["v0.1.0"], ["v0.1.0"])


@pytest.mark.parametrize("path", ["release/policy/signers.yaml", "projects/router/params.yaml"])
def test_a_move_is_outrun_by_a_change_of_its_project_or_of_a_shared_file(two: Path, remote: Path, path: str) -> None:
    ledger, tip = opened(two / ROUTER)
    wanted = change(ledger, tip, "staging", "A")
    other = tree.clone(two.parent / "other", str(remote), "Bob")
    (other / path).parent.mkdir(parents=True, exist_ok=True)
    (other / path).write_text("[]\n")
    keep(other, "what the move was decided on")
    git(other, "push", "--quiet")
    with pytest.raises(Outrun, match="was moved by somebody else first"):
        ledger.commit(tip, wanted)
    assert moved(two / ROUTER) == []


def test_a_release_from_quarantine_is_outrun_because_it_names_its_commit(two: Path, remote: Path) -> None:
    ledger, tip = opened(two / ROUTER)
    promote(tree.clone(two.parent / "other", str(remote), "Bob") / SUMMARY, "staging", "B")
    message = compose_release([tree.sha("A")], "A", tip, "it was right", None)
    with pytest.raises(Outrun):
        ledger.commit(tip, Change({layout.QUARANTINE: b"[]\n"}, message))


def test_each_project_has_its_own_checkpoint(two: Path, remote: Path) -> None:
    ledgers = [Ledger.open(two / folder, PROMOTE) for folder in (ROUTER, SUMMARY)]
    for ledger, signed in zip(ledgers, (b"of router", b"of summary"), strict=True):
        assert ledger.checkpoint() is None
        ledger.add_checkpoint(ledger.tip(), signed, "a checkpoint\n")
    ledgers[1].add_checkpoint(ledgers[1].tip(), b"again", "a checkpoint\n")
    assert [ledger.checkpoint() for ledger in ledgers] == [(b"of router", 1), (b"again", 2)]


def test_gto_reads_the_tags_of_projects(two: Path, remote: Path) -> None:
    promote(two / ROUTER, "staging", "A")
    clone = tree.clone(two.parent / "clone", str(remote), "Bob")
    command = [str(Path(sys.executable).parent / "gto"), "show", "projects/router:router#staging", "--json"]
    shown = json.loads(subprocess.run(command, cwd=clone, capture_output=True, text=True, check=True).stdout)
    assert [version["version"] for version in shown] == ["v0.1.0"]
