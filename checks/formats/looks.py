"""The rows of a test split as a few digests, so that git tells how much two splits overlap without having their rows.

A row's digest is of its request and its reference alone, in lower case and with single spaces. So the rows stay the
same when the system's instruction, the functions, a further column or an id changes. The smallest digests of all are
kept: up to 1,024 rows that is every row, and the overlap is exact. Of more rows they are a sample that is drawn alike
from every split (bottom-k sketch: Cohen and Kaplan, PODC 2007): the standard error of a share is at most 1.6 points.
"""

import hashlib
import json
from collections.abc import Iterable
from typing import Annotated, Self

from pydantic import Field

from checks.formats.report import Report
from checks.records.record import Digest, Record
from checks.records.rows import Row, request

# The largest number of digests that a sketch keeps.
_KEPT = 1024
# The hexadecimal digits that are kept of a digest: two of a million rows share them with a chance of 0.2 %.
_DIGITS = 12


class RowSketch(Record):
    """The number of different rows, and their smallest digests, sorted and joined."""

    rows: Annotated[int, Field(ge=1)]
    smallest: Annotated[str, Field(pattern=rf"^([0-9a-f]{{{_DIGITS}}}){{1,{_KEPT}}}$")]

    @classmethod
    def of(cls, rows: Iterable[Row]) -> Self | None:
        """Return the sketch of ``rows``; None if there are none."""
        digests = {_digest(row) for row in rows}
        return (
            cls(rows=len(digests), smallest="".join(sorted(digests)[:_KEPT])) if digests else None
        )

    def overlap(self, other: "RowSketch") -> float:
        """Return the share of the smaller split's rows that the other has too, in [0, 1]; 1 if the digests cannot tell.

        Below the largest digest that both sketches reach, each has every row of its split.
        """
        limit = min(self._reach, other._reach)
        ours, theirs = (
            {value for value in sketch._digests if value <= limit} for sketch in (self, other)
        )
        smaller = min(len(ours), len(theirs))
        return len(ours & theirs) / smaller if smaller else 1.0

    @property
    def _digests(self) -> list[str]:
        return [self.smallest[at : at + _DIGITS] for at in range(0, len(self.smallest), _DIGITS)]

    @property
    def _reach(self) -> str:
        """Return the digest up to which no row of the split is missing."""
        whole = len(self.smallest) == self.rows * _DIGITS
        return "f" * _DIGITS if whole else self.smallest[-_DIGITS:]


class LooksReport(Report):
    """Which models each test split has judged, as far as git and this work tree know. ``lockstep run`` writes it.

    Both are by the digest of a test split. ``models``: the merged models that have a recorded evaluation on it, sorted.
    ``rows``: its rows, if a verdict in git has them. There is more than one sketch only if somebody forged one.
    """

    models: dict[Digest, tuple[Digest, ...]]
    rows: dict[Digest, tuple[RowSketch, ...]] = Field(default_factory=dict)

    def shares(self, test: Digest, rows: RowSketch | None) -> dict[Digest, float]:
        """How much each listed split overlaps the split ``test``, which has ``rows``.

        1 for the same split; 0 for one whose rows are not known, since no version with sketches recorded it.
        """
        return {other: 1.0 if other == test else self._share(other, rows) for other in self.models}

    def _share(self, test: Digest, rows: RowSketch | None) -> float:
        if rows is None:
            return 0.0
        return max((rows.overlap(theirs) for theirs in self.rows.get(test, ())), default=0.0)


def _digest(row: Row) -> str:
    text = json.dumps(
        [" ".join(part.casefold().split()) for part in (request(row.messages), row.reference)]
    )
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]
