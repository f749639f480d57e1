"""Says how many labels a gate needs before anybody labels, by how often the judge says what people say.

The power is that of the gate's own test (``checks.stats.assisted``) on simulated labels of the rows that were answered:
their groups, and which answers differ, are the real ones. People are supposed to prefer one of any two answers that
differ. Where they call some a tie, fewer labels show as much.
"""

from bisect import bisect_left
from collections.abc import Iterator
from statistics import fmean
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from checks.config import starting
from checks.config.params import Params
from checks.evaluation import comparisons
from checks.formats.suite_report import HUMAN
from checks.gating.assisted_gate import AssistedGate
from checks.kinds.suite import Draw
from checks.records.rows import Record
from checks.stats.assisted import LEAST_LABELS, Assisted, rows_to_see
from release.review.label_tasks import AnswerPairs

JUDGES = (0.8, 0.9, 0.95)  # Shares of the rows on which a judge says what people say.
_GAINS = (0.05, 0.1)  # How much better the candidate of a gate `improves` is supposed to be.
_RUNS = 20
_SEED = 17
_STEP = 10  # labels


class PlannedGate(Record):
    """Labels that show a candidate's true difference ``gain`` with 80 % power; None: all rows are too few.

    ``people``: without a judge. ``assisted``: by how often the judge is right; empty if no judge assists the gate.
    """

    gate: str
    gain: float
    people: int | None
    assisted: dict[str, int | None]


class LabelPlan(NamedTuple):
    """The gates that ask people, and how many of the suite's rows have answers that differ."""

    gates: tuple[PlannedGate, ...]
    rows: int
    differ: int


class _Rows(NamedTuple):
    """The rows in the order of the draw: their groups, and whether their answers differ."""

    groups: NDArray[np.intp]
    differ: NDArray[np.bool_]


def plan(pairs: AnswerPairs, name: str, params: Params) -> LabelPlan:
    """Return the labels that each gate needs which asks people about suite ``name``."""
    drawn = comparisons.drawn(pairs.rows, Draw(pairs.suite.seed, len(pairs.rows)))
    _, groups = np.unique([row.group for row in drawn], return_inverse=True)
    rows = _Rows(groups, np.array([pairs.ours[row.id] != pairs.theirs[row.id] for row in drawn]))
    shares = starting.models(params)
    planned = []
    for gate_name, gate in params.gates.items():
        if isinstance(gate, AssistedGate) and (gate.suite, gate.metric) == (name, HUMAN):
            level = (1 - gate.confidence) / shares
            least = (
                LEAST_LABELS if gate.better else max(LEAST_LABELS, rows_to_see(gate.margin, level))
            )
            for gain in [gate.limit + more for more in _GAINS] if gate.better else [0.0]:
                needed = {
                    right: _needed(rows, gain, right, gate.limit, level, least)
                    for right in (None, *(JUDGES if gate.assisted_by else ()))
                }
                people = needed.pop(None)
                assisted = {f"{right:.0%}": labels for right, labels in needed.items()}
                planned.append(
                    PlannedGate(gate=gate_name, gain=gain, people=people, assisted=assisted)
                )
    return LabelPlan(tuple(planned), len(drawn), int(rows.differ.sum()))


def simulated(
    rows: _Rows, gain: float, right: float | None, labels: int, runs: int
) -> Iterator[Assisted]:
    """Yield what the gate computes where people label the first ``labels`` rows, each time of other answers."""
    random = np.random.default_rng(_SEED)
    number = int(rows.groups.max()) + 1
    share = gain / rows.differ.mean()  # Of the rows whose answers differ.
    for _ in range(runs):
        better = np.where(random.random(number) < (1 + share) / 2, 1.0, -1.0)[rows.groups]
        people = better * rows.differ
        agrees = np.where(random.random(number) < (right or 0), 1.0, -1.0)[rows.groups]
        judge = people * agrees * (right is not None)
        people[labels:] = np.nan
        yield Assisted.of(people, judge, rows.groups)


def _needed(
    rows: _Rows, gain: float, right: float | None, limit: float, level: float, least: int
) -> int | None:
    """Return the fewest labels, in steps of ten, that have the power; None: all rows are too few."""
    if len(rows.differ) < least or abs(gain) > rows.differ.mean():
        return None

    def has_power(labels: int) -> bool:
        tests = simulated(rows, gain, right, labels, _RUNS)
        return fmean(test.detectable(level) for test in tests) <= gain - limit

    counts = [*range(least, len(rows.differ), _STEP), len(rows.differ)]
    first = bisect_left(counts, True, key=has_power)
    return counts[first] if first < len(counts) else None
