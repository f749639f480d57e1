"""The memory that a training needs at least, the limit, and the refusal of one that does not fit: arithmetic alone.

Known before a model is loaded are, in bytes:

    weights + optimiser state

* weights: 2 for each of the base's parameters, 4 in fp32. In nf4 those of the layers take 0.5 (Dettmers et al. 2023,
  arXiv:2305.14314). A base that is divided among devices (``shard``) has its part on each.
* optimiser state: the parameters that learn have a value, a gradient and AdamW's two moments in float32, 16 bytes. In 8
  bits the moments may be paged out, and 8 are left. With ``full`` the base's own weights learn; in 16 bits each has a
  copy of 2 bytes for arithmetic.

What comes on top depends on the model, the rows and the libraries, so it is never predicted. It is measured: see
``stages.training.memory``.
"""

from pathlib import Path
from typing import NamedTuple

from checks.errors import EvidenceRefused, MachineRefused, Refusal, TrainingRefused
from checks.training import tensors
from checks.training.interface import Train

GB = 1_000_000_000
USABLE = 0.95  # of a device's memory: the rest is the system's, or CUDA's context
_NF4 = 0.5


class Limit(NamedTuple):
    """Bytes that a training may need, what sets the limit, and whether that is params.yaml."""

    size: int
    what: str
    chosen: bool


def least(base: Path, train: Train) -> int | None:
    """Bytes of weights and optimiser state on each device; None if the headers of ``base`` do not tell the sizes."""
    try:
        sizes = tensors.read(base)
    except EvidenceRefused:
        return None
    learning = sizes.trained(train)
    width = 4 if train.precision == "fp32" else 2
    weights: float = width * sizes.total
    if train.full and width == 4:  # among what learns
        weights -= width * learning
    if train.quantization:
        weights = _NF4 * sizes.inner + width * (sizes.total - sizes.inner)
    state = (16 if train.optimizer == "adamw_torch" else 8) * learning
    return int((weights + state) / (train.devices if train.shard else 1))


def limit(total: int | None, device: str, train: Train) -> Limit | None:
    """The lower one of what ``device`` with ``total`` bytes can give and train.max_memory_gb; None if neither is known.

    What else runs on the device does not count: free memory would make the answer depend on the moment.
    """
    limits = [Limit(int(total * USABLE), f"{USABLE:.0%} of the {gigabytes(total)} of {device}", False)] if total else []
    return min([*limits, *chosen(train)], default=None)


def chosen(train: Train) -> list[Limit]:
    """The limit that params.yaml sets, if it sets one."""
    most = train.max_memory_gb
    return [] if most is None else [Limit(int(most * GB), f"train.max_memory_gb {most:g}", True)]


def refusal(size: int, train: Train, most: Limit | None) -> Refusal | None:
    """The refusal of a training whose weights and optimiser state, ``size`` bytes, are above ``most``; None if not."""
    if most is None or size <= most.size:
        return None
    smaller = "take a smaller base or a larger device"
    if train.full:
        smaller = f"train an adapter (train.lora), or {smaller}"
    elif not train.quantization and train.precision != "fp16" and train.lora and train.lora.init != "orthogonal":
        smaller = f"set train.quantization: {{kind: nf4, double: true}}, or {smaller}"
    kind = TrainingRefused if most.chosen else MachineRefused
    what = f"training needs at least {gigabytes(size)} of memory, for its weights alone, above {most.what}"
    return kind(what, smaller)


def savings(train: Train) -> str:
    """The changes of the section train that need less memory in a step, the least invasive one first.

    Gradient checkpointing costs time alone, and a smaller batch with more accumulation rounds otherwise.
    """
    changes = [] if train.gradient_checkpointing else ["set train.gradient_checkpointing: true"]
    if train.batch_size > 1:
        changes.append("lower train.batch_size and raise train.gradient_accumulation by the same factor")
    return ", or ".join([*changes, "leave longer rows out (train.max_length)"])


def gigabytes(size: int) -> str:
    """Bytes for people."""
    return f"{size / GB:,.2f} GB" if size < 10 * GB else f"{size / GB:,.0f} GB"
