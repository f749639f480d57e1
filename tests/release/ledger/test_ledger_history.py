"""Every move is told, whoever made it and whichever way it came in; what cannot be believed is said so."""

import itertools
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from checks.formats import pointer
from checks.formats.pointer import Pointer
from checks.process.errors import EvidenceRefused, PromotionRefused
from release.ledger import Ledger, Move, TagRef, compose, message, next_version
from tests import ledger_tree as tree
from tests.ledger_tree import PROMOTE, at, git, keep, promote, target

pytestmark = pytest.mark.slow

nobodys_configuration, laptop = tree.nobodys_configuration, tree.laptop
NOW = int(time.time())
HOUR = 3600


def put(root: Path, label: str, environment: str = "staging") -> None:
    """Write the pointer to what ``label`` names, in the work tree."""
    path = root / at(environment)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pointer.write(target(label, "1" * 40)))


def by_hand(root: Path, label: str, when: int | None = None, text: str = "by hand") -> str:
    """Commit a pointer; ``when`` is its date."""
    put(root, label)
    return keep(root, text, dated(when) if when is not None else None)


def dated(when: int) -> dict[str, str]:
    return {"GIT_COMMITTER_DATE": f"{when} +0000", "GIT_AUTHOR_DATE": f"{when} +0000"}


def told(root: Path, environment: str = "staging") -> list[Move]:
    """The moves up to HEAD, the first first; the invariants of every history hold."""
    ledger = Ledger.open(root, PROMOTE)
    tip = git(root, "rev-parse", "HEAD")
    moves = [*reversed(ledger.moves(tip, environment))]
    assert [move.number for move in moves] == [*range(1, len(moves) + 1)]
    assert all(one.after == other.before for one, other in itertools.pairwise(moves))
    assert all(one.at <= other.at for one, other in itertools.pairwise(moves))
    if moves and "cannot" not in moves[-1].problem and "is not" not in moves[-1].problem:
        assert moves[-1].after == ledger.pointer(tip, environment)
    return moves


def route(root: Path) -> str:
    """The models that staging ran, as a word: A, then B: "AB"; "-" for none."""
    names = {target(label, "1" * 40).digest: label for label in "ABCDEXYZ"}
    return "".join(names[move.after.digest] if move.after else "-" for move in told(root))


def since(root: Path) -> float:
    found = Ledger.open(root, PROMOTE).since(git(root, "rev-parse", "HEAD"), "staging")
    assert found is not None
    return found.timestamp()


# What is told


def test_a_move_says_who_when_from_to_and_why(laptop: Path) -> None:
    promote(laptop, "staging", "A")
    ledger, tip = tree.opened(laptop)
    wanted = tree.change(ledger, tip, "staging", "B", "fewer\nwrong\tanswers  on rare services")
    made = ledger.commit(tip, wanted)
    first, last = told(laptop)
    assert (last.number, last.kind, last.by, last.commit, last.landed) == (
        2,
        "promote",
        "Ada <ada@example.org>",
        made,
        made,
    )
    assert last.why == "fewer wrong answers on rare services"
    assert last.before == first.after
    assert last.after == ledger.pointer(made, "staging")
    assert last.at.timestamp() == int(git(laptop, "show", "-s", "--format=%ct", made))
    assert (last.problem, last.doubt) == ("", "")
    assert first.before is None


def test_an_environment_that_never_moved_has_no_history(laptop: Path) -> None:
    assert told(laptop, "production") == []
    assert Ledger.open(laptop, PROMOTE).since(git(laptop, "rev-parse", "HEAD"), "production") is None


def test_a_move_by_hand_is_told_as_one(laptop: Path) -> None:
    promote(laptop, "staging", "A")
    by_hand(laptop, "B", text="Quick fix\n\nno time")
    (laptop / at("staging")).unlink()
    keep(laptop, "Take it away")
    moves = told(laptop)
    assert [move.kind for move in moves] == ["promote", "other", "other"]
    assert [move.why for move in moves[1:]] == ["no time", "Take it away"]
    assert moves[2].after is None
    assert Ledger.open(laptop, PROMOTE).since(git(laptop, "rev-parse", "HEAD"), "staging") is None


