"""Scales the duration of a recorded training to the training that params.yaml asks for.

The time goes by rows and epochs, or by ``train.max_steps``. Whatever else differs widens the range.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from checks.formats.data_reports import DataReport
from checks.formats.thinking import Thinking
from checks.formats.training_reports import TrainMeasured, TrainReport
from checks.kinds.method import Train
from checks.records.rows import Record, Row
from checks.storage import files, layout
from checks.training import steps

MOST = 1e15  # No figure that is larger can be scaled from, so no estimate overflows.
# How far a forecast may be off, as a factor in both directions.
_ALWAYS = 1.5
_OTHER_ROWS = 1.5
_OTHER_PARAMETERS = 3.0
# Parameters that the range does not depend on: those that the time is scaled by, and those that cost no time.
_FREE = frozenset({
    "allow", "epochs", "learning_rate", "max_grad_norm", "max_memory_gb", "max_steps", "min_learning_rate", "schedule",
    "seed", "warmup_ratio", "weight_decay",
})  # fmt: skip


class Unscalable(Exception):  # noqa: N818 - no error: there is no estimate then
    """The reason why no estimate can be scaled from a record."""


class RecordedStep(NamedTuple):
    """One step of a recorded training. ``sequences``: the packed rows; None if they were not packed."""

    train: Train
    rows: int
    epochs: float
    sequences: int | None
    seconds: float


class RecordedTraining(NamedTuple):
    """A recorded training, and its evaluation: None for ``answers_per_second`` if these are not known.

    ``thinking``: how its model thought before each answer, and ``thought_tokens`` the mean length of a thought.
    """

    ref: str
    commit: str
    report: TrainReport
    measured: TrainMeasured
    steps: tuple[RecordedStep, ...]
    answers_per_second: float | None
    thinking: Thinking | None = None
    thought_tokens: float | None = None


class Range(Record):
    """A figure with its bounds."""

    low: float
    middle: float
    high: float

    @property
    def text(self) -> str:
        """Return the figure and its bounds for people, such as 3.9 (2.6 to 5.8)."""
        return f"{shown(self.middle)} ({shown(self.low)} to {shown(self.high)})"

    def times(self, factor: float) -> "Range":
        """Return the figure in another unit."""
        return Range(low=self.low * factor, middle=self.middle * factor, high=self.high * factor)

    def plus(self, other: "Range") -> "Range":
        """Return the sum. The bounds are added as if both errors had the same sign."""
        return Range(
            low=self.low + other.low, middle=self.middle + other.middle, high=self.high + other.high
        )


class Factor(Record):
    """One factor, its reason, and its uncertainty below and above, as factors of at least 1."""

    why: str
    times: float
    below: float
    above: float


class PlannedStep(NamedTuple):
    """One step of the next training, and the number of rows that it learns from. Most trainings have one step."""

    train: Train
    rows: int


class Forecast(NamedTuple):
    """Estimated seconds of the training, which occupies each of ``devices``, and of the evaluation on one device.

    ``evaluation`` is None if its speed is not known.
    """

    training: Range
    devices: int
    evaluation: Range | None
    factors: tuple[Factor, ...]

    @property
    def device_seconds(self) -> Range:
        """The seconds of all devices, for training and evaluation."""
        training = self.training.times(self.devices)
        return training.plus(self.evaluation) if self.evaluation else training


def planned(root: Path, training: Train | steps.Steps, data: DataReport) -> list[PlannedStep]:
    """List the steps of the training that params.yaml asks for, on the splits that validate saw.

    Raises EvidenceRefused if the train split must be read, because a step learns from some of its rows, and cannot be.
    """
    trains, columns = steps.of(training), steps.in_some_rows(training)
    if not columns and not any(train.of_documents for train in trains):
        return [PlannedStep(train, data.rows.get("train", 0)) for train in trains]
    rows = files.read_jsonl(root / layout.SPLITS / "train.jsonl", Row)
    return [PlannedStep(train, len(steps.rows_of(train, columns, rows))) for train in trains]


def forecast(
    plan: Sequence[PlannedStep],
    data: DataReport,
    base: str,
    recorded: RecordedTraining,
    draws: int = 1,
    thinking: Thinking | None = None,
) -> Forecast:
    """Scale each step of ``plan`` from the recorded step with the same method.

    ``base`` is the digest of the base model, ``draws`` how often each test row is answered. A record of a model that
    thought otherwise than ``thinking`` does not say how long answers take. Raises Unscalable if no recorded step is
    like a planned one.
    """
    if base != recorded.report.base:
        raise Unscalable("the base is not what was recorded")
    same_rows = data.splits.get("train") == recorded.report.splits.get("train")
    training, factors = _span(0, 1), list[Factor]()
    for number, step in enumerate(plan):
        before = _alike(step.train, number, recorded)
        step_factors = _factors(step, before, same_rows)
        middle = before.seconds * math.prod(factor.times for factor in step_factors)
        training = training.plus(_span(middle, math.prod(factor.above for factor in step_factors)))
        name = f"step {number + 1}, {step.train.method}: " if len(plan) > 1 else ""
        factors += [
            factor.model_copy(update={"why": f"{name}{factor.why}"}) for factor in step_factors
        ]
    evaluation = None
    if recorded.answers_per_second is not None and recorded.thinking == thinking:
        evaluation = _span(data.rows.get("test", 0) * draws / recorded.answers_per_second, _ALWAYS)
    return Forecast(training, plan[0].train.devices, evaluation, tuple(factors))


def shown(value: float) -> str:
    """Write a number for people, such as 0.444 or 4,334."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _span(middle: float, factor: float) -> Range:
    return Range(low=middle / factor, middle=middle, high=middle * factor)


