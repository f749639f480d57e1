"""What other people merge while a move is decided: it is decided anew on what the branch has then."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from checks.process.errors import Outrun, PromotionRefused
from checks.storage import layout
from release.promotion import context, move_commit
from release.verbs.rollback import rollback
from tests import ledger_tree
from tests import promotion_tree as tree
from tests.conftest import read_yaml, written
from tests.ledger_tree import git
from tests.promotion_tree import move

pytestmark = pytest.mark.slow

alone = tree.alone
root = tree.root
trio = tree.trio
Merge = Callable[[Callable[[Path], object]], Path]


@pytest.fixture
def merge(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Merge:
    """Let somebody else push a change to main before each of the next moves is committed; return their clone."""
    ledger_tree.bare(tmp_path / "origin.git", root)
    other = ledger_tree.clone(tmp_path / "other", str(tmp_path / "origin.git"), "Bob")

    def begin(change: Callable[[Path], object]) -> Path:
        def overtaken(*arguments: Any, commit: Callable[..., Any] = move_commit.commit) -> Any:
            if change(other):
                git(other, "pull", "--quiet", "--rebase")
                git(other, "push", "--quiet")
            return commit(*arguments)

        monkeypatch.setattr(move_commit, "commit", overtaken)
        return other

    return begin


def _readme(clone: Path) -> object:
    """Correct a typo, once."""
    path = clone / "README.md"
    if path.exists():
        return None
    path.write_text("# Router\n")
    return ledger_tree.keep(clone, "a typo")


def test_a_merge_while_a_move_is_decided_does_not_stop_it(root: Path, merge: Merge) -> None:
    other = merge(_readme)
    assert move(root, "production").done == "moved"
    git(other, "pull", "--quiet")
    assert git(other, "log", "--format=%s", "-2").splitlines()[1] == "a typo"
    (other / "README.md").unlink()
    assert rollback(root, "production", why="answers in French").done == "moved"
    git(other, "pull", "--quiet", "--rebase")
    assert git(other, "log", "--format=%s", "-2").splitlines()[1] == "a typo"


def test_what_is_merged_decides_too(root: Path, merge: Merge) -> None:
    def ask_for_approval(clone: Path) -> object:
        document = read_yaml((clone / layout.PARAMS).read_text())
        if document["promote"]["environments"]["production"].get("approvals"):
            return None
        document["promote"]["environments"]["production"]["approvals"] = 1
        (clone / layout.PARAMS).write_text(written(document))
        return ledger_tree.keep(clone, "production is approved")

    merge(ask_for_approval)
    before = context.find(root).runs("production")
    with pytest.raises(PromotionRefused, match="approve"):
        move(root, "production")
    assert context.find(root).runs("production") == before


def test_a_branch_that_always_moves_is_an_outrun_in_the_end(root: Path, merge: Merge) -> None:
    tries = list[str]()

    def edit(clone: Path) -> object:
        (clone / "README.md").write_text(f"# {len(tries)}\n")
        tries.append("edit")
        return ledger_tree.keep(clone, "another edit")

    merge(edit)
    with pytest.raises(Outrun, match=r"main of origin was moved by somebody else first: .*: another edit"):
        move(root, "production")
    assert len(tries) == 5
