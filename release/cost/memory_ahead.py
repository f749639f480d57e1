"""The peak memory of the next training, without loading the model: by formula, scaled from a record of the device.

How long the rows are in tokens is known from the record if they are the same rows. Otherwise the bounds of the section
validate say how long they can be at most, and a training is refused only if its weights alone do not fit.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from checks import layout
from checks.config.params import Params
from checks.errors import MachineRefused, Refusal, TrainingRefused
from checks.formats.data_reports import DataReport
from checks.formats.report import Count
from checks.rows import Record
from checks.training import memory, steps
from checks.training.interface import Train
from checks.training.memory import Batch, Foretold
from release.cost.types import RecordedTraining


class MemoryAhead(Record):
    """Bytes that the training needs at least and at most, and the limit. ``problem`` and ``fix``: of a refusal."""

    low: Count
    high: Count
    limit: Count | None
    limited_by: str | None
    status: Literal["fits", "may not fit", "does not fit", "no limit known"]
    problem: str | None = None
    fix: str | None = None

    def refusal(self) -> Refusal | None:
        """The refusal of a training that cannot fit."""
        if self.problem is None or self.fix is None:
            return None
        chosen = self.limited_by is not None and self.limited_by.startswith("train.")
        return (TrainingRefused if chosen else MachineRefused)(self.problem, self.fix)


class _Bounds(NamedTuple):
    low: Foretold
    high: Foretold


def predicted(
    root: Path, params: Params, data: DataReport, base: str, recorded: RecordedTraining | None
) -> MemoryAhead | None:
    """The memory of the training that params.yaml asks for; None where models/base does not say its sizes.

    Of a training in steps it is that of the step that needs most. ``base``: its digest. ``recorded``: a training on
    the same device, whose total memory is then the limit, together with train.max_memory_gb. Without one it is
    predicted as on a CPU.
    """
    found = [
        _of_step(
            root, params.model_copy(update={"training": step}), data, base,
            recorded.like(step.method, number) if recorded else None,
        )
        for number, step in enumerate(steps.of(params.training))
    ]  # fmt: skip
    return max((each for each in found if each), key=lambda each: each.low, default=None)


def _of_step(
    root: Path, params: Params, data: DataReport, base: str, recorded: RecordedTraining | None
) -> MemoryAhead | None:
    bounds = _foretold(root, params, data, base, recorded)
    if bounds is None:
        return None
    took = recorded.measured if recorded else None
    total = took.memory.total if took and took.memory else None
    if total and took and recorded and took.device.startswith("cpu"):  # whose memory the ranks share
        total = total * recorded.train.devices // params.train.devices
    most = memory.limit(total, took.device if took else "", params.train)
    low, high = bounds.low.needed(), bounds.high.needed()
    if most is None:
        return MemoryAhead(low=low, high=high, limit=None, limited_by=None, status="no limit known")
    refusal = memory.refusal(bounds.low, most)
    return MemoryAhead(
        low=low,
        high=high,
        limit=most.size,
        limited_by=most.what,
        status="does not fit" if refusal else "may not fit" if high > most.size else "fits",
        problem=refusal.what if refusal else None,
        fix=refusal.todo if refusal else None,
    )


def _foretold(
    root: Path, params: Params, data: DataReport, base: str, recorded: RecordedTraining | None
) -> _Bounds | None:
    train = params.train
    sizes = memory.sizes(root / layout.BASE, train)
    if sizes is None:
        return None
    rows, cpu = train.batch_size * train.sequences, recorded is None or recorded.measured.device.startswith("cpu")
    took = recorded.measured.memory if recorded else None
    if recorded is None or took is None or recorded.report.base != base or recorded.train.method != train.method:
        return _between(params, Foretold(train, sizes, Batch(rows, 0, 0), cpu))
    before = memory.sizes(root / layout.BASE, recorded.train)
    scale = 1.0
    if before and took.peak:
        old = Foretold(recorded.train, before, Batch(took.rows, took.tokens, took.logits), cpu)
        scale = took.peak / old.peak()
    if _sequences(recorded.report.splits, recorded.train) != _sequences(data.splits, train):
        return _between(params, Foretold(train, sizes, Batch(rows, 0, 0), cpu, scale=scale))
    logits = took.logits * rows // max(1, took.rows)
    known = Foretold(train, sizes, Batch(rows, took.tokens, logits), cpu, scale=scale)
    return _Bounds(known, known)


def _sequences(splits: Mapping[str, str], train: Train) -> tuple[Any, ...]:
    """What sequences and logits follow from: the rows, which turns are learned, and if they are packed how far."""
    turns = getattr(train, "loss_turns", None)  # of sft
    return splits.get("train"), turns, train.max_length if train.makes_sequences else None


def _between(params: Params, low: Foretold) -> _Bounds:
    """From no tokens to as many as validate lets through, or a packed sequence has."""
    longest = params.train.max_length
    if not params.train.makes_sequences:
        longest = min(longest, params.validate_.max_prompt_tokens + params.validate_.max_reference_tokens)
    return _Bounds(low, low._replace(batch=Batch(low.batch.rows, longest, 0)))
