"""Liger's kernels in the layers of a model while it trains: ``train.kernels: liger``.

Liger (Hsu et al., 2024, arXiv:2410.10989) computes norms, rotary positions and gated MLPs in one Triton kernel each.
Its loss is not used: TRL computes logits in tiles already. What is trained and written has the same form as without
Liger, so whatever reads it does not need Liger.
"""

import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from typing import Any

import torch

from checks.kinds.method import Train
from checks.process import distribution
from checks.process.errors import MachineRefused, TrainingRefused
from checks.storage import layout

_PACKAGE = "liger-kernel"
_LAYERS_ALONE = {"cross_entropy": False, "fused_linear_cross_entropy": False}


def hold(train: Train) -> None:
    """Raise MachineRefused where ``train.kernels`` cannot run: without its package, or without a GPU."""
    if train.kernels is None:
        return
    if importlib.util.find_spec("liger_kernel") is None:
        raise MachineRefused(
            f"train.kernels needs {_PACKAGE}, which is not installed",
            distribution.install("liger"),
        )
    # Triton's interpreter computes on a CPU, thousands of times slower: for tests.
    if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
        raise MachineRefused(
            f"train.kernels: {train.kernels} needs a GPU, and there is none",
            "set train.kernels to null",
        )


def refuse_unknown(train: Train, model: Any) -> None:
    """Raise TrainingRefused for a kind of model that Liger would leave as it is, and say nothing."""
    if train.kernels is None:
        return
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN

    kind = model.config.model_type
    if kind not in MODEL_TYPE_TO_APPLY_LIGER_FN:
        raise TrainingRefused(
            f"train.kernels: {_PACKAGE} {metadata.version(_PACKAGE)} has no kernels for {layout.BASE}, "
            f"model type {kind!r}",
            "set train.kernels to null",
        )


@contextmanager
def applied(train: Train, model: Any) -> Iterator[None]:
    """Train ``model`` with these kernels, which it keeps. Models that are made afterwards do not have them."""
    if train.kernels is None:
        yield
        return
    from transformers.integrations.liger import apply_liger_kernel
    from transformers.trainer_utils import unwrap_peft_model

    # Liger also exchanges functions and classes of the module that the model is made of.
    module = vars(sys.modules[type(unwrap_peft_model(model)).__module__])
    before = dict(module)
    apply_liger_kernel(model, _LAYERS_ALONE)
    try:
        yield
    finally:
        module.update(before)
