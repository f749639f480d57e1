"""A merged model with weights of 8 bits, in the format of compressed-tensors, which transformers and vLLM read.

Each weight of a linear layer is rounded to the nearest of the 8-bit numbers times the scale of its row. With that scale
the largest weight of the row is the largest number. Inputs are rounded while the model computes, with a scale for each
token. Neither needs data, so the same 16-bit model gives the same bytes on every machine. Embeddings, norms and the
head stay as they are. The names of the schemes are those of LLM Compressor: ``W8A8`` and ``FP8_DYNAMIC``.
"""

import importlib.metadata
import importlib.util
import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from checks.process import distribution
from checks.process.errors import MachineRefused, MergeRefused
from checks.process.text import redact
from checks.records.rows import Row
from checks.storage import files, layout
from checks.training.quantization import COMPRESSOR, COMPRESSOR_PYTHON, Calibration
from stages import workers
from stages.weights import compressor_worker, model_files, shards
from stages.weights.shards import Tensor

LOG = layout.STATE / "compressor.log"  # What LLM Compressor printed in its last run.
_WORKER = ["-I", compressor_worker.__file__]
_DROPPED = ("PYTHON", "HF_", "LLM_COMPRESSOR_")
_OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
# What a weight of a linear layer becomes: 4-bit numbers, eight in an int32; a scale for each group; its own shape.
_PARTS = ("_packed", "_scale", "_shape")


def hold_compressor(root: Path, how: Calibration) -> None:
    """Raise MachineRefused unless the environment has the version of LLM Compressor that params.yaml names."""
    python = workers.python(root, COMPRESSOR_PYTHON, COMPRESSOR)
    todo = f"run `python -m stages.tools.compressor {how.version}`, or set {COMPRESSOR_PYTHON} to a Python that has it"
    done = workers.about(
        [python, *_WORKER, "about"], _environment(), "merge.quantization needs LLM Compressor", todo
    )
    if done.returncode:
        raise MachineRefused(
            f"{python}: has no LLM Compressor: {workers.last_line(done.stderr)}", todo
        )
    if (version := done.stdout.strip()) != how.version:
        has = f"{python}: has LLM Compressor {redact(version)}"
        raise MachineRefused(
            f"{has}, and merge.quantization.calibration.version is {how.version}", todo
        )


def export_calibrated(
    root: Path,
    source: Path,
    out: Path,
    kind: str,
    how: Calibration,
    rows: Sequence[Row],
    limit: int,
) -> None:
    """Write the model of ``source`` with weights of 4 bits into the directory ``out``, in files of ``limit`` bytes.

    ``rows``: those of the train split that it is calibrated on. Raises MergeRefused if the model cannot be written so,
    or LLM Compressor fails.
    """
    from transformers import AutoTokenizer

    from stages.weights import parity

    with shards.opened(source) as weights:
        before = weights.tensors
        chosen = linear(source, before)
    odd = [name for name in sorted(chosen) if before[name].shape[1] % how.group]
    if odd:
        raise MergeRefused(
            f"{odd[0]}: {before[odd[0]].shape[1]} columns, which is no multiple of the group, {how.group}",
            "change merge.quantization.calibration.group: 32 divides most",
        )
    tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True)
    job = {
        "kind": kind, "model": str(source.resolve()), "prompts": [parity.encode(tokenizer, row).ids for row in rows],
        "group": how.group, "ignore": [HEAD], "limit": limit,
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix=".", dir=out) as home:
        made = Path(home) / "made"
        made.mkdir()
        (Path(home) / "job.json").write_text(
            json.dumps(job | {"out": str(made.resolve())}), encoding="utf-8"
        )
        _run_compressor(root, Path(home) / "job.json")
        with shards.opened(made) as weights:
            after = set(weights.tensors)
        _hold_complete(set(before), chosen, after)
        config = json.loads((made / "config.json").read_text(encoding="utf-8"))
        copy_rest(source, out, config["quantization_config"])
        for path in made.iterdir():
            if path.suffix == ".safetensors" or path.name == shards.INDEX:
                shutil.move(path, out / path.name)


def _run_compressor(root: Path, job: Path) -> None:
    log = root / LOG
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as printed:
        python = workers.python(root, COMPRESSOR_PYTHON, COMPRESSOR)
        done = subprocess.run(
            [python, *_WORKER, "round", job.resolve()], stdin=subprocess.DEVNULL, stdout=printed, stderr=printed,
            env=_environment(), cwd=job.parent,
        )  # fmt: skip
    if done.returncode:
        last = workers.last_line(log.read_text(encoding="utf-8", errors="replace"))
        raise MergeRefused(
            f"LLM Compressor ended with {done.returncode}: {last}",
            f"read {LOG}, or use another kind",
        )


def _hold_complete(before: set[str], chosen: frozenset[str], after: set[str]) -> None:
    """Raise MergeRefused unless exactly the weights ``chosen`` were replaced by their parts."""
    wanted = (before - chosen) | {f"{name}{part}" for name in chosen for part in _PARTS}
    if wrong := sorted(wanted ^ after):
        what = "is missing" if wrong[0] in wanted else "is unexpected"
        raise MergeRefused(
            f"LLM Compressor wrote the wrong tensors: {redact(wrong[0])} {what}",
            "use int8 or fp8 for this model",
        )


def _environment() -> dict[str, str]:
    """Return variables without those that could make the worker import the pipeline's packages or ask a hub."""
    return workers.environment(_DROPPED, _OFFLINE)


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
