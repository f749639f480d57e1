"""A merged model with weights of 8 bits, in the format of compressed-tensors, which transformers and vLLM read.

Each weight of a linear layer is rounded to the nearest of the 8-bit numbers times the scale of its row. With that scale
the largest weight of the row is the largest number. Inputs are rounded while the model computes, with a scale for each
token. Neither needs data, so the same 16-bit model gives the same bytes on every machine. Embeddings, norms and the
head stay as they are. The names of the schemes are those of LLM Compressor: ``W8A8`` and ``FP8_DYNAMIC``.
"""

import importlib.metadata
import importlib.util
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from checks.process import distribution, imports
from checks.process.errors import MachineRefused, MergeRefused
from checks.storage import files
from stages.weights import model_files, shards
from stages.weights.shards import Tensor

PACKAGE = "compressed-tensors"
_SCHEMES = {
    "int8": ("W8A8", "int-quantized", "I8"),
    "fp8": ("FP8_DYNAMIC", "float-quantized", "F8_E4M3"),
}
_SCALE = "_scale"  # after the weight's name
HEAD = "lm_head"


def hold_installed() -> str:
    """Return the version of compressed-tensors. Raises MachineRefused when it is not installed."""
    if importlib.util.find_spec("compressed_tensors") is None:
        raise MachineRefused(
            f"merge.quantization needs {PACKAGE}, which is not installed",
            distribution.install("quantization"),
        )
    return importlib.metadata.version(PACKAGE)


def export(source: Path, out: Path, kind: str, limit: int) -> None:
    """Write the model of ``source`` with weights of 8 bits into the directory ``out``, in files of ``limit`` bytes.

    compressed-tensors must be installed. Raises MergeRefused for a model with matrices that are neither of linear
    layers nor of embeddings.
    """
    from compressed_tensors.quantization import (
        QuantizationConfig,
        QuantizationStatus,
        preset_name_to_scheme,
    )

    preset, form, dtype = _SCHEMES[kind]
    scheme = preset_name_to_scheme(preset, ["Linear"])
    with shards.opened(source) as weights:
        chosen = linear(source, weights.tensors)
        planned = []
        for tensor in weights.tensors.values():
            if tensor.name not in chosen:
                planned.append(tensor)
                continue
            rows, columns = tensor.shape
            scale = tensor.nbytes // columns
            planned.append(Tensor(tensor.name, dtype, tensor.shape, rows * columns))
            planned.append(Tensor(f"{tensor.name}{_SCALE}", tensor.dtype, (rows, 1), scale))

        def pieces(tensor: Tensor) -> Iterator[torch.Tensor]:
            name = tensor.name.removesuffix(_SCALE)
            if name not in chosen:
                yield weights.read(tensor.name)
                return
            codes, scale = _rounded(weights.read(name), scheme.weights)
            yield codes if tensor.name == name else scale

        plan = shards.plan(planned, limit)
        for shard in plan:
            shards.write(out / shard.file, shard.tensors, pieces)
        if len(plan) > 1:
            files.write_json(out / shards.INDEX, shards.index(plan))
    described = QuantizationConfig(
        config_groups={"group_0": scheme}, ignore=[HEAD], format=form,
        quantization_status=QuantizationStatus.COMPRESSED,
    )  # fmt: skip
    copy_rest(source, out, described.model_dump(mode="json"))


def copy_rest(source: Path, out: Path, described: dict[str, Any]) -> None:
    """Copy all but the weights of the 16-bit model; config.json then says how they are ``described``."""
    for path in sorted(source.iterdir()):
        if path.suffix != ".safetensors" and path.name != shards.INDEX:
            shutil.copyfile(path, out / path.name)
    config = model_files.read(source / "config.json", MergeRefused)
    config["quantization_config"] = described
    model_files.write(out / "config.json", config)


def _rounded(weight: torch.Tensor, how: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Round ``weight`` [rows, columns] to 8-bit numbers; return them with each row's scale [rows, 1] in its type."""
    from compressed_tensors.quantization import quantize
    from compressed_tensors.quantization.utils import calculate_qparams

    exact = weight.float()
    scale, zero = calculate_qparams(exact.amin(1, keepdim=True), exact.amax(1, keepdim=True), how)
    scale = scale.to(weight.dtype)  # The scale is rounded as it is stored.
    return quantize(exact, scale.float(), zero, how, dtype=how.pytorch_dtype()), scale


def linear(folder: Path, tensors: Mapping[str, Tensor]) -> frozenset[str]:
    """Return the names of the weights of linear layers, without the head's. Raises MergeRefused as ``export``."""
    with imports.uncollected():
        from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            AutoConfig.from_pretrained(folder, local_files_only=True)
        )
    kinds = {f"{name}.weight": type(module) for name, module in model.named_modules()}
    chosen = {
        name for name, kind in kinds.items() if kind is torch.nn.Linear and name != f"{HEAD}.weight"
    }
    kept = (torch.nn.Linear, torch.nn.Embedding)
    matrices = [name for name, tensor in tensors.items() if len(tensor.shape) > 1]
    if other := [name for name in matrices if not issubclass(kinds.get(name, object), kept)]:
        raise MergeRefused(
            f"{other[0]}: is neither of a linear layer nor of an embedding, and {model.config.model_type} has "
            f"{len(other)} such weights",
            "remove merge.quantization: such models ship in 16 bits",
        )
    return frozenset(chosen & tensors.keys())
