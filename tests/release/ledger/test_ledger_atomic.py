"""The ledger is old or new, never between: two at once, a run killed at any call of git, a clone without a remote."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from checks.process.errors import Outrun, PromotionRefused, Refusal
from release.ledger import Ledger, disagreements
from tests import ledger_tree as tree
from tests.effort import EXHAUSTIVE, moments
from tests.git_service import Service
from tests.killed import shimmed
from tests.ledger_tree import PROMOTE, at, git, promote, refs

pytestmark = pytest.mark.slow

nobodys_configuration, work, remote, service, laptop = (
    tree.nobodys_configuration, tree.work, tree.remote, tree.service, tree.laptop,
)  # fmt: skip


# Two at once


def race(first: Path, second: Path, label: str) -> list[str | Refusal]:
    """Two clones move staging at once, each to its own; what came of it."""

    def go(ledger: Ledger, tip: str, name: str) -> str | Refusal:
        try:
            return ledger.commit(tip, tree.change(ledger, tip, "staging", name))
        except Refusal as refusal:
            return refusal

    ledgers = [Ledger.open(root, PROMOTE) for root in (first, second)]
    tips = [ledger.tip() for ledger in ledgers]  # with the tags of that moment, as a verb has them
    with ThreadPoolExecutor(2) as pool:
        return [*pool.map(go, ledgers, tips, (f"{label} of Ada", f"{label} of Bob"))]


def races(work: Path, remote: Path, count: int) -> None:
    other = tree.clone(work.parent / "other", git(work, "remote", "get-url", "origin"), "Bob")
    wins = {"Ada": 0, "Bob": 0}
    for number in range(count):
        ended = race(work, other, str(number))
        made = [each for each in ended if isinstance(each, str)]
        lost = [each for each in ended if isinstance(each, Refusal)]
        assert len(made) == 1, ended
        assert len(lost) == 1, ended
        assert isinstance(lost[0], Outrun)
        winner = ("Ada", "Bob")[ended.index(made[0])]
        wins[winner] += 1
        assert f"{winner} <{winner.lower()}@example.org> committed {made[0][:7]}" in str(lost[0])
        assert f"staging runs v0.{number + 1}.0 (sha256:" in str(lost[0])
        assert refs(remote)["refs/heads/main"] == made[0]
    ledger, tip = tree.opened(work)
    moves = ledger.moves(tip, "staging")
    assert [move.number for move in moves] == [*range(count, 0, -1)]
    assert len(ledger.tags()) == 2 * count
    assert disagreements("router", ledger.tags(), moves) == []
    print(wins)


@pytest.mark.parametrize("way", ["file", "http"])
def test_of_two_at_once_one_wins_and_the_other_is_told_who(work: Path, remote: Path, way: str) -> None:
    with Service(remote.parent) as running:
        if way == "http":
            git(work, "remote", "set-url", "origin", running.address("origin.git"))
        races(work, remote, 200 if EXHAUSTIVE else 8)


def test_a_branch_that_moved_for_another_reason_says_so_too(work: Path, remote: Path) -> None:
    ledger, tip = tree.opened(work)
    wanted = tree.change(ledger, tip, "staging", "A")
    other = tree.clone(work.parent / "other", str(remote), "Bob\x1b[31m")
    tree.keep(other, "Fix \x1b[2Jthe readme", env={"GIT_AUTHOR_NAME": "Bob \x1b[31m"})
    git(other, "push", "--quiet")
    with pytest.raises(Outrun) as refused:
        ledger.commit(tip, wanted)
    assert str(refused.value).isprintable()
    assert "Bob [31m <ada@example.org> committed" in str(refused.value)
    assert "Fix [2Jthe readme; look at" in str(refused.value)


# Without a remote


def test_without_a_remote_the_branch_is_the_ledger_and_the_files_follow(laptop: Path) -> None:
    (laptop / "params.yaml").write_text("a: 2\n")
    (laptop / "staged").write_text("staged")
    git(laptop, "add", "staged")
    made = promote(laptop, "staging", "A")
    assert refs(laptop)["refs/heads/main"] == made
    assert set(refs(laptop)) == {"refs/heads/main", "refs/tags/router@v0.1.0", "refs/tags/router#staging#1"}
    assert b"v0.1.0" in (laptop / at("staging")).read_bytes()
    assert git(laptop, "status", "--porcelain") == "M params.yaml\nA  staged".replace("M", " M", 1)
    promote(laptop, "staging", "B")
    assert b"v0.2.0" in (laptop / at("staging")).read_bytes()


def test_without_a_remote_an_edited_pointer_refuses_before_anything_moves(laptop: Path) -> None:
    made = promote(laptop, "staging", "A")
    (laptop / at("staging")).write_text("mine")
    with pytest.raises(PromotionRefused, match="has edits of files that the move changes"):
        promote(laptop, "staging", "B")
    assert refs(laptop)["refs/heads/main"] == made
    assert (laptop / at("staging")).read_text() == "mine"


def test_without_a_remote_a_killed_run_is_finished_by_the_next(laptop: Path) -> None:
    promote(laptop, "staging", "A")
    shutil.copytree(laptop, laptop.parent / "before")
    made = promote(laptop, "staging", "B")
    for name in (".git/index", str(at("staging"))):  # as it is when the branch was moved and nothing else yet
        shutil.copy2(laptop.parent / "before" / name, laptop / name)
    assert git(laptop, "status", "--porcelain") == f"M  {at('staging')}"
    ledger = Ledger.open(laptop, PROMOTE)
    ledger.settle(ledger.tip())
    assert git(laptop, "status", "--porcelain") == ""
    assert ledger.tip() == made
    assert b"v0.2.0" in (laptop / at("staging")).read_bytes()


def test_without_a_remote_other_branches_and_work_trees_are_as_they_should_be(laptop: Path) -> None:
    git(laptop, "checkout", "--quiet", "-b", "other")
    git(laptop, "worktree", "add", "--quiet", str(laptop.parent / "linked tree"), "main")
    promote(laptop, "staging", "A")
    assert not (laptop / at("staging")).exists()
    assert (laptop.parent / "linked tree" / at("staging")).exists()
    for root in (laptop, laptop.parent / "linked tree"):
        assert git(root, "status", "--porcelain") == ""


def test_without_a_remote_a_work_tree_follows_whatever_its_folder_is_called(tmp_path: Path) -> None:
    tree.begin(tmp_path / "a\n\nb")
    git(tmp_path / "a\n\nb", "checkout", "--quiet", "-b", "other")
    for folder in ("c\nd", "c\nbranch refs/heads/other"):
        git(tmp_path / "a\n\nb", "worktree", "add", "--quiet", "--force", str(tmp_path / folder), "main")
    promote(tmp_path / "a\n\nb", "staging", "A")
    assert not (tmp_path / "a\n\nb" / at("staging")).exists()
    for folder in ("c\nd", "c\nbranch refs/heads/other"):
        assert (tmp_path / folder / at("staging")).exists()


def test_without_a_remote_one_of_two_wins(laptop: Path) -> None:
    for number in range(10):
        ended = race(laptop, laptop, str(number))
        assert [type(each) for each in ended if isinstance(each, Refusal)] == [Outrun], ended
        assert git(laptop, "status", "--porcelain") == ""


# Killed


def write(root: Path, label: str, kill: int = 0, when: str = "") -> int:
    """Move staging in a process of its own; its exit code."""
    return shimmed(root.parent, lambda: promote(root, "staging", label), kill, when)


def kill_everywhere(root: Path, ledger_at: Path, stride: int) -> None:
    assert write(root, "begin") == 0
    points = int((root.parent / "count").read_text())
    assert points > 20
    number = 1
    for point in range(1, points + 1, stride):
        for when in moments(point // stride):
            old = refs(ledger_at)
            if (code := write(root, f"{point} {when}", point, when)) == 0:
                assert int((root.parent / "count").read_text()) < point, "it made fewer calls than the first one"
                number += 1
                continue
            assert code == -9
            now = refs(ledger_at)
            ledger, tip = tree.opened(root)
            moves = ledger.moves(tip, "staging")
            if now != old:
                assert len(set(now) - set(old)) == 2, "the branch moved, and both tags came with it"
                assert now["refs/heads/main"] != old["refs/heads/main"]
                assert len(moves) == number + 1
                number += 1
            assert disagreements("router", ledger.tags(), moves) == []
            if point % (3 * stride) == 1:
                assert write(root, f"{point} {when}, again") == 0
                number += 1


STRIDE = 1 if EXHAUSTIVE else 2  # at every call, or at every other one


def test_killed_at_calls_of_git_the_remote_is_old_or_new(work: Path, remote: Path) -> None:
    kill_everywhere(work, remote, STRIDE)


def test_killed_at_calls_of_git_a_laptop_is_old_or_new(laptop: Path) -> None:
    kill_everywhere(laptop, laptop, STRIDE)
    assert git(laptop, "status", "--porcelain") == "" or write(laptop, "last") == 0
    assert git(laptop, "status", "--porcelain") == ""


def test_a_killed_run_leaves_nothing_in_the_clone_but_objects(work: Path) -> None:
    write(work, "A")
    before = {path for path in work.rglob("*") if "objects" not in path.parts}
    for point in (8, 20):
        assert write(work, f"{point}", point, "before") == -9
    assert {path for path in work.rglob("*") if "objects" not in path.parts} == before
