"""How much memory a training took, and the refusal of one that takes too much.

Before the base is loaded, only its weights and the optimiser's state are known (``checks.training.memory``). All else
is measured after each step. The first one is enough in most trainings: it has the longest row.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from checks import layout
from checks.errors import EvidenceRefused, MachineRefused, TrainingRefused
from checks.formats.training_reports import TrainMemory, TrainReport
from checks.machine import devices
from checks.training import cost, memory, tensors
from checks.training.interface import Train
from checks.training.memory import Limit

_NO_MEMORY = "can't allocate memory"  # as PyTorch says it of a CPU's


class Guard(TrainerCallback):
    """Measures the peak of memory after each step, and refuses a training whose peak is above train.max_memory_gb."""

    def __init__(self, train: Train) -> None:
        self._train = train

    def on_train_begin(self, _args: Any, _state: Any, _control: Any, **_kwargs: Any) -> None:
        """Measure a GPU anew: a step of several is measured by itself."""
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def on_step_end(self, _args: Any, state: Any, _control: Any, **_kwargs: Any) -> None:
        """Raise TrainingRefused if the peak until now is above the limit."""
        size = peak() or 0
        for most in memory.chosen(self._train):
            if size > most.size:
                taken = f"training took {memory.gigabytes(size)} of memory in step {state.global_step}"
                raise TrainingRefused(f"{taken}, above {most.what}", memory.savings(self._train))


@contextmanager
def enough(train: Train) -> Iterator[None]:
    """Raise MachineRefused if PyTorch finds too little memory in the block."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        lacking = isinstance(error, (torch.OutOfMemoryError, MemoryError)) or _NO_MEMORY in str(error)
        if not lacking:
            raise
        took = "" if (size := peak()) is None else f": it took {memory.gigabytes(size)} until then"
        gpu = torch.cuda.is_available()
        device = torch.cuda.get_device_name() if gpu else _machine(train)
        raise MachineRefused(
            f"training does not fit into the memory of {device}{took}", memory.savings(train)
        ) from error


def hold_weights(train: Train, root: Path) -> None:
    """Refuse, before the base is loaded, when its weights and the optimiser's state alone do not fit."""
    size = memory.least(root / layout.BASE, train)
    if size is not None and (refusal := memory.refusal(size, train, _limit(train))):
        raise refusal


def measured(train: Train) -> TrainMemory:
    """The peak until now, and the memory of the device."""
    return TrainMemory(peak=peak(), total=_total(train))


def peak() -> int | None:
    """The largest size until now, bytes: allocated on a GPU, else resident of this process; None: unknown.

    Not ``ru_maxrss``, which a process takes over from the one that started it.
    """
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return next(iter(_numbers(Path("/proc/self/status"), "VmHWM:", 1024)), None)


def speed(train: Train, report: TrainReport, seconds: float, device: str, root: Path) -> dict[str, float | None]:
    """Tokens a second without padding, and the share of the device's peak: two fields of the report of measurements."""
    per_second = report.tokens / seconds if report.tokens and seconds > 0 else None
    try:
        weights = tensors.read(root / layout.BASE)
    except EvidenceRefused:
        return {"tokens_per_second": per_second, "flop_utilisation": None}
    layers, trained = train.layers, report.trainable_parameters
    share = 1.0 if layers is None else min(1.0, layers / weights.layers)
    training = cost.Training(
        report.rows, report.epochs, train.batch_size, weights.inner, share, trained if train.lora else 0, False,
        train.precision, None, own=0 if train.lora else trained,
    )  # fmt: skip
    per_device = None if per_second is None else per_second / train.devices
    used = devices.utilisation(per_device, training.flops_per_token, device, train.precision)
    return {"tokens_per_second": per_second, "flop_utilisation": used}


def said(found: TrainMemory) -> str:
    """The end of the stage's line."""
    return "" if found.peak is None else f", peak of memory {memory.gigabytes(found.peak)}"


def _limit(train: Train) -> Limit | None:
    gpu = torch.cuda.is_available()
    return memory.limit(_total(train), torch.cuda.get_device_name() if gpu else _machine(train), train)


def _machine(train: Train) -> str:
    return "this machine" if train.devices == 1 else f"each of {train.devices} ranks on this machine"


def _total(train: Train) -> int | None:
    """Bytes of the GPU, else a rank's part of the machine or of the control group that this process is confined to."""
    if torch.cuda.is_available():
        return int(torch.cuda.get_device_properties(0).total_memory)
    limits = (*_numbers(Path("/proc/meminfo"), "MemTotal:", 1024), *_confined())
    return min(limits) // train.devices if limits else None


def _confined() -> list[int]:
    """The limits of memory of the process's control groups, of both versions (man 7 cgroups)."""
    limits = []
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root, name = ("memory", "memory.limit_in_bytes") if controllers else ("", "memory.max")
        group = Path(path.strip("/"))
        for folder in (group, *group.parents):
            limits += _numbers(Path("/sys/fs/cgroup") / root / folder / name, "", 1)
    return limits


def _numbers(path: Path, start: str, unit: int) -> list[int]:
    """The number of each line that begins with ``start``; none where the file or the number is missing."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return []
    words = [line.removeprefix(start).split() for line in lines if line.startswith(start)]
    return [int(words_of_line[0]) * unit for words_of_line in words if words_of_line and words_of_line[0].isdigit()]