def test_a_pointer_that_cannot_be_read_is_a_problem_of_its_move_alone(laptop: Path) -> None:
    promote(laptop, "staging", "A")
    (laptop / at("staging")).write_text("model: x\n")
    broken = keep(laptop, "broken")
    ledger = Ledger.open(laptop, PROMOTE)
    with pytest.raises(EvidenceRefused, match="is not the lines model, commit, version, image, evidence"):
        ledger.since(broken, "staging")
    by_hand(laptop, "B")
    moves = told(laptop)
    assert [bool(move.problem) for move in moves] == [False, True, False]
    assert "is not the lines model" in moves[1].problem
    assert moves[1].after is None


def test_a_commit_that_moves_two_environments_is_a_move_of_each(laptop: Path) -> None:
    put(laptop, "A", "production")
    made = by_hand(laptop, "A")
    assert [move.commit for name in PROMOTE.environments for move in told(laptop, name)] == [made, made]


# Merges


def side(root: Path, *labels: str, start: str = "HEAD") -> None:
    """A branch with these moves, checked out."""
    git(root, "checkout", "--quiet", "-B", "side", start)
    for label in labels:
        by_hand(root, label)


def merge(root: Path, *options: str, text: str = "a merge") -> str:
    """Merge side into main."""
    git(root, "checkout", "--quiet", "main")
    git(root, "merge", "--quiet", "--no-ff", *options, "-m", text, "side")
    return git(root, "rev-parse", "HEAD")


def test_a_move_that_was_merged_is_told_as_of_the_merge(laptop: Path) -> None:
    by_hand(laptop, "A", NOW - 9 * HOUR)
    git(laptop, "checkout", "--quiet", "-b", "side")
    moved = by_hand(laptop, "B", NOW - 8 * HOUR, text="Better")
    git(laptop, "checkout", "--quiet", "main")
    landed = merge(laptop)
    assert route(laptop) == "AB"
    last = told(laptop)[-1]
    assert (last.commit, last.landed, last.why) == (moved, landed, "Better")
    assert since(laptop) >= NOW


def test_the_first_move_of_all_may_come_by_a_merge(laptop: Path) -> None:
    git(laptop, "checkout", "--quiet", "-b", "side")
    by_hand(laptop, "A", NOW - 8 * HOUR)
    merge(laptop)
    assert route(laptop) == "A"
    assert since(laptop) >= NOW


def test_moves_that_cancel_out_in_a_side_branch_are_told(laptop: Path) -> None:
    by_hand(laptop, "A")
    side(laptop, "X", "A")
    merge(laptop)
    assert route(laptop) == "AXA"


def test_moves_in_a_side_branch_of_a_side_branch_are_told(laptop: Path) -> None:
    by_hand(laptop, "A")
    side(laptop, "B")
    git(laptop, "checkout", "--quiet", "-b", "deep")
    by_hand(laptop, "C")
    by_hand(laptop, "D")
    git(laptop, "checkout", "--quiet", "side")
    git(laptop, "merge", "--quiet", "--no-ff", "-m", "deep", "deep")
    merge(laptop)
    assert route(laptop) == "ABCD"


def test_the_branch_merged_into_a_copy_of_itself_hides_nothing(laptop: Path) -> None:
    """As `git pull` does it: what the others did comes in as the second parent."""
    by_hand(laptop, "A")
    git(laptop, "branch", "mine")
    by_hand(laptop, "B")
    by_hand(laptop, "C")
    by_hand(laptop, "A")
    git(laptop, "checkout", "--quiet", "mine")
    keep(laptop, "mine")
    git(laptop, "merge", "--quiet", "-m", "pulled", "main")
    assert route(laptop) == "ABCA"


@pytest.mark.parametrize(("ours", "expected"), [(True, "AZXZ"), (False, "AZX")])
def test_a_merge_that_settles_a_conflict_is_told_as_it_was_settled(laptop: Path, ours: bool, expected: str) -> None:
    by_hand(laptop, "A")
    side(laptop, "X")
    git(laptop, "checkout", "--quiet", "main")
    by_hand(laptop, "Z")
    merge(laptop, "-X", "ours" if ours else "theirs")
    assert route(laptop) == expected
    assert told(laptop)[-1].kind == "other"


