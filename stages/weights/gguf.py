"""Converts a GGUF file to the directory that every later stage reads: safetensors, tokenizer, chat template if any.

transformers reads the file. Quantised blocks are unpacked to float32 and rounded once to bfloat16, so the weights are
those of ``gguf.dequantize`` up to that rounding. llama.cpp's order of the rows of q and k is reversed. The same file
gives the same bytes, with the same versions of transformers and safetensors.
"""

import functools
import json
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checks.process import distribution
from checks.process.errors import MachineRefused, SourceRefused
from checks.storage import files, layout

if TYPE_CHECKING:
    import torch

MAGIC = b"GGUF"
_SHARD = "2GB"  # transformers' own default puts 50 GB in one file
_TRACES = {
    "config.json": ("_name_or_path", "_model_name_or_path"),
    "tokenizer_config.json": ("is_local", "local_files_only", "name_or_path", "gguf_file"),
}


def is_gguf(path: Path) -> bool:
    """Whether the file starts with GGUF's magic bytes."""
    with path.open("rb") as stream:
        return stream.read(len(MAGIC)) == MAGIC


def convert(source: Path, target: Path, name: str) -> None:
    """Write ``source`` as a model directory into ``target``; ``name`` is its name in refusals.

    Needs memory for the model in float32. Raises SourceRefused if transformers cannot read the file or weights stay
    packed; MachineRefused if transformers or its dependencies are missing.
    """
    try:
        import torch
        import transformers
    except ImportError as error:
        raise MachineRefused(
            f"{error.name} is not installed", distribution.install("pipeline")
        ) from error
    place = f"{layout.PARAMS}: base.uri: {name}"
    transformers.logging.set_verbosity_error()
    logging.getLogger("gguf").setLevel(logging.ERROR)
    # Releases without GgufConfig always unpack.
    config = getattr(transformers, "GgufConfig", None)
    unpacking = {"quantization_config": config(dequantize=True)} if config else {}
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / "model.gguf"  # transformers goes by the suffix
        link.symlink_to(source.resolve())
        try:
            with _parsed_once():
                tokenizer: Any = transformers.AutoTokenizer.from_pretrained(
                    folder, gguf_file=link.name
                )
                model: Any = transformers.AutoModelForCausalLM.from_pretrained(
                    folder,
                    gguf_file=link.name,
                    dtype=torch.float32,
                    **unpacking,
                )
        except ImportError as error:
            raise MachineRefused(f"{place}: {error}", distribution.install("pipeline")) from error
        except Exception as error:  # a damaged or unknown file fails anywhere in the readers
            what = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise SourceRefused(
                f"{place}: transformers cannot read this GGUF: {what}",
                "use the model's safetensors instead",
            ) from error
    refuse_packed(model.state_dict(), place)
    # save_pretrained refuses a model that it takes for quantised.
    model.hf_quantizer, model.is_quantized = (None, False)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.to(torch.bfloat16).save_pretrained(target, max_shard_size=_SHARD)
    tokenizer.save_pretrained(target)
    for file, keys in _TRACES.items():
        _forget(target / file, keys)
    # safetensors makes files that only the owner may read, and a container runs as another user.
    for path in target.iterdir():
        path.chmod((target / "config.json").stat().st_mode)


@contextmanager
def _parsed_once() -> Iterator[None]:
    """Keep what transformers makes again and again: it parses the file three times, and for each module of the model
    makes the table of all weights' names. That takes most of the time of a small model.
    """
    import gguf

    own = {name: getattr(gguf, name) for name in ("GGUFReader", "get_tensor_name_map")}
    try:
        for name, function in own.items():
            setattr(gguf, name, functools.cache(function))
        yield
    finally:
        for name, function in own.items():
            setattr(gguf, name, function)


def refuse_packed(weights: "dict[str, torch.Tensor]", place: str) -> None:
    """Raise SourceRefused if a weight is still in quantised blocks (bytes, not numbers)."""
    packed = [name for name, weight in weights.items() if not weight.is_floating_point()]
    if packed:
        raise SourceRefused(
            f"{place}: {len(packed)} weights stayed quantised, such as {packed[0]}",
            "use the model's safetensors instead",
        )


def _forget(path: Path, keys: tuple[str, ...]) -> None:
    """Remove keys that only say where the file was on this machine."""
    value = json.loads(path.read_text(encoding="utf-8"))
    files.write_json(path, {key: kept for key, kept in value.items() if key not in keys})
