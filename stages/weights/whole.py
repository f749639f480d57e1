"""The base's own weights after full fine-tuning: one file, with every tensor that learned, by its name in the base.

They are float32, as they learned. ``merge`` writes them in the base's own number format.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from checks.process.errors import MergeRefused
from stages.weights import shards
from stages.weights.shards import Checkpoint, Tensor

WEIGHTS = "trained_weights.safetensors"
_RETRAIN = "run `./lockstep run train`"
_ROWS = 1_000_000  # numbers that are rounded at a time
_AUTOCAST = (torch.bfloat16, torch.float16)


@contextmanager
def opened(folder: Path, base: Mapping[str, Tensor]) -> Iterator[Checkpoint]:
    """Open the weights in ``folder``, which must be tensors of ``base``, the base model's.

    Raises MergeRefused if one of them is not there or has another shape, EvidenceRefused if the file cannot be read.
    """
    with shards.opened(folder, WEIGHTS) as weights:
        if not weights.tensors:
            raise MergeRefused(f"{folder / WEIGHTS}: holds no tensors", _RETRAIN)
        for name, tensor in sorted(weights.tensors.items()):
            if name not in base or base[name].shape != tensor.shape:
                here = f"has the shape {list(base[name].shape)}" if name in base else "is not there"
                raise MergeRefused(
                    f"{folder / WEIGHTS}: {name} has the shape {list(tensor.shape)}, and in the base it {here}",
                    f"the weights are of another base: {_RETRAIN}",
                )
        yield weights


def rounded(name: str, trained: torch.Tensor, dtype: torch.dtype) -> Iterator[torch.Tensor]:
    """Yield the tensor in ``dtype``, a part at a time. Raises MergeRefused if a value is not finite then."""
    for part in trained.reshape(-1).split(_ROWS):
        rounded_part = part.to(dtype)
        if not math.isfinite(rounded_part.sum(dtype=torch.promote_types(dtype, torch.float32))):
            raise MergeRefused(
                f"{name}: trained weights are not finite in {dtype}",
                "lower train.learning_rate, or use a base in bf16",
            )
        yield rounded_part


def put(model: torch.nn.Module, trained: Mapping[str, torch.Tensor]) -> None:
    """Give the model these weights, in float32; it then computes as in training. Raises KeyError for a foreign name."""
    weights = dict(model.named_parameters())
    first = next(iter(weights.values()))
    device, dtype = first.device, first.dtype
    for name, value in trained.items():
        weights[name].data = value.to(device, torch.float32)
    if dtype in _AUTOCAST:
        forward = torch.autocast(device.type, dtype=dtype)(model.forward)
        model.forward = forward
