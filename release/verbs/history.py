"""history: every move of the environments, and what ran at a given time, from git alone.

The time of a move is that of the commit that brought it to the branch (release/ledger/moves.py), in UTC. A release runs
from its move until the next one. A date or a time without a zone is read as UTC.
"""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from checks.config import params_file
from checks.process.errors import EvidenceRefused
from checks.process.text import escape
from checks.records.rows import Record
from checks.storage import layout
from release.evidence import freshness
from release.ledger import Ledger, Move
from release.ledger.moves import ran

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_SHAPE = "write it as 2026-03-14, or 2026-03-14T15:09+01:00 (UTC where it names no zone)"


class History(Record):
    """The moves of each environment, newest first, as of the commit ``tip`` of ``branch``.

    With ``on``: only those whose release ran then. An environment without moves ran nothing yet.
    """

    branch: str
    tip: str
    on: str | None
    environments: dict[str, tuple[Move, ...]]


class Span(NamedTuple):
    """A time or a whole day, from ``start`` up to ``end``. ``end`` is excluded, unless it equals ``start``."""

    start: datetime
    end: datetime

    def meets(self, at: datetime, until: datetime | None) -> bool:
        """Whether a release that ran from ``at`` until ``until`` ran within this span."""
        if self.start == self.end:
            return at <= self.start and (until is None or self.start < until)
        return at < self.end and (until is None or until > self.start or at >= self.start)


def history(root: Path, environment: str | None = None, on: str | None = None) -> History:
    """The moves of one or all environments; with ``on`` (a date, or a date and time) what ran then.

    Raises EvidenceRefused if there is no such environment, ``on`` is not a time or lies in the future, or the clone is
    shallow; RemoteRefused if the remote does not answer.
    """
    span = None if on is None else moment(on)
    promote = params_file.load(root / layout.PARAMS).promote
    ledger = Ledger.open(root, promote)
    tip = freshness.tip(root, ledger, promote)
    names = promote.ordered if environment is None else (environment,)
    every = {name: ran(ledger.moves(tip, name)) for name in names}
    if span is not None:
        every = {
            name: tuple(move for move in all_ if span.meets(move.at, move.until))
            for name, all_ in every.items()
        }
    return History(branch=ledger.shown, tip=tip, on=on, environments=every)


def moment(text: str, now: datetime | None = None) -> Span:
    """The time that ``text`` names; a date is the whole day in UTC. Raises EvidenceRefused if it is neither."""
    shown = escape(text[:60])
    try:
        if not _DATE.match(text):
            raise ValueError
        named = datetime.fromisoformat(text)
        start = named.replace(tzinfo=UTC) if named.tzinfo is None else named.astimezone(UTC)
        span = Span(start, start + timedelta(days=1) if _DATE.fullmatch(text) else start)
    except (ValueError, OverflowError) as error:
        raise EvidenceRefused(f"{shown!r}: is neither a date nor a time", _SHAPE) from error
    if span.start > (now or datetime.now(UTC)):
        raise EvidenceRefused(
            f"{shown}: has not come yet, in UTC",
            "choose a time in the past; `lockstep status` shows the present",
        )
    return span
