"""Comparisons of two answers to one row, by people and by a judge: which rows people label, and what was said of each.

Rows are drawn by a hash of a seed, so that nobody chooses them, and whole groups at a time, since groups are what was
sampled. Where two answers are equal there is nothing to compare: that is a tie, and nobody is asked.
"""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, permutations

import numpy as np
from numpy.typing import NDArray

from checks.formats.suite_report import Judgement
from checks.kinds.suite import Draw
from checks.records.rows import Row

Values = NDArray[np.float64]
_DOUBLED = 10  # One row of this many is labelled by two people.


@dataclass(frozen=True)
class Comparisons:
    """How much better our answer to each row is, from -1 to 1; ``people`` is NaN where nobody labelled the row.

    ``drawn``: rows that people label, of which ``missing`` have no label. ``differ``: rows that a judge is asked about;
    of ``flips`` it says another thing in the other order, of ``unparsed`` it says nothing. Both count as ties.
    """

    people: Values
    judge: Values
    groups: NDArray[np.intp]
    drawn: int
    missing: tuple[str, ...]
    differ: int
    flips: int
    unparsed: int


def drawn(rows: Sequence[Row], draw: Draw) -> list[Row]:
    """The first rows in the order of the draw, and what is left of the last group."""
    order = sorted(
        rows,
        key=lambda row: (_hash(draw.seed, "group", row.group), _hash(draw.seed, "row", row.id)),
    )
    chosen: list[Row] = []
    for _, group in groupby(order, key=lambda row: row.group):
        if len(chosen) >= draw.rows:
            break
        chosen += group
    return chosen


def doubled(rows: Sequence[Row], seed: int) -> set[str]:
    """The ids of those of the drawn rows that two people label: a tenth, drawn again."""
    order = sorted((row.id for row in rows), key=lambda row: _hash(seed, "doubled", row))
    return set(order[: -(-len(order) // _DOUBLED)])


def left(seed: int, row: str, one: str, two: str) -> str:
    """Which of two answers, by digest, is shown on the left. It does not depend on whose they are."""
    return min(one, two, key=lambda sha: _hash(seed, row, sha))


def of(
    rows: Sequence[Row], ours: Mapping[str, str], theirs: Mapping[str, str], judgements: Sequence[Judgement],
    draw: Draw,
) -> Comparisons:  # fmt: skip
    """Of the answers with the digests ``ours`` and ``theirs``, by row, as ``judgements`` says."""
    values: dict[tuple[str, str | None], list[float | None]] = defaultdict(list)
    for judgement in judgements:
        if {judgement.answer_sha, judgement.other_sha} == {
            ours.get(judgement.sample),
            theirs.get(judgement.sample),
        }:
            value = None if judgement.value is None else 2 * judgement.value - 1
            values[judgement.sample, judgement.by].append(
                value if value is None or judgement.answer_sha == ours[judgement.sample] else -value
            )
    judged = any(judgement.by == "judge" for judgement in judgements)
    chosen = {row.id for row in drawn(rows, draw)}
    differ = [row.id for row in rows if ours[row.id] != theirs[row.id]]
    apart = set(differ)
    people, judge, flips, unparsed = np.full(len(rows), np.nan), np.zeros(len(rows)), 0, 0
    for at, row in enumerate(rows):
        labels = [value for value in values[row.id, "human"] if value is not None]
        if row.id in chosen and (labels or row.id not in apart):
            people[at] = sum(labels) / len(labels) if labels else 0.0
        verdicts = values[row.id, "judge"]
        if None in verdicts or len(verdicts) < 2:
            unparsed += judged and row.id in apart
        elif len(set(verdicts)) > 1:
            flips += 1
        else:
            judge[at] = verdicts[0]
    codes: dict[str, int] = {}
    return Comparisons(
        people=people, judge=judge, groups=np.array([codes.setdefault(row.group, len(codes)) for row in rows], np.intp),
        drawn=len(chosen), differ=len(differ), flips=flips, unparsed=unparsed,
        missing=tuple(row.id for at, row in enumerate(rows) if row.id in chosen and np.isnan(people[at])),
    )  # fmt: skip


def several(people: Sequence[Judgement]) -> list[list[float]]:
    """The labels of each row that several people labelled, all seen from one of the two answers."""
    by_sample: dict[str, list[float]] = defaultdict(list)
    for label in people:
        assert label.value is not None  # a label has one
        assert label.other_sha is not None
        by_sample[label.sample].append(
            label.value if label.answer_sha < label.other_sha else 1 - label.value
        )
    return [values for values in by_sample.values() if len(values) > 1]


def alpha(units: Sequence[Sequence[float]]) -> float | None:
    """Krippendorff's alpha for nominal values: the values of each unit, by whoever gave one.

    1 is perfect agreement, 0 what chance gives. None where no unit has two values, or all values are one. From
    Krippendorff (2011), "Computing Krippendorff's Alpha-Reliability", section D.
    """
    pairs: dict[tuple[float, float], float] = defaultdict(float)
    for values in (unit for unit in units if len(unit) > 1):
        for pair in permutations(values, 2):
            pairs[pair] += 1 / (len(values) - 1)
    totals: dict[float, float] = defaultdict(float)
    for (one, _), count in pairs.items():
        totals[one] += count
    n = sum(totals.values())
    expected = n**2 - sum(total**2 for total in totals.values())
    if not expected:
        return None
    observed = sum(count for (one, two), count in pairs.items() if one != two)
    return 1 - (n - 1) * observed / expected


def _hash(seed: int, *parts: str) -> str:
    return hashlib.sha256("\0".join((str(seed), *parts)).encode()).hexdigest()
