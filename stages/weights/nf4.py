"""A base whose linear weights have 4 bits (QLoRA: Dettmers et al., arXiv 2305.14314), by bitsandbytes.

Training loads such a base, and leaves ``quantization.json`` beside the adapter: the digest of every quantised weight.
Merging quantises the same weights again, one at a time, holds each to its digest, and goes on with what it dequantises
to. Both quantise with one thread: double quantisation subtracts the mean of all scales, and its last bits depend on
how many threads added them up.
"""

import hashlib
import importlib.metadata
import importlib.util
import logging
import sys
from pathlib import Path
from typing import Any

from checks.formats.training_reports import Quantised, QuantisedBase
from checks.kinds.method import Quantization
from checks.process import distribution
from checks.process.errors import MachineRefused, MergeRefused
from checks.storage import digest, files, layout
from stages.threads import one_thread

NAME = "quantization.json"  # The adapter's folder has it.
_BLOCK = 64  # weights that share a scale
_PACKAGE = "bitsandbytes"


def hold_installed(why: str) -> None:
    """Raise MachineRefused when bitsandbytes is not installed; ``why`` says what needs it."""
    if importlib.util.find_spec(_PACKAGE) is None:
        raise MachineRefused(
            f"{why} needs {_PACKAGE}, which is not installed",
            distribution.install("qlora"),
        )


def version() -> str:
    """The version of bitsandbytes that is installed."""
    return importlib.metadata.version(_PACKAGE)


def library() -> Any:
    """The package bitsandbytes, imported so that it fetches no code.

    Where the package ``kernels`` is installed, bitsandbytes downloads unpinned code through it at its first import, so
    this must come before the import of PEFT, which imports bitsandbytes.
    """
    if _PACKAGE in sys.modules:
        return sys.modules[_PACKAGE]
    log = logging.getLogger(_PACKAGE)
    level, kernels = log.level, sys.modules.get("kernels")
    log.setLevel(logging.ERROR)  # Silences a warning about code that is not wanted.
    sys.modules["kernels"] = None  # type: ignore[assignment] # an import of it fails
    try:
        return importlib.import_module(_PACKAGE)
    finally:
        log.setLevel(level)
        del sys.modules["kernels"]
        if kernels is not None:
            sys.modules["kernels"] = kernels


def load(
    base: Path, quantization: Quantization | Quantised, precision: str, sharded: bool = False
) -> tuple[Any, dict[str, Any]]:
    """The model in ``base`` with its linear weights quantised, and what transformers says of loading it.

    It computes on every machine as in training. On a CPU with AVX512-BF16 bitsandbytes would otherwise pack the weights
    anew when it first computes without gradients, which rounds their scales to bf16.
    """
    linear = library().nn.Linear4bit
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quantization.kind,
        bnb_4bit_use_double_quant=quantization.double,
        bnb_4bit_compute_dtype=_dtype(precision),
        # Codes as numbers of this type: the same bytes, which FSDP divides among ranks as it does other weights.
        **({"bnb_4bit_quant_storage": _dtype(precision)} if sharded else {}),
    )
    with one_thread():
        model, loading = AutoModelForCausalLM.from_pretrained(
            base,
            dtype=_dtype(precision),
            quantization_config=config,
            local_files_only=True,
            output_loading_info=True,
        )
    for module in model.modules():
        if isinstance(module, linear):
            module.support_avx512bf16_for_cpu = False
    return model, loading


def described(model: Any, quantization: Quantization, precision: str, base: str) -> QuantisedBase:
    """Return what was quantised of ``model``, which ``load`` returned."""
    linear = library().nn.Linear4bit
    tensors = {
        f"{name}.weight": _digest(module.weight.data, module.weight.quant_state)
        for name, module in sorted(model.named_modules())
        if isinstance(module, linear)
    }
    how = Quantised(
        kind=quantization.kind,
        double=quantization.double,
        block=_BLOCK,
        precision=precision,
        bitsandbytes=version(),
        weights=digest.of_json(tensors),
    )
    return QuantisedBase(base=base, quantised=how, tensors=tensors)


def of_adapter(adapter: Path, base: str) -> QuantisedBase | None:
    """Return what the adapter in the folder was trained on; None when that was no quantised base.

    Raises EvidenceRefused when the file is not one, MergeRefused when it is about another base than ``base``,
    MachineRefused when bitsandbytes is not installed.
    """
    if not (adapter / NAME).exists():
        return None
    trained = files.read_json(adapter / NAME, QuantisedBase)
    if trained.base != base:
        raise MergeRefused(
            f"{layout.ADAPTER / NAME}: trained on the base {trained.base[:19]}, and {layout.BASE} is {base[:19]}",
            "run `./lockstep run train`",
        )
    hold_installed(f"{layout.ADAPTER}: was trained on a 4-bit base, and merging it")
    return trained


def dequantised(name: str, weight: Any, trained: QuantisedBase) -> Any:
    """``weight`` as the adapter saw it, in its own dtype; unchanged when ``trained`` does not name it.

    Raises MergeRefused when it quantises to other codes here than in training.
    """
    import torch

    if name not in trained.tensors:
        return weight
    functional, how = library().functional, trained.quantised
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with one_thread():
        codes, state = functional.quantize_4bit(
            weight.to(device, _dtype(how.precision)).contiguous(),
            blocksize=how.block,
            compress_statistics=how.double,
            quant_type=how.kind,
        )
        if _digest(codes, state) != trained.tensors[name]:
            raise MergeRefused(
                f"{name}: quantises to other codes here ({device}, {_PACKAGE} {version()}) than in training "
                f"({_PACKAGE} {how.bitsandbytes})",
                "merge on the kind of machine that trained, with the same versions; or train here: "
                "`./lockstep run train`",
            )
        return functional.dequantize_4bit(codes, state).to("cpu", weight.dtype)


def _digest(codes: Any, state: Any) -> str:
    """Of the codes, and of all that turns them into weights again."""
    import torch

    parts = {"codes": codes, **state.as_dict(packed=True)}
    hashed = hashlib.sha256()
    for name, part in sorted(parts.items()):
        data = part.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        hashed.update(f"{name}:{len(data)}\n".encode())
        hashed.update(data.data)
    return f"sha256:{hashed.hexdigest()}"


def _dtype(precision: str) -> Any:
    import torch

    return {"bf16": torch.bfloat16, "fp32": torch.float32}[precision]