def test_a_merge_that_smuggles_in_a_pointer_of_neither_side_is_a_move(laptop: Path) -> None:
    by_hand(laptop, "A")
    side(laptop)
    keep(laptop, "nothing to see")
    git(laptop, "checkout", "--quiet", "main")
    git(laptop, "merge", "--quiet", "--no-ff", "--no-commit", "side")
    put(laptop, "X")
    made = keep(laptop, "a merge")
    assert route(laptop) == "AX"
    assert told(laptop)[-1].commit == made


def test_a_merge_of_another_history_is_told(laptop: Path) -> None:
    by_hand(laptop, "A")
    git(laptop, "checkout", "--quiet", "--orphan", "side")
    by_hand(laptop, "X")
    merge(laptop, "--allow-unrelated-histories", "-X", "ours")
    assert route(laptop) == "AXA"


SETTINGS = (
    "log.follow=true", "log.showSignature=true", "diff.renames=copies", "log.diffMerges=off", "core.quotePath=true",
    "diff.relative=true", "log.date=iso", "color.ui=always", "format.pretty=oneline", "diff.noPrefix=true",
    "log.showRoot=false",
)  # fmt: skip


def test_no_setting_of_git_changes_what_is_told(laptop: Path) -> None:
    by_hand(laptop, "A")
    side(laptop, "B")
    merge(laptop)
    by_hand(laptop, "A")
    before = told(laptop)
    assert len(before) == 3
    for setting in SETTINGS:
        name, _, value = setting.partition("=")
        git(laptop, "config", name, value)
        assert told(laptop) == before, setting
        git(laptop, "config", "--unset", name)


def test_replaced_objects_and_grafts_change_nothing(laptop: Path) -> None:
    by_hand(laptop, "A")
    middle = by_hand(laptop, "X")
    by_hand(laptop, "B")
    git(laptop, "replace", middle, f"{middle}^")
    (laptop / ".git" / "info" / "grafts").write_text(git(laptop, "rev-parse", "HEAD") + "\n")
    assert route(laptop) == "AXB"


@settings(max_examples=12, deadline=None)
@given(st.lists(st.sampled_from(["main A", "main B", "side X", "side Y", "side A", "merge", "nothing"]), max_size=9))
def test_whatever_is_merged_the_last_move_is_what_runs(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str]
) -> None:
    root = tmp_path_factory.mktemp("any") / "work"
    tree.begin(root)
    git(root, "branch", "side")
    count = 0
    for step in [*steps, "merge"]:
        branch, _, label = step.partition(" ")
        if branch == "merge":
            git(root, "checkout", "--quiet", "main")
            git(root, "merge", "--quiet", "--no-ff", "-X", "ours", "-m", "a merge", "side")
        elif branch != "nothing":
            git(root, "checkout", "--quiet", branch)
            by_hand(root, label)
        git(root, "checkout", "--quiet", "main")
        moves = told(root)
        assert len(moves) >= count, "a history never shrinks"
        count = len(moves)
    everywhere = git(root, "log", "--full-history", "--no-merges", "--format=%H", "main", "--", str(at("staging")))
    assert set(everywhere.split()) >= {move.commit for move in moves if move.commit == move.landed} - set(
        git(root, "rev-list", "--merges", "main").split()
    )


# Times


def test_since_is_when_the_present_pointer_came(laptop: Path) -> None:
    keep(laptop, "old", dated(NOW - 90 * HOUR))
    by_hand(laptop, "A", NOW - 50 * HOUR)
    by_hand(laptop, "B", NOW - 20 * HOUR)
    keep(laptop, "something else", dated(NOW - 2 * HOUR))
    # The first commit of the fixture is of now: nothing that follows it can be older.
    assert since(laptop) >= NOW - HOUR


def begin_at(root: Path, when: int) -> Path:
    """A repository whose first commit is old."""
    tree.begin(root)
    git(root, "commit", "--quiet", "--amend", "--no-edit", env=dated(when))
    return root


@pytest.mark.parametrize(
    ("dates", "expected", "doubt"),
    [
        ([-50, -20], -20, ""),
        ([-20, -50], -20, "is dated .* UTC, and follows one of"),  # backdated: not before what it follows
        ([-20, -20], -20, ""),
        ([-50, 30, -20], -20, ""),  # an earlier commit of a wrong clock is not believed, and does not last
    ],
)
def test_a_date_before_what_a_move_follows_is_not_believed(
    tmp_path: Path, dates: list[int], expected: int, doubt: str
) -> None:
    root = begin_at(tmp_path / "work", NOW - 99 * HOUR)
    *others, last = dates
    for hours in others:
        keep(root, "other", dated(NOW + hours * HOUR))
    by_hand(root, "A", NOW + last * HOUR)
    assert since(root) == NOW + expected * HOUR
    assert re.search(doubt, told(root)[0].doubt)
    assert bool(told(root)[0].doubt) == bool(doubt)


