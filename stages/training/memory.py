"""Measures the memory of a training, and refuses one that takes too much.

Nothing is predicted. The peak is measured after each step. The first step is enough in most trainings: it has the
longest row.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from checks.kinds.method import Train
from checks.process.errors import MachineRefused, TrainingRefused

_GB = 1_000_000_000
_NO_MEMORY = "can't allocate memory"  # PyTorch's words for a CPU without memory.


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
        limit, size = self._train.max_memory_gb, peak()
        if limit is not None and size is not None and size > limit * _GB:
            raise TrainingRefused(
                f"training took {gigabytes(size)} of memory in step {state.global_step}, above train.max_memory_gb "
                f"{limit:g}",
                savings(self._train),
            )


@contextmanager
def enough(train: Train) -> Iterator[None]:
    """Raise MachineRefused if PyTorch finds too little memory in the block."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        out_of_memory = isinstance(
            error, (torch.OutOfMemoryError, MemoryError)
        ) or _NO_MEMORY in str(error)
        if not out_of_memory:
            raise
        size = peak()
        taken = "" if size is None else f": it took {gigabytes(size)} until then"
        raise MachineRefused(
            f"training does not fit into the memory of {_device(train)}{taken}", savings(train)
        ) from error


def peak() -> int | None:
    """Return the peak until now in bytes: allocated on a GPU, else resident of this process. None if unknown.

    Not ``ru_maxrss``, which a process takes over from the one that started it.
    """
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    sizes = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return 1024 * int(sizes[0]) if sizes else None


def savings(train: Train) -> str:
    """Name the changes of the section train that need less memory, the least invasive one first.

    Gradient checkpointing costs time alone, and a smaller batch with more accumulation rounds otherwise.
    """
    may_quantise = train.lora and train.lora.init != "orthogonal" and train.precision != "fp16"
    changes = (
        ("set train.gradient_checkpointing: true", not train.gradient_checkpointing),
        (
            "lower train.batch_size and raise train.gradient_accumulation by the same factor",
            train.batch_size > 1,
        ),
        ("leave longer rows out (train.max_length)", True),
        ("train an adapter (train.lora)", train.full),
        (
            "set train.quantization: {kind: nf4, double: true}",
            may_quantise and not train.quantization and not train.full,
        ),
        ("take a smaller base or a larger device", True),
    )
    return ", or ".join(change for change, helps in changes if helps)


def gigabytes(size: int) -> str:
    """Write bytes for people."""
    return f"{size / _GB:,.2f} GB" if size < 10 * _GB else f"{size / _GB:,.0f} GB"


def _device(train: Train) -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return (
        "this machine" if train.devices == 1 else f"each of {train.devices} ranks on this machine"
    )
