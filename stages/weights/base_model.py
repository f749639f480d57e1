"""Copies a model directory in Hugging Face layout: only the files that later stages read, and refuses unsafe ones."""

import json
import shutil
from pathlib import Path

from checks.formats.report import Fetched
from checks.process.errors import MergeRefused, SourceRefused
from checks.records.sections import Source
from checks.storage import layout
from stages import progress, sources
from stages.sources import Verified, copies, declared, uris
from stages.weights import model_files

DRAFT = "merge.draft"
_OTHER_DRAFT = "use a smaller model of the same family, with the same tokenizer"


def place_draft(source: Source, root: Path, ships: Path) -> Fetched:
    """Copy the model that ``source`` pins into ``ships``/draft, beside the model itself.

    Raises SourceRefused if it cannot be had, is not the pinned one or no folder of safetensors, MergeRefused if it has
    other tokens than the model.
    """
    out = ships / layout.DRAFT
    out.mkdir()
    with sources.alone(root):
        brought = sources.bring(source, DRAFT, root)
        tree = copies.fill(out, brought, DRAFT, _copy_draft)
        licensed = declared.license_of(brought)
    _hold_same_tokens(ships, out)
    return Fetched(
        uri=uris.redact(source.uri), sha256=brought.sha256, size=brought.size, files=len(tree.files),
        digest=tree.digest, license=source.license, declared=licensed,
    )  # fmt: skip


def _copy_draft(source: Verified, material: Path, out: Path) -> None:
    name = source.inside or source.name
    if not material.is_dir():
        raise SourceRefused(
            f"{layout.PARAMS}: {DRAFT}.uri: {name} is a file",
            "name a folder with config.json, tokenizer.json and safetensors files",
        )
    copy(material, out, name, DRAFT)


def _hold_same_tokens(model: Path, draft: Path) -> None:
    """Raise MergeRefused unless both have the same tokens: a guessed token is handed over by its number."""
    from transformers import AutoTokenizer

    sizes = [
        json.loads((folder / "config.json").read_bytes()).get("vocab_size")
        for folder in (model, draft)
    ]
    if sizes[0] != sizes[1]:
        raise MergeRefused(
            f"{DRAFT}: has a vocab_size of {sizes[1]}, the model of {sizes[0]}", _OTHER_DRAFT
        )
    ours, theirs = (
        AutoTokenizer.from_pretrained(folder, local_files_only=True).get_vocab()
        for folder in (model, draft)
    )
    if ours != theirs:
        differ = len(dict(ours.items() ^ theirs.items()))
        raise MergeRefused(
            f"{DRAFT}: its tokenizer has {differ} other tokens than the model's", _OTHER_DRAFT
        )


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