def test_a_move_dated_in_the_future_refuses_to_say_since_when(tmp_path: Path) -> None:
    root = begin_at(tmp_path / "work", NOW - 99 * HOUR)
    by_hand(root, "A", int(time.time()) + 240)  # clocks may differ by so much
    since(root)
    by_hand(root, "B", int(time.time()) + 900)
    with pytest.raises(
        EvidenceRefused, match=r"since when staging runs what it runs is not known: .* in the future; set"
    ):
        since(root)
    assert "in the future" in told(root)[-1].doubt
    by_hand(root, "A", NOW)
    assert since(root) >= NOW


RECORDED: list[tuple[str, Callable[[Path], object], bool]] = [
    ("promoted", lambda root: promote(root, "staging", "A"), True),
    ("promoted, and again later", lambda root: [promote(root, "staging", label) for label in "ABA"], True),
    ("by hand", lambda root: by_hand(root, "A", NOW), False),
    ("something else", lambda root: promote(root, "staging", "B"), False),
    (
        "with a date in the future",
        lambda root: (promote(root, "staging", "A"), undated(root, f" {2 * NOW} +0000")),
        False,
    ),
    ("without a date", lambda root: (promote(root, "staging", "A"), undated(root, "")), False),
]


@pytest.mark.parametrize(("what", "move", "counts"), RECORDED, ids=[what for what, _, _ in RECORDED])
def test_a_release_is_recorded_by_the_first_move_that_is_believed(
    what: str, move: Callable[[Path], object], counts: bool, laptop: Path
) -> None:
    move(laptop)
    ledger, tip = tree.opened(laptop)
    moves = told(laptop)
    assert moves
    found = ledger.recorded(tip, "staging", target("A", "1" * 40))
    assert found == (moves[0].at if counts else None)


UNDATED = ["", " ", " -5 +0000", " x +0000", " 1700000000", f" {'9' * 5000} +0000"]


def undated(root: Path, date: str) -> str:
    """Put another commit in the place of HEAD, whose committer has this date: git's push takes it as it is."""
    head, _, body = git(root, "cat-file", "commit", "HEAD").partition("\n\n")
    lines = [f"committer Ada <a@b>{date}" if line.startswith("committer ") else line for line in head.splitlines()]
    text = "\n".join(lines) + f"\n\n{body}\n"
    made = git(root, "hash-object", "-t", "commit", "--literally", "-w", "--stdin", given=text)
    git(root, "reset", "--quiet", "--hard", made)
    return made


@pytest.mark.parametrize("date", UNDATED)
def test_a_move_without_a_date_refuses_to_say_since_when(tmp_path: Path, date: str) -> None:
    root = begin_at(tmp_path / "work", NOW - 99 * HOUR)
    by_hand(root, "A", NOW - 50 * HOUR)
    by_hand(root, "B")
    made = undated(root, date)
    assert told(root)[-1].doubt == f"commit {made[:12]} has no date that can be read"
    assert told(root)[-1].at.timestamp() == NOW - 50 * HOUR
    with pytest.raises(
        EvidenceRefused, match=r"since when staging runs what it runs is not known: .* read; move the environment again"
    ):
        since(root)
    by_hand(root, "A", NOW - 2 * HOUR)
    assert since(root) == NOW - 2 * HOUR
    assert route(root) == "ABA"


@pytest.mark.parametrize("date", UNDATED)
@pytest.mark.parametrize("moving", [True, False])
def test_a_commit_without_a_date_in_a_side_branch_breaks_no_history(tmp_path: Path, date: str, moving: bool) -> None:
    root = begin_at(tmp_path / "work", NOW - 99 * HOUR)
    by_hand(root, "A", NOW - 50 * HOUR)
    git(root, "checkout", "--quiet", "-b", "side")
    if moving:
        by_hand(root, "B")
    else:
        keep(root, "nothing to see")
    undated(root, date)
    keep(root, "after it", dated(NOW - 40 * HOUR))
    git(root, "checkout", "--quiet", "main")
    # Dated before what it brings: what can be read of that still counts.
    git(root, "merge", "--quiet", "--no-ff", "-m", "a merge", "side", env=dated(NOW - 60 * HOUR))
    assert route(root) == ("AB" if moving else "A")
    assert since(root) == NOW - (40 if moving else 50) * HOUR
    promote(root, "staging", "C")
    assert told(root)[-1].kind == "promote"


