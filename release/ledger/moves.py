"""The history of the environments: every move, who made it, when and why, from the branch's commits alone.

Every commit in the history that changes a pointer is a move, on whatever branch it was made, so a side branch can hide
nothing. Moves are ordered as the branch received them: along its first parents, and at each merge the moves that it
brought, dated by the merge. ``Move.ran`` marks the moves that the branch itself had: a move that a side branch made and
reverted never ran. (If the branch was merged into a copy of itself, as by `git pull`, the other side's moves also count
from that merge: later than in fact, never earlier.) A merge that leaves another pointer than the last of these moves is
a move itself. So the last move before a time says what ran then, and the number of moves never shrinks while the branch
only grows.

Times are committer dates, which anyone who may push can choose. A move has the date of the commit that brought it to
the branch, but never one before that of a commit it follows. A date that lies in the future or cannot be read is
ignored; then it is only known that the move came after its ancestors. So the author of a push can choose any time
between the parent's date and now. The dates of tags are no better. A soak time is only as safe as the permission to
push.
"""

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import NamedTuple

from checks.formats import pointer
from checks.formats.pointer import Pointer
from checks.process.errors import EvidenceRefused
from release.adapters.git import REGULAR, Git
from release.ledger import message
from release.ledger.types import Kind, Move
from release.ledger.walk import NOTHING, Blob, Commit, Walk, author

SKEW = 300  # seconds that clocks may differ
_FUTURE = "which is in the future"
_UNDATED = "has no date that can be read"  # git takes such a commit, and no branch gets rid of one


class _Step(NamedTuple):
    """A move, before its commit and pointers are read."""

    commit: str
    landed: str
    at: int
    doubt: str
    before: Blob
    after: Blob
    ran: bool


def history(git: Git, walked: Walk, paths: Mapping[str, str]) -> dict[str, tuple[Move, ...]]:
    """All moves of each environment, oldest first; ``paths`` are their pointers'."""
    by_path = _steps(walked, frozenset(paths.values()))
    steps = {name: by_path[path] for name, path in paths.items()}
    every = [step for some in steps.values() for step in some]
    blobs = {
        blob.name for step in every for blob in (step.before, step.after) if blob.mode in REGULAR
    }
    objects = git.objects([*(step.commit for step in every), *sorted(blobs)])
    pointers: dict[Blob, Pointer | str] = {}
    return {
        name: tuple(
            _move(number, name, paths[name], step, objects, pointers)
            for number, step in enumerate(steps[name], 1)
        )
        for name in paths
    }


def ran(moves: tuple[Move, ...]) -> tuple[Move, ...]:
    """The moves, newest first, each with the time of the move after it as ``until``."""
    ends = (None, *(move.at for move in moves))
    return tuple(
        move.model_copy(update={"until": until}) for move, until in zip(moves, ends, strict=False)
    )


def recorded(ran: Iterable[Move], pointer: Pointer) -> datetime | None:
    """When one of these moves, which all ran, first deployed the image of ``pointer`` on its evidence (UTC).

    None if only moves by hand did, or if no date of such a move is believed.
    """
    wanted = pointer.digest, pointer.evidence
    made = [move for move in ran if move.kind != "other" and not move.doubt]
    own = [
        move.at
        for move in made
        if move.after and (move.after.digest, move.after.evidence) == wanted
    ]
    return min(own, default=None)


def _steps(walked: Walk, paths: frozenset[str]) -> defaultdict[str, list[_Step]]:
    """Return the moves of each path, oldest first. Each commit is looked at once, whatever the number of paths."""
    commits = walked.commits
    latest = int(time.time()) + SKEW
    # What runs on the branch itself. After each landing, the moves so far say the same.
    own: defaultdict[str, Blob] = defaultdict(lambda: NOTHING)
    steps: defaultdict[str, list[_Step]] = defaultdict(list)
    at = 0  # the latest date so far that is believed
    for name, brought in walked.landings:
        at = max([at, *_believed((commits[other] for other in brought), latest)])
        changes: dict[str, list[tuple[str, Blob]]] = {}
        for other in (*brought, name):
            for path in commits[other].gave.keys() & paths:
                changes.setdefault(path, [])
                if other != name:
                    changes[path].append((other, commits[other].gave[path]))
        doubt = _doubt(name, commits[name].date, at, latest) if changes else ""
        at = max([at, *_believed([commits[name]], latest)])
        for path, made in changes.items():
            so_far = own[path]
            own[path] = commits[name].gave.get(path, so_far)
            if (made[-1][1] if made else so_far) != own[path]:
                made.append((name, own[path]))
            for commit, blob in made:
                if blob != so_far:
                    step = _Step(commit, name, at, doubt, so_far, blob, blob == own[path])
                    steps[path].append(step)
                    so_far = blob
    return steps


