"""Preference data: pairs of a better and a worse answer, answers that somebody liked or not, and their faults.

A pair is a row whose ``reference`` is the better answer and whose column ``rejected`` is the worse one. A judged answer
is a row with the columns ``completion`` and ``label``; its ``reference`` stays the right answer, which evaluation asks
for. validate looks for the faults with Great Expectations, and train takes only the splits that validate sealed.
"""

from collections.abc import Sequence

from pydantic import JsonValue

from checks.data.drafts import draft_of
from checks.data.similar import normalised
from checks.kinds.method import NoDropout
from checks.records.rows import Row

REJECTED, COMPLETION, LABEL = "rejected", "completion", "label"


def learned(columns: Sequence[str]) -> tuple[str, ...]:
    """Those of the columns that a method needs which hold preferences, whoever wrote the method."""
    judged = (COMPLETION, LABEL)
    return (
        *(column for column in (REJECTED,) if column in columns),
        *(judged if {*judged} <= {*columns} else ()),
    )


def text(row: Row, column: str) -> str | None:
    """The text of a further column; None where there is none, or something else."""
    value = row.extra.get(column)
    return value if isinstance(value, str) and value.strip() else None


def liked(value: JsonValue) -> bool | None:
    """A label: true or false, as CSV writes it too; None where it is neither."""
    if isinstance(value, str):
        return {"true": True, "false": False}.get(value.strip().lower())
    return value if isinstance(value, bool) else None


def same(one: str, other: str) -> bool:
    """Whether two answers differ in nothing but case, width, white space and final punctuation."""
    return normalised(one) == normalised(other)


def reversed_pairs(rows: Sequence[Row]) -> dict[int, int]:
    """Row to an earlier row that asks the same and likes better what this one likes less; both by their place."""
    seen: dict[tuple[str, ...], int] = {}
    reversed_: dict[int, int] = {}
    for place, row in enumerate(rows):
        asked = draft_of(row).asked
        better = normalised(row.reference)
        worse = normalised(text(row, REJECTED) or "")
        if (earlier := seen.get((*asked, worse, better))) is not None:
            reversed_[place] = earlier
        seen.setdefault((*asked, better, worse), place)
    return reversed_


class Pairs(NoDropout):
    """Parameters of a method that learns from pairs."""

    columns = ("prompt", "reference", REJECTED)
    sequences = 2


class Judged(NoDropout):
    """Parameters of a method that learns from single answers that somebody liked or not."""

    columns = ("prompt", "reference", COMPLETION, LABEL)


def address(row: Row) -> str:
    """How a refusal names a row."""
    return f"row {row.id} ({row.source})"