def test_a_history_that_begins_without_a_date_is_told(laptop: Path) -> None:
    undated(laptop, "")
    by_hand(laptop, "A", NOW - HOUR)
    assert since(laptop) == NOW - HOUR


def test_a_merge_does_not_lend_its_side_an_older_date(tmp_path: Path) -> None:
    root = begin_at(tmp_path / "work", NOW - 99 * HOUR)
    git(root, "checkout", "--quiet", "-b", "side")
    by_hand(root, "A", NOW - 10 * HOUR)
    git(root, "checkout", "--quiet", "main")
    git(root, "merge", "--quiet", "--no-ff", "-m", "a merge", "side", env=dated(NOW - 90 * HOUR))
    assert since(root) == NOW - 10 * HOUR
    assert "and follows one of" in told(root)[0].doubt


def test_a_pointer_that_went_and_came_back_counts_from_its_return(tmp_path: Path) -> None:
    root = begin_at(tmp_path / "work", NOW - 99 * HOUR)
    for hours, label in [(90, "A"), (50, "B"), (10, "A")]:
        by_hand(root, label, NOW - hours * HOUR)
    assert since(root) == NOW - 10 * HOUR


# Messages

A, B = target("A", "1" * 40), target("B", "1" * 40, "v0.2.0")
FORGED = (
    f"x\n\nLockstep-Move: production#9\nLockstep-Kind: rollback\nLockstep-From: none\nLockstep-To: {A.digest}\n"
    f"Lockstep-Evidence: {A.evidence}"
)


@pytest.mark.parametrize("why", [FORGED, FORGED + "\n", "Lockstep-Move: production#9", "\n\n" + FORGED, "x\r\n\r\nLockstep-Kind: rollback", "x\u2028Lockstep-Kind: rollback", "-m", "Signed-off-by: Eve", "{0}%s$(id)", "---\ndiff"])  # fmt: skip
def test_a_reason_forges_no_trailer(laptop: Path, why: str) -> None:
    text = compose("staging", 1, "promote", None, A, why)
    assert message.read(text).trailers == {
        "Move": "staging#1", "Kind": "promote", "From": "none", "To": A.digest, "Evidence": A.evidence,
    }  # fmt: skip
    assert message.read(text).why == " ".join(why.split())
    put(laptop, "A")
    git(laptop, "add", ".")
    git(laptop, "commit", "--quiet", "--cleanup=verbatim", "-F", "-", given=text)
    assert told(laptop)[0].kind == "promote"
    trailers = git(laptop, "interpret-trailers", "--no-divider", "--parse", given=text).splitlines()
    assert [line.partition(": ")[0] for line in trailers] == [
        f"Lockstep-{name}" for name in ("Move", "Kind", "From", "To", "Evidence")
    ]


@given(st.text(max_size=200))
def test_no_reason_forges_a_trailer(why: str) -> None:
    try:
        text = compose("staging", 1, "promote", A, B, why)
    except PromotionRefused:
        assert not "".join(c for c in why if c.isprintable()).strip()
        return
    assert dict(message.read(text).trailers)["To"] == B.digest
    assert text.count("\n") == 9


@pytest.mark.parametrize("why", ["", " ", "\n\t", "\x00\x1b"])
def test_a_move_without_a_reason_refuses(why: str) -> None:
    with pytest.raises(PromotionRefused, match="a move without a reason; give the reason"):
        compose("staging", 1, "promote", None, A, why)


def other(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new)


