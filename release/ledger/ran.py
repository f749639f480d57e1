"""A move and until when its release ran, for whoever shows the history."""

from collections.abc import Iterable
from datetime import datetime

from checks.formats.pointer import Pointer
from checks.records.rows import Record
from release.ledger.types import Kind, Move


class Ran(Record):
    """One move. Its release ran until ``until`` (None: it still runs). ``after`` None: the environment was emptied."""

    environment: str
    number: int
    kind: Kind
    at: datetime
    until: datetime | None
    by: str
    why: str
    before: Pointer | None
    after: Pointer | None
    commit: str
    landed: str
    problem: str
    doubt: str


def ran(moves: tuple[Move, ...]) -> tuple[Ran, ...]:
    """The moves, newest first, each with the time of the move after it."""
    ends = (None, *(move.at for move in moves))
    return tuple(
        Ran(
            environment=move.environment, number=move.number, kind=move.kind, at=move.at, until=until, by=move.by,
            why=move.why, before=move.before, after=move.after, commit=move.commit, landed=move.landed,
            problem=move.problem, doubt=move.doubt,
        )
        for move, until in zip(moves, ends, strict=False)
    )  # fmt: skip


def recorded(ran: Iterable[Move | Ran], pointer: Pointer) -> datetime | None:
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
