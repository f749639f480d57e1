"""A smaller model that ships in the folder ``draft`` of the merged model's directory, for a server that speculates.

The server lets it guess tokens and keeps those that the merged model would have chosen. As a part of the directory it
is in the model's digest, and so in the evaluation, the image, the statement and every check of a promotion.
"""

import json
from pathlib import Path

from checks.formats.report import Fetched
from checks.process.errors import MergeRefused, SourceRefused
from checks.process.imports import uncollected
from checks.records.sections import Source
from checks.storage import layout
from stages import sources
from stages.sources import Verified, copies, declared, uris
from stages.weights import base_model

SECTION = "merge.draft"
_OTHER = "use a smaller model of the same family, with the same tokenizer"


def place(source: Source, root: Path, ships: Path) -> Fetched:
    """Copy the model that ``source`` pins into ``ships``/draft, beside the model itself.

    Raises SourceRefused if it cannot be had, is not the pinned one or no folder of safetensors, MergeRefused if it has
    other tokens than the model.
    """
    out = ships / layout.DRAFT
    out.mkdir()
    with sources.alone(root):
        brought = sources.bring(source, SECTION, root)
        tree = copies.fill(out, brought, SECTION, _copy)
        licensed = declared.license_of(brought)
    _hold_same_tokens(ships, out)
    return Fetched(
        uri=uris.redact(source.uri), sha256=brought.sha256, size=brought.size, files=len(tree.files),
        digest=tree.digest, license=source.license, declared=licensed,
    )  # fmt: skip


def _copy(source: Verified, material: Path, out: Path) -> None:
    name = source.inside or source.name
    if not material.is_dir():
        raise SourceRefused(
            f"{layout.PARAMS}: {SECTION}.uri: {name} is a file",
            "name a folder with config.json, tokenizer.json and safetensors files",
        )
    base_model.copy(material, out, name, SECTION)


def _hold_same_tokens(model: Path, draft: Path) -> None:
    """Raise MergeRefused unless both have the same tokens: a guessed token is handed over by its number."""
    with uncollected():
        from transformers import AutoTokenizer

    sizes = [
        json.loads((folder / "config.json").read_bytes()).get("vocab_size")
        for folder in (model, draft)
    ]
    if sizes[0] != sizes[1]:
        raise MergeRefused(
            f"{SECTION}: has a vocab_size of {sizes[1]}, the model of {sizes[0]}", _OTHER
        )
    ours, theirs = (
        AutoTokenizer.from_pretrained(folder, local_files_only=True).get_vocab()
        for folder in (model, draft)
    )
    if ours != theirs:
        differ = len(dict(ours.items() ^ theirs.items()))
        raise MergeRefused(
            f"{SECTION}: its tokenizer has {differ} other tokens than the model's", _OTHER
        )
