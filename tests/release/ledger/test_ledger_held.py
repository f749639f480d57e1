"""What is in quarantine is decided by the history of its file: nothing but a release that Lockstep made frees a digest."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from checks.formats import quarantine
from checks.formats.quarantine import Entries, Entry
from checks.storage import layout
from release.ledger import Change, Counts, Held, Ledger, Release, compose_release
from tests import ledger_tree as tree
from tests.ledger_tree import PROMOTE, git, keep

pytestmark = pytest.mark.slow

nobodys_configuration, laptop = tree.nobodys_configuration, tree.laptop
ONE = Entry(image=tree.sha("i"), model=tree.sha("m"), version="v0.1.0", by="Ada <a@b>", why="answers in French")
TWO = Entry(image=tree.sha("j"), model=tree.sha("n"), version="v0.2.0", by="Ada <a@b>", why="answers in Dutch")
PATH = layout.QUARANTINE


def held(root: Path, counts: Counts | None = None) -> Held:
    return Ledger.open(root, PROMOTE).quarantine(git(root, "rev-parse", "HEAD"), counts)


def put(root: Path, *entries: Entry, message: str = "by hand") -> str:
    """The file has these entries from now on, by a commit of anybody."""
    (root / PATH).parent.mkdir(parents=True, exist_ok=True)
    (root / PATH).write_bytes(quarantine.write(entries))
    return keep(root, message)


def release(root: Path, *entries: Entry, left: Entries = (), signed: bytes | None = None) -> str:
    """As Lockstep releases."""
    ledger, tip = tree.opened(root)
    message = compose_release([each.image for each in entries], "v0", tip, "a joke", signed)
    return ledger.commit(tip, Change({PATH: quarantine.write(left)}, message))


def test_what_nobody_held_back_is_free(laptop: Path) -> None:
    assert held(laptop) == Held((), (), None)


def test_an_entry_counts_from_the_commit_that_added_it_whoever_made_that(laptop: Path) -> None:
    put(laptop, ONE)
    put(laptop, ONE, TWO)
    assert held(laptop) == Held((ONE, TWO), (), None)


def test_a_release_frees_what_it_names_until_that_is_held_again(laptop: Path) -> None:
    put(laptop, ONE, TWO)
    release(laptop, ONE, left=(TWO,))
    assert held(laptop) == Held((TWO,), (), None)
    put(laptop, TWO, ONE)
    assert held(laptop).entries == (TWO, ONE)
    release(laptop, TWO, ONE)
    assert held(laptop) == Held((), (), None)


def test_a_release_that_was_pulled_in_by_a_merge_counts(laptop: Path) -> None:
    put(laptop, ONE)
    git(laptop, "branch", "mine")
    release(laptop, ONE)
    git(laptop, "checkout", "--quiet", "mine")
    (laptop / "notes.md").write_text("x")
    keep(laptop, "notes")
    git(laptop, "merge", "--quiet", "-m", "pull", "main")
    assert held(laptop) == Held((), (), None)


def test_an_entry_that_a_proposal_added_and_took_back_is_held(laptop: Path) -> None:
    """Whoever merges it can release it; nobody can tell it from an entry that was on the branch."""
    git(laptop, "checkout", "--quiet", "-b", "side")
    put(laptop, ONE)
    git(laptop, "revert", "--no-edit", "HEAD")
    git(laptop, "checkout", "--quiet", "main")
    git(laptop, "merge", "--quiet", "--no-ff", "-m", "merge", "side")
    assert held(laptop).entries == (ONE,)


class Attack(NamedTuple):
    """What somebody does once ONE and TWO are held back, and what is said of ONE then."""

    do: Callable[[Path], object]
    said: str


def reverted(root: Path) -> None:
    git(root, "revert", "--no-edit", "HEAD")


def gone(root: Path) -> None:
    git(root, "rm", "--quiet", str(PATH))
    keep(root, "tidy up")


def merged(root: Path) -> None:
    git(root, "checkout", "--quiet", "-b", "side")
    put(root, TWO)
    git(root, "checkout", "--quiet", "main")
    (root / "notes.md").write_text("x")
    keep(root, "notes")
    git(root, "merge", "--quiet", "--no-ff", "-m", "a merge", "side")


def smuggled(root: Path) -> None:
    """The merge itself takes the entry out; neither side did."""
    git(root, "checkout", "--quiet", "-b", "side")
    keep(root, "notes")
    git(root, "checkout", "--quiet", "main")
    git(root, "merge", "--quiet", "--no-ff", "--no-commit", "side")
    put(root, TWO, message="a merge")


def message(root: Path, *images: str, parent: str | None = None) -> str:
    return compose_release(images, "v0.1.0", parent or git(root, "rev-parse", "HEAD"), "a joke", None)


def picked(root: Path) -> None:
    """It was released, and held back again: the old release is applied once more."""
    made = release(root, ONE, left=(TWO,))
    put(root, TWO, ONE)
    git(root, "cherry-pick", made)


def hidden(root: Path) -> None:
    """A commit makes the file unreadable, the next one readable, without the entry."""
    (root / PATH).write_text("- image: x\n")
    keep(root, "typo")
    put(root, TWO)


ATTACKS = {
    "the entry is taken out": Attack(lambda root: put(root, TWO), "removed or changed it"),
    "the commit is reverted": Attack(reverted, "removed or changed it"),
    "the file is emptied": Attack(put, "removed or changed it"),
    "the file is gone": Attack(gone, "removed or changed it"),
    "the weights are taken out": Attack(lambda root: put(root, ONE.model_copy(update={"model": None}), TWO), "changed it"),
    "another image is named": Attack(lambda root: put(root, ONE.model_copy(update={"image": tree.sha("z")}), TWO), "changed it"),
    "a branch is merged": Attack(merged, "removed or changed it"),
    "a merge takes it out": Attack(smuggled, "removed or changed it"),
    "a file that cannot be read": Attack(hidden, "made the file unreadable"),
    "a release is picked": Attack(picked, "removed or changed it"),
    "a release of another parent": Attack(lambda root: put(root, TWO, message=message(root, ONE.image, parent="1" * 40)), "removed"),
    "a release of another image": Attack(lambda root: put(root, TWO, message=message(root, tree.sha("z"))), "removed"),
    "a release of more than it names": Attack(lambda root: put(root, message=message(root, TWO.image)), "removed"),
    "a release that adds something": Attack(
        lambda root: put(root, TWO, ONE.model_copy(update={"image": tree.sha("z")}), message=message(root, ONE.image)), "removed"
    ),
    "a subject alone": Attack(lambda root: put(root, TWO, message="release v0.1.0 from quarantine\n\nso"), "removed"),
    "trailers before the end": Attack(lambda root: put(root, TWO, message=message(root, ONE.image) + "\n\nbye"), "removed"),
}  # fmt: skip


@pytest.mark.parametrize("name", ATTACKS)
def test_nothing_else_frees_an_entry_and_what_was_done_is_reported(laptop: Path, name: str) -> None:
    put(laptop, TWO)
    put(laptop, TWO, ONE)
    ATTACKS[name].do(laptop)
    found = held(laptop)
    assert quarantine.find(found.entries, ONE.image, "") is not None
    assert quarantine.find(found.entries, "", tree.sha("m")) is not None
    told = {entry.image: became for entry, became in found.gone}
    assert ATTACKS[name].said in told[ONE.image]
    assert "by Ada <ada@example.org>" in told[ONE.image]
    assert found.unreadable is None
    put(laptop, *found.entries)
    assert held(laptop).gone == ()


def test_a_file_that_cannot_be_read_now_says_so_and_frees_nothing(laptop: Path) -> None:
    put(laptop, ONE)
    (laptop / PATH).write_text("- image: x\n")
    keep(laptop, "typo")
    found = held(laptop)
    assert found.entries == (ONE,)
    assert "quarantine.yaml at" in str(found.unreadable)
    (laptop / PATH).unlink()
    (laptop / PATH).symlink_to("/etc/hostname")
    keep(laptop, "a link")
    assert "is not a regular file" in str(held(laptop).unreadable)


def test_a_release_that_does_not_count_frees_nothing(laptop: Path) -> None:
    put(laptop, ONE)
    made = release(laptop, ONE, signed=b"word")
    seen = list[Release]()

    def counts(release: Release) -> str:
        seen.append(release)
        return "nobody knows who signed it"

    found = held(laptop, counts)
    assert (seen[0].commit, seen[0].signed, seen[0].entries, seen[0].why) == (made, b"word", (ONE,), "a joke")
    assert found.entries == (ONE,)
    assert "which does not count: nobody knows who signed it" in found.gone[0][1]
    assert held(laptop).entries == ()


def test_a_long_history_is_read_at_once(laptop: Path) -> None:
    """Two processes, however long it is."""
    for number in range(60):
        put(laptop, *((ONE, TWO) if number % 2 else (ONE,)))
    began = time.perf_counter()
    assert held(laptop).entries == (ONE, TWO)
    assert time.perf_counter() - began < 1
