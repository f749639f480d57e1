"""Reads a LoRA adapter saved by PEFT as the deltas that it adds to the base's weights.

W' = W + scale · B · A, with scale = alpha / r, or alpha / √r with rank-stabilised LoRA (Hu et al., arXiv 2106.09685;
Kalajdzievski, arXiv 2312.03732). DoRA (Liu et al., arXiv 2402.09353) gives each row of that the length m that it
learned: W' = m (W + scale · B · A) / |W + scale · B · A|. Modules that learned whole (``modules_to_save``) take the
place of the base's. An adapter with any other setting is refused by the setting's name; nothing is guessed.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch

from checks.process.errors import MergeRefused
from stages.inference.shipped_adapter import CONFIG as CONFIG
from stages.inference.shipped_adapter import WEIGHTS as WEIGHTS
from stages.weights import shards
from stages.weights.shards import Checkpoint, Tensor

_RETRAIN = "train an adapter of LoRA or DoRA on linear layers: `./lockstep run train`"
_KEY = re.compile(
    r"base_model\.model\.(?P<module>.+)\.(?:lora_(?P<side>[AB])\.weight|lora_(?P<length>magnitude)_vector(?:\.weight)?)"
)
_WHOLE = re.compile(r"base_model\.model\.(?P<weight>(?!.*\.lora_).+\.weight)")
_CACHED = 1_000_000  # bytes of rows that are merged at a time: they stay in the processor's cache
_FLOATS = ("F64", "F32", "F16", "BF16")
# Settings that leave the formulas above as they are, whatever they hold, or choose among them.
_HARMLESS = frozenset(
    (
        *(
            "peft_type",
            "peft_version",
            "task_type",
            "auto_mapping",
            "base_model_name_or_path",
            "revision",
        ),
        *(
            "r",
            "rank_pattern",
            "lora_alpha",
            "alpha_pattern",
            "use_rslora",
            "lora_dropout",
            "init_lora_weights",
        ),
        *(
            "target_modules",
            "exclude_modules",
            "layers_to_transform",
            "layers_pattern",
            "ensure_weight_tying",
        ),
        *(
            "inference_mode",
            "megatron_core",
            "qalora_group_size",
            "bias",
            "use_dora",
            "modules_to_save",
        ),
    )
)


class Delta(NamedTuple):
    """The change of one weight: names of A ``[r, in]`` and B ``[out, r]`` in the adapter, and the scale.

    ``length`` is the name of DoRA's m ``[out]``, None for plain LoRA.
    """

    a: str
    b: str
    scale: float
    length: str | None


class Adapter(NamedTuple):
    """An open adapter, and its delta for each weight of the base that it changes.

    ``whole``: by the name in the base, the tensors of the adapter that take the place of one.
    """

    weights: Checkpoint
    deltas: Mapping[str, Delta]
    whole: Mapping[str, str] = MappingProxyType({})


@contextmanager
def opened(folder: Path, base: Mapping[str, Tensor], tied_rows: int | None) -> Iterator[Adapter]:
    """Open the adapter in ``folder`` and match it to ``base``, the tensors of the base model.

    ``tied_rows``: the size of the vocabulary if input and output embeddings are one tensor, else None. Raises
    MergeRefused if the adapter is more than LoRA on linear layers, if one of its tensors matches no weight of the base,
    or if a shape or rank contradicts the base or the adapter's config.
    """
    config = _config(folder / CONFIG)
    with shards.opened(folder, WEIGHTS) as weights:
        whole, twins = _learned_whole(folder, config, weights, base, tied_rows)
        rest = {
            name: tensor
            for name, tensor in weights.tensors.items()
            if name not in {*whole.values(), *twins}
        }
        yield Adapter(weights, _fitted(folder, config, rest, base, tied_rows), whole)


def _config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text())
        r, alpha, initial = config["r"], config["lora_alpha"], config.get("init_lora_weights", True)
        kind, bias = config["peft_type"], config.get("bias", "none")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MergeRefused(
            f"{path}: not an adapter's config: {error!r}", "run `./lockstep run train`"
        ) from error
    if kind != "LORA":
        raise MergeRefused(f"{path}: peft_type is {kind!r}", _RETRAIN)
    if bias != "none":
        raise MergeRefused(
            f"{path}: bias is {bias!r}: it changes more than linear weights", _RETRAIN
        )
    if initial not in (True, False, "gaussian", "orthogonal"):
        raise MergeRefused(
            f"{path}: init_lora_weights is {initial!r}: it changes the base's weights", _RETRAIN
        )
    for key in sorted(config.keys() - _HARMLESS):
        if config[key]:
            raise MergeRefused(
                f"{path}: {key} is {json.dumps(config[key])}, which merge cannot apply", _RETRAIN
            )
    if not isinstance(r, int) or not isinstance(alpha, int | float) or isinstance(r, bool) or r < 1:
        raise MergeRefused(
            f"{path}: r is {r!r} and lora_alpha {alpha!r}", "run `./lockstep run train`"
        )
    return config


def _learned_whole(
    folder: Path,
    config: Mapping[str, Any],
    weights: Checkpoint,
    base: Mapping[str, Tensor],
    tied_rows: int | None,
) -> tuple[dict[str, str], list[str]]:
    """The tensors that take the place of one of the base, and those that say again what one of them says.

    PEFT saves a head that is tied to the embeddings beside them; the base has it once.
    """
    if not config.get("modules_to_save"):
        return {}, []
    wholes = {
        match["weight"]: name for name in weights.tensors if (match := _WHOLE.fullmatch(name))
    }
    whole = {weight: name for weight, name in wholes.items() if weight in base}
    tied = [name for name in wholes.values() if weights.tensors[name].shape[0] == tied_rows]
    if tied and not config.get("ensure_weight_tying"):
        raise MergeRefused(
            f"{folder / CONFIG}: ensure_weight_tying is off, and the base's head is tied to its embeddings: one "
            "learned apart from the other",
            _RETRAIN,
        )
    for weight, name in sorted(whole.items()):
        if base[weight].shape != weights.tensors[name].shape:
            raise MergeRefused(
                f"{weight}: base {list(base[weight].shape)} against adapter {list(weights.tensors[name].shape)}",
                "the adapter is of another base: `./lockstep run train`",
            )
    twins = [
        name
        for name in sorted(set(tied).difference(whole.values()))
        if any(torch.equal(weights.read(name), weights.read(other)) for other in whole.values())
    ]
    return whole, twins


def _fitted(
    folder: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    base: Mapping[str, Tensor],
    tied_rows: int | None,
) -> dict[str, Delta]:
    sides: dict[str, dict[str, str]] = {}
    for name in tensors:
        if match := _KEY.fullmatch(name):
            sides.setdefault(match["module"], {})[match["side"] or match["length"]] = name
    expected = {"A", "B", "magnitude"} if config.get("use_dora") else {"A", "B"}
    paired = {
        module: names
        for module, names in sides.items()
        if names.keys() == expected and f"{module}.weight" in base
    }
    used = {name for names in paired.values() for name in names.values()}
    if left := sorted(tensors.keys() - used):
        shown = ", ".join(left[:5]) + (f" and {len(left) - 5} more" if len(left) > 5 else "")
        raise MergeRefused(
            f"{folder / WEIGHTS}: {len(left)} tensors fit no weight of the base: {shown}",
            "train the adapter on this base, on linear layers only: `./lockstep run train`",
        )
    if not paired:
        raise MergeRefused(f"{folder / WEIGHTS}: holds no tensors", "run `./lockstep run train`")
    deltas = {}
    for module, names in sorted(paired.items()):
        weight, a, b = base[f"{module}.weight"], tensors[names["A"]], tensors[names["B"]]
        rank = _of_pattern(config.get("rank_pattern"), module, config["r"])
        alpha = _of_pattern(config.get("alpha_pattern"), module, config["lora_alpha"])
        if len(weight.shape) != 2 or (*b.shape, *a.shape) != (
            weight.shape[0],
            rank,
            rank,
            weight.shape[1],
        ):
            raise MergeRefused(
                f"{weight.name}: base {list(weight.shape)} and rank {rank} against adapter "
                f"A {list(a.shape)}, B {list(b.shape)}",
                "the adapter is of another base: `./lockstep run train`",
            )
        length = names.get("magnitude")
        if length is not None and tensors[length].shape != (weight.shape[0],):
            raise MergeRefused(
                f"{weight.name}: base {list(weight.shape)} against adapter's lengths {list(tensors[length].shape)}",
                "the adapter is of another base: `./lockstep run train`",
            )
        if weight.dtype not in _FLOATS:
            raise MergeRefused(
                f"{weight.name}: the base holds {weight.dtype}", "merge into an unquantised base"
            )
        if weight.shape[0] == tied_rows:
            raise MergeRefused(
                f"{weight.name}: LoRA on a head that is tied to the embeddings",
                "leave lm_head and the embeddings out of train.lora.targets",
            )
        deltas[weight.name] = Delta(
            names["A"],
            names["B"],
            alpha / (math.sqrt(rank) if config.get("use_rslora") else rank),
            length,
        )
    return deltas


def _of_pattern(patterns: Mapping[str, Any] | None, module: str, default: Any) -> Any:
    """The value of the first pattern that matches the end of the module's name, as in PEFT's ``get_pattern_key``."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def merged_rows(weight: torch.Tensor, delta: Delta, adapter: Checkpoint) -> Iterator[torch.Tensor]:
    """Yield W', a few rows at a time, computed in float32 (float64 for a float64 W), in W's dtype.

    ``weight`` is ``[out, in]``. A yielded array is valid until the next one. Raises MergeRefused if a merged value is
    not finite.
    """
    dtype = torch.promote_types(weight.dtype, torch.float32)
    a, b = adapter.read(delta.a).to(dtype), adapter.read(delta.b).to(dtype)
    lengths = None if delta.length is None else adapter.read(delta.length).to(dtype)[:, None]
    rows = max(1, _CACHED // (weight.shape[1] * dtype.itemsize))
    wide = torch.empty(rows, weight.shape[1], dtype=dtype)
    narrow = torch.empty(rows, weight.shape[1], dtype=weight.dtype)
    for start in range(0, weight.shape[0], rows):
        count = min(rows, weight.shape[0] - start)
        exact = (
            wide[:count]
            .copy_(weight[start : start + count])
            .addmm_(b[start : start + count], a, alpha=delta.scale)
        )
        if lengths is not None:
            exact.mul_(lengths[start : start + count] / exact.norm(dim=1, keepdim=True))
        merged = narrow[:count].copy_(exact)
        # One value that is not finite makes the sum so.
        if not math.isfinite(merged.sum(dtype=dtype)):
            name = delta.a.removesuffix(".lora_A.weight")
            raise MergeRefused(
                f"{name}: merged weights are not finite in {weight.dtype}",
                "lower train.learning_rate or train.lora.alpha, or use a base in bf16",
            )
        yield merged
