"""Copies a model directory in Hugging Face layout: only the files that later stages read, and refuses unsafe ones."""

import shutil
from pathlib import Path

from checks.process.errors import SourceRefused
from checks.storage import layout
from stages import progress
from stages.weights import model_files

_KEPT = (
    "config.json", "generation_config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*",
    "merges.txt", "*.model", "chat_template*", "LICENSE*", "NOTICE*", "README*",
)  # fmt: skip
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
_TOKENIZERS = ("tokenizer.json", "*.model", "vocab.*")
_INDEX, _SINGLE = "model.safetensors.index.json", "model.safetensors"


def has_weights(folder: Path) -> bool:
    """Whether the folder has safetensors files under the names that loaders use."""
    return (folder / _INDEX).is_file() or (folder / _SINGLE).is_file()


def copy(source: Path, target: Path, name: str, section: str = "base") -> None:
    """Copy the model in ``source`` into the empty folder ``target``.

    ``name`` is its name in refusals, ``section`` its place in params.yaml.

    Raises SourceRefused for weights that are not safetensors, a missing shard of the index, custom code (``auto_map``),
    or a missing configuration or tokenizer.
    """
    place = f"{layout.PARAMS}: {section}.uri: {name}"
    weights = _weights(source, place)
    names = ["config.json", *(path.name for path in source.glob("tokenizer_config.json"))]
    settings = [model_files.read(source / name, SourceRefused, f"{place}: ") for name in names]
    if any("auto_map" in setting for setting in settings):
        raise SourceRefused(
            f"{place}: config.json runs code of its own (auto_map)",
            "use a model whose architecture transformers has",
        )
    if not any(next(source.glob(pattern), None) for pattern in _TOKENIZERS):
        raise SourceRefused(
            f"{place}: holds no tokenizer",
            "add tokenizer.json beside config.json, and pin it again",
        )
    chosen = weights | {p.name for pattern in _KEPT for p in source.glob(pattern) if p.is_file()}
    chosen = {file for file in chosen if not file.endswith((*_PICKLES, ".py"))}
    with progress.of_bytes(
        f"copy {section}", sum((source / file).stat().st_size for file in chosen)
    ) as bar:
        for file in sorted(chosen):
            shutil.copyfile(source / file, target / file)
            bar.update((source / file).stat().st_size)


def _weights(source: Path, place: str) -> set[str]:
    if (source / _INDEX).is_file():
        shards = model_files.read(source / _INDEX, SourceRefused, f"{place}: ").get("weight_map")
        names = set(shards.values()) if isinstance(shards, dict) else set()
        if not names or not all(
            isinstance(n, str) and "/" not in n and n.endswith(".safetensors") for n in names
        ):
            raise SourceRefused(
                f"{place}: {_INDEX} has no usable weight_map", "export the model again"
            )
        if absent := sorted(n for n in names if not (source / n).is_file()):
            raise SourceRefused(
                f"{place}: {_INDEX} names {absent[0]}, which is absent", "complete the download"
            )
        return names | {_INDEX}
    if (source / _SINGLE).is_file():
        return {_SINGLE}
    pickles = sorted(p.name for p in source.iterdir() if p.suffix in _PICKLES)
    if pickles:
        raise SourceRefused(
            f"{place}: has its weights as pickle ({pickles[0]}), which runs code when it is read",
            "use a revision with safetensors, or convert it: model.save_pretrained(folder)",
        )
    raise SourceRefused(
        f"{place}: holds neither {_SINGLE} nor one .gguf file",
        "name a model's folder, or a .gguf file inside it",
    )