def dates(walked: Walk) -> dict[str, datetime | None]:
    """The date of each commit (UTC), never before that of one it follows; None if it is not believed."""
    latest, at = int(time.time()) + SKEW, 0
    dates_found: dict[str, datetime | None] = {}
    for name in (commit for landed, brought in walked.landings for commit in (*brought, landed)):
        commit = walked.commits[name]
        at = max([at, *_believed([commit], latest)])
        dates_found[name] = None if _doubt(name, commit.date, at, latest) else _time(at)
    return dates_found


def _believed(commits: Iterable[Commit], latest: int) -> Iterator[int]:
    """The dates that can be read and are not in the future."""
    return (commit.date for commit in commits if commit.date is not None and commit.date <= latest)


def _doubt(commit: str, date: int | None, follows: int, latest: int) -> str:
    if date is None:
        return f"commit {commit[:12]} {_UNDATED}"
    if date > latest:
        return f"commit {commit[:12]} is dated {shown(date)}, {_FUTURE}"
    if date < follows - SKEW:
        return f"commit {commit[:12]} is dated {shown(date)}, and follows one of {shown(follows)}"
    return ""


def unknown(move: Move) -> str:
    """The fix if not even the day of a move is known; empty otherwise."""
    again = "move the environment again"
    if move.doubt.endswith(_UNDATED):
        return again
    return (
        f"set the clocks; once that time is past it counts from then, or {again}"
        if move.doubt.endswith(_FUTURE)
        else ""
    )


def shown(seconds: int) -> str:
    """A commit's date in UTC, for a message."""
    return f"{_time(seconds):%Y-%m-%d %H:%M} UTC"


def _time(seconds: int) -> datetime:
    # The number is the last second that datetime can hold.
    return datetime.fromtimestamp(min(max(seconds, 0), 253402300799), UTC)


def _move(
    number: int, environment: str, path: str, step: _Step, objects: Mapping[str, bytes],
    pointers: dict[Blob, Pointer | str],
) -> Move:  # fmt: skip
    before, after = (
        _pointer(blob, path, step.commit, objects, pointers) for blob in (step.before, step.after)
    )
    head, _, body = objects[step.commit].partition(b"\n\n")
    written = message.read(body.decode(errors="replace"))
    was, now = (value if isinstance(value, Pointer) else None for value in (before, after))
    problem = after if isinstance(after, str) else ""
    kind: Kind = "other"
    sets = [trailers for trailers in (*written.others, written.trailers) if trailers]
    wrong = [message.differs(trailers, environment, was, now) for trailers in sets]
    if "" in wrong:
        kind = "rollback" if sets[wrong.index("")]["Kind"] == "rollback" else "promote"
    elif wrong:
        problem = problem or f"commit {step.commit[:12]}: {wrong[-1]}"
    return Move(
        environment=environment, number=number, kind=kind, at=_time(step.at), by=author(head), why=written.why,
        before=was, after=now, commit=step.commit, landed=step.landed, problem=problem, doubt=step.doubt, ran=step.ran,
    )  # fmt: skip


def _pointer(
    blob: Blob,
    path: str,
    commit: str,
    objects: Mapping[str, bytes],
    known: dict[Blob, Pointer | str],
) -> Pointer | str | None:
    """The pointer, None if there is none, or the reason why it cannot be read."""
    if blob == NOTHING:
        return None
    if blob not in known:
        place = f"{path} at {commit[:12]}"
        try:
            if blob.mode not in REGULAR:
                raise EvidenceRefused(f"{place}: is not a regular file", "")
            known[blob] = pointer.parse(objects[blob.name], place)
        except EvidenceRefused as refused:
            known[blob] = refused.what
    return known[blob]