def _alike(train: Train, number: int, recorded: RecordedTraining) -> RecordedStep:
    """Return the recorded step with the method of ``train``: the one with this number if there are several."""
    alike = {
        at: step for at, step in enumerate(recorded.steps) if step.train.method == train.method
    }
    if not alike:
        methods = " and ".join(step.train.method for step in recorded.steps)
        raise Unscalable(
            f"train.method is {train.method}, and the record is of a training with {methods}"
        )
    step = alike.get(number, next(iter(alike.values())))
    if step.train.devices != train.devices:
        raise Unscalable(
            f"train.devices is {train.devices}, and the record is of a training on {step.train.devices}"
        )
    return step


def _factors(step: PlannedStep, before: RecordedStep, same_rows: bool) -> list[Factor]:
    passes = min(step.rows * _epochs(step, before), MOST)
    recorded_passes = before.rows * before.epochs
    why = f"rows x epochs: {shown(passes)}, recorded {shown(recorded_passes)}"
    factors = [Factor(why=why, times=passes / recorded_passes, below=1, above=1)]
    if not same_rows:
        factors.append(Factor(why="other rows", times=1, below=_OTHER_ROWS, above=_OTHER_ROWS))
    values, recorded_values = (
        train.model_dump(exclude=set(_FREE)) for train in (step.train, before.train)
    )
    changed = [
        f"train.{name}" for name, value in values.items() if value != recorded_values.get(name)
    ]
    if changed:
        why = f"not as recorded: {', '.join(changed)}"
        factors.append(Factor(why=why, times=1, below=_OTHER_PARAMETERS, above=_OTHER_PARAMETERS))
    return [*factors, Factor(why="the machine and its load", times=1, below=_ALWAYS, above=_ALWAYS)]


def _epochs(step: PlannedStep, before: RecordedStep) -> float:
    """Return the passes over the rows of ``step``, as the trainer counts them."""
    train, rows = step.train, step.rows
    if train.max_steps is None:
        return min(train.epochs or 1, MOST)
    if train.makes_sequences:
        if before.sequences is None:
            raise Unscalable(
                "train.max_steps counts packed rows, and the record is of a training without packing"
            )
        rows = math.ceil(rows * before.sequences / before.rows)
    return min(train.max_steps, MOST) / train.steps_of_epoch(rows)