@pytest.mark.parametrize(
    ("forge", "problem"),
    [
        (lambda text: text, ""),
        (lambda text: text + "\nCo-authored-by: Bob <bob@example.org>\n", ""),  # as a squash merge writes it
        (lambda text: other(text, "Move: staging#1", "Move: production#1"), "its message is about production#1"),
        (lambda text: other(text, A.digest, B.digest), "its message says to sha256"),
        (lambda text: other(text, "From: none", f"From: {B.digest}"), "its message says from sha256"),
        (lambda text: other(text, A.evidence, B.evidence), "its message says evidence sha256"),
    ],
)
def test_a_message_that_differs_from_what_its_commit_did_is_not_believed(
    laptop: Path, forge: Callable[[str], str], problem: str
) -> None:
    put(laptop, "A")
    keep(laptop, forge(compose("staging", 1, "promote", None, A, "why not")))
    move = told(laptop)[0]
    assert (move.kind == "promote") == (not problem)
    assert problem in move.problem
    assert bool(move.problem) == bool(problem)
    assert move.after == A


@pytest.mark.parametrize("forge", [lambda text: other(text, "Kind: promote", "Kind: delete"), lambda text: other(text, "Lockstep-From: none\n", ""), lambda text: text.rstrip() + f"\nLockstep-To: {A.digest}\n"])  # fmt: skip
def test_a_message_without_the_whole_set_of_trailers_is_by_hand(laptop: Path, forge: Callable[[str], str]) -> None:
    put(laptop, "A")
    keep(laptop, forge(compose("staging", 1, "promote", None, A, "why not")))
    assert told(laptop)[0].kind == "other"


def test_names_and_messages_of_commits_are_shown_printable(laptop: Path) -> None:
    put(laptop, "A")
    keep(laptop, "\x1b[31mred\x07\n\n\u202eevil", {"GIT_AUTHOR_NAME": "E\x1bve \u202e"})
    move = told(laptop)[0]
    assert move.by.isprintable()
    assert move.why.isprintable()
    assert move.by == "E ve ⟨U+202E RIGHT-TO-LEFT OVERRIDE⟩ <ada@example.org>"


# Versions


def move(after: Pointer) -> Move:
    return Move(
        environment="staging", number=1, kind="promote", at=datetime.now(UTC), by="", why="", before=None, after=after,
        commit="", landed="",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("known", "tags", "label", "expected"),
    [
        ([], [], "A", "v0.1.0"),
        ([A], [], "A", "v0.1.0"),  # the same image
        ([A, B], [], "A", "v0.1.0"),
        ([A, B], [], "C", "v0.3.0"),
        ([A, B], ["router@v1.9.3", "other@v7.0.0", "router@vx", "router#staging#4"], "C", "v1.10.0"),
        ([], ["router@v0.9.0"], "A", "v0.10.0"),
    ],
)
def test_a_version_is_the_images_or_above_all(known: list[Pointer], tags: list[str], label: str, expected: str) -> None:
    wanted = target(label, "1" * 40)
    there = dict.fromkeys(tags, TagRef("1" * 40, True))
    assert next_version("router", there, map(move, known), wanted.model, wanted.digest) == expected
    assert next_version("router", there, map(move, known), wanted.model, wanted.digest) == expected


def test_a_known_model_in_another_image_is_a_patch_and_a_major_one_is_asked_for() -> None:
    image = tree.sha("rebuilt")
    assert next_version("router", {}, map(move, [A, B]), A.model, image) == "v0.2.1"
    assert next_version("router", {}, map(move, [A, B]), tree.sha("new"), image, "major") == "v1.0.0"


# The pointer's file


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text + b"\n", lambda text: text.rstrip(), lambda text: b"# a comment\n" + text,
        lambda text: text.replace(b"\n", b"\r\n"), lambda text: text.replace(b": ", b":  ", 1),
        lambda text: b"\n".join(reversed(text.split(b"\n"))), lambda text: text + text, lambda text: text[:0],
        lambda text: text.replace(b"v0.1.0", b'"v0.1.0"'), lambda text: text.replace(b"v0.1.0", b"v01.0.0"),
        lambda text: text.replace(b"sha256:", b"SHA256:"), lambda text: text.replace(b"registry", b"-registry"),
        lambda text: b"\xef\xbb\xbf" + text, lambda text: text + b"\xff", lambda text: text * 100,
        lambda text: text.replace(b"v0.1.0", b"v0.1.0\xc2\x85"),
    ],
)  # fmt: skip
def test_a_pointer_has_one_spelling(spoil: Callable[[bytes], bytes]) -> None:
    text = pointer.write(A)
    assert pointer.parse(text, "x") == A
    with pytest.raises(EvidenceRefused, match=r"^x: "):
        pointer.parse(spoil(text), "x")
