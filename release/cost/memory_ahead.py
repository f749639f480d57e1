"""The peak memory of the next training, without loading the model: a range whose upper end was measured.

The lower end is what weights and optimiser state take: no training needs less. The upper end is the peak of a recorded
training, if nothing that memory depends on differs from it. Otherwise the upper end is unknown, and says so.
"""

import math
from pathlib import Path
from typing import Literal, get_args

from checks import layout
from checks.config.params import Params
from checks.errors import MachineRefused, Refusal, TrainingRefused
from checks.formats.data_reports import DataReport
from checks.formats.report import Count
from checks.rows import Record
from checks.training import memory, steps
from checks.training.interface import Train
from release.cost.types import RecordedTraining

# Parameters of a training that its memory does not depend on.
_FREE = frozenset({
    "allow", "learning_rate", "max_grad_norm", "max_memory_gb", "min_learning_rate", "schedule", "seed", "warmup_ratio",
    "weight_decay",
})  # fmt: skip
_VARIES = 1.1  # a peak differs between two runs: by 2 % on the machine where that was measured
Status = Literal["no limit known", "fits", "not known", "may not fit", "does not fit"]  # the worst one last


class MemoryAhead(Record):
    """Bytes that the training needs at least and at most, and the limit. ``problem`` and ``fix``: of a refusal.

    ``high``: None if no recorded training shows it.
    """

    low: Count
    high: Count | None
    limit: Count | None
    limited_by: str | None
    status: Status
    problem: str | None = None
    fix: str | None = None

    def refusal(self) -> Refusal | None:
        """The refusal of a training that cannot fit."""
        if self.problem is None or self.fix is None:
            return None
        chosen = self.limited_by is not None and self.limited_by.startswith("train.")
        return (TrainingRefused if chosen else MachineRefused)(self.problem, self.fix)


def bounds(
    root: Path, params: Params, data: DataReport, base: str, recorded: RecordedTraining | None
) -> MemoryAhead | None:
    """The memory of the training that params.yaml asks for; None where models/base does not say its sizes.

    Of a training in steps it is that of the step that is least likely to fit. ``base``: its digest. ``recorded``: a
    training on the same device, whose total memory is then the limit, together with train.max_memory_gb.
    """
    needs = [
        _of_step(root, step, data, base, recorded.like(step.method, number) if recorded else None)
        for number, step in enumerate(steps.of(params.training))
    ]
    order = get_args(Status)
    return max(
        (step for step in needs if step),
        key=lambda step: (order.index(step.status), step.high or math.inf, step.low),
        default=None,
    )


def _of_step(
    root: Path, train: Train, data: DataReport, base: str, recorded: RecordedTraining | None
) -> MemoryAhead | None:
    low = memory.least(root / layout.BASE, train)
    if low is None:
        return None
    high = _measured(train, data, base, recorded) if recorded else None
    if high is not None:
        low = min(low, high)
    took = recorded.measured if recorded else None
    total = took.memory.total if took and took.memory else None
    if total and took and recorded and took.device.startswith("cpu"):  # whose memory the ranks share
        total = total * recorded.train.devices // train.devices
    most = memory.limit(total, took.device if took else "", train)
    if most is None:
        return MemoryAhead(low=low, high=high, limit=None, limited_by=None, status="no limit known")
    refusal = memory.refusal(low, train, most)
    return MemoryAhead(
        low=low,
        high=high,
        limit=most.size,
        limited_by=most.what,
        status="does not fit" if refusal else _status(high, most.size),
        problem=refusal.what if refusal else None,
        fix=refusal.todo if refusal else None,
    )


def _status(high: int | None, most: int) -> Status:
    if high is None:
        return "not known"
    return "may not fit" if high > most else "fits"


def _measured(train: Train, data: DataReport, base: str, recorded: RecordedTraining) -> int | None:
    """The most that a training like the recorded one takes; None if it is not alike, or its whole peak is unknown."""
    took, report = recorded.measured.memory, recorded.report
    same_rows = all(report.splits.get(name) == data.splits.get(name) for name in ("train", "valid"))
    if not took or not took.peak or report.base != base or not same_rows:
        return None
    if recorded.measured.resumed_at is not None:  # the process before it may have taken more
        return None
    now, before = (section.model_dump(exclude=set(_FREE)) for section in (train, recorded.train))
    return math.ceil(_VARIES * took.peak) if now == before else None
