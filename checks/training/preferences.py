"""Preference data: pairs of a better and a worse answer, answers that somebody liked or not, and their faults.

A pair is a row whose ``reference`` is the better answer and whose column ``rejected`` is the worse one. A judged answer
is a row with the columns ``completion`` and ``label``; its ``reference`` stays the right answer, which evaluation asks
for. validate looks for the faults with Great Expectations. A training method below ``Pairs`` or ``Judged`` refuses them
too, before the base is loaded.
"""

from collections.abc import Iterator, Sequence

from pydantic import JsonValue

from checks.data.drafts import draft_of
from checks.data.similar import normalised
from checks.kinds.method import NoDropout
from checks.process.errors import TrainingRefused
from checks.records.rows import Row

REJECTED, COMPLETION, LABEL = "rejected", "completion", "label"
_SHOWN = 5  # further rows that a refusal lists


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

    def refuse_rows(self, rows: Sequence[Row], valid: Sequence[Row]) -> None:
        """Raise TrainingRefused for a pair without a worse answer, of two equal answers, or in both orders."""
        together = [*rows, *valid]
        turned = reversed_pairs(together)
        _refuse(_faults_of_pairs(together, turned))


class Judged(NoDropout):
    """Parameters of a method that learns from single answers that somebody liked or not."""

    columns = ("prompt", "reference", COMPLETION, LABEL)

    def refuse_rows(self, rows: Sequence[Row], valid: Sequence[Row]) -> None:
        """Raise TrainingRefused for an answer without text or label, and for training rows of one label alone."""
        _refuse(_faults_of_judged([*rows, *valid]))
        labels = {liked(row.extra[LABEL]) for row in rows}
        if len(labels) < 2:
            raise TrainingRefused(
                f"{address(rows[0])}: its label is {str(labels.pop()).lower()}, and so is that of all {len(rows)} "
                "training rows",
                "bring answers that people liked and answers that they did not",
            )


def address(row: Row) -> str:
    """How a refusal names a row."""
    return f"row {row.id} ({row.source})"


def _faults_of_pairs(rows: Sequence[Row], turned: dict[int, int]) -> Iterator[str]:
    for place, row in enumerate(rows):
        worse = text(row, REJECTED)
        if worse is None:
            yield f"{address(row)}: has no text in column {REJECTED!r}"
        elif same(worse, row.reference):
            yield f"{address(row)}: reference and {REJECTED} are the same answer, so nothing is learned"
        elif place in turned:
            yield f"{address(row)}: is the pair of {address(rows[turned[place]])} in the other order"


def _faults_of_judged(rows: Sequence[Row]) -> Iterator[str]:
    for row in rows:
        answer, label = text(row, COMPLETION), liked(row.extra.get(LABEL))
        if answer is None:
            yield f"{address(row)}: has no text in column {COMPLETION!r}"
        elif label is None:
            yield f"{address(row)}: column {LABEL!r} is neither true nor false"
        elif not label and same(answer, row.reference):
            yield f"{address(row)}: its label is false, and its {COMPLETION} is the reference"


def _refuse(faults: Iterator[str]) -> None:
    first = next(faults, None)
    if first is not None:
        others = tuple(faults)
        more = f" (and {len(others)} more)" if others else ""
        raise TrainingRefused(
            f"{first}{more}",
            "fix or remove these rows in the data source, and run `./lockstep run validate`",
            others[:_SHOWN],
        )
