"""The adapter that ships in the folder ``adapter`` beside the base's weights, and the model that both make.

A server that adds LoRA to a base (vLLM's ``--enable-lora``) computes W·x + scale · B · (A · x), with A and B in the
number format of the base, and never adds B · A to W. So that is what is evaluated where ``merge.form`` is adapter.
As a part of the directory the adapter is in the model's digest, and so in every check of a promotion.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from checks.process.errors import EvidenceRefused
from checks.storage import layout

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"


def place(adapter: Path, ships: Path) -> None:
    """Copy config and weights of ``adapter`` into ``ships``/adapter."""
    out = ships / layout.SHIPPED_ADAPTER
    out.mkdir()
    for name in (CONFIG, WEIGHTS):
        shutil.copyfile(adapter / name, out / name)


def folder_in(model_folder: Path) -> Path | None:
    """Return the folder of the adapter that ships in ``model_folder``; None if that holds one merged model."""
    adapter = model_folder / layout.SHIPPED_ADAPTER
    return adapter if adapter.is_dir() else None


def rank(adapter: Path) -> int:
    """Return the largest rank of the adapter's modules. Raises EvidenceRefused if its config cannot be read."""
    path = adapter / CONFIG
    try:
        config = json.loads(path.read_bytes())
        return max(map(int, (config["r"], *(config.get("rank_pattern") or {}).values())))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EvidenceRefused(
            f"{path}: not an adapter's config: {error!r}", "run `./lockstep run merge`"
        ) from error


def added(model: Any, model_folder: Path) -> Any:
    """Return ``model``, loaded from ``model_folder``, with the adapter that ships there; itself if none does.

    The adapter gets the model's number format, as in vLLM. Raises what PEFT raises if it does not fit.
    """
    adapter = folder_in(model_folder)
    if adapter is None:
        return model
    from peft import PeftModel

    with_adapter: Any = PeftModel.from_pretrained(
        model, str(adapter), local_files_only=True, autocast_adapter_dtype=False
    )
    # The model itself, in whose layers the adapter now is: it has the arguments that generation asks for. PyTorch would
    # multiply the weights that PEFT froze with each row by itself, in ten times the memory. Nothing is trained here.
    return with_adapter.get_base_model().requires_grad_(True)


def merge_in_memory(model: Any) -> Any:
    """Add the adapter of ``added`` to the weights of ``model``, in their number format, and return the model."""
    from peft.tuners.lora import LoraLayer

    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.merge(safe_merge=True)
    return model
