"""The quarantine: what no promotion may move anywhere until it is released by name. A file beside the environments.

The file shows what is held back. What is held back is decided by its history: release/ledger/quarantine.py.

- image: sha256:…
  model: sha256:…
  version: v1.4.0
  by: Ada <ada@example.org>
  why: answers in French

This is format 1, a list. A later one is a mapping with a key ``format``.
"""

from typing import Annotated

import yaml
from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from checks.formats.pointer import Version
from checks.process.errors import EvidenceRefused
from checks.process.text import escape
from checks.records.record import Digest, Record
from checks.storage import files, plain_yaml


def _printable(text: str) -> str:
    # No line breaks, and nothing that shows a reviewer other words than the file holds.
    if not text.isprintable() or text != text.strip():
        raise ValueError("is not one line of printable text without spaces around it")
    return text


Line = Annotated[str, Field(min_length=1, max_length=500), AfterValidator(_printable)]


class Entry(Record):
    """One quarantined release: its image, and its weights, in whatever image.

    ``model`` is None if only the image was at fault, because its replacement has the same weights. ``version`` is None
    if nothing of that name ever ran. A digest that git does not know is in both fields.
    """

    image: Digest
    model: Digest | None
    version: Version | None
    by: Line
    why: Line

    @property
    def name(self) -> str:
        """Return the name for commands: the version, or the image's digest."""
        return self.version or self.image

    @property
    def shown(self) -> str:
        """Return the version and the beginning of the image's digest, for messages."""
        return f"{self.version} ({self.image[:19]}…)" if self.version else f"{self.image[:19]}…"


Entries = tuple[Entry, ...]


_ALL: TypeAdapter[Entries] = TypeAdapter(Entries)


def parse(text: bytes, place: str) -> Entries:
    """Parse the file; ``place`` is its name in messages. Raises EvidenceRefused if it is invalid.

    An empty file is refused: an empty quarantine is written ``[]``.
    """
    todo = (
        "restore it from git's history: only `lockstep rollback` and `lockstep quarantine` write it"
    )
    try:
        value = plain_yaml.load(text.decode())
        if isinstance(value, dict):
            files.refuse_format(place, str(value.get("format")), "1")
        entries = _ALL.validate_python(value)
    except ValidationError as error:
        raise EvidenceRefused(f"{place}: {files.first(error)}", todo) from error
    except (ValueError, yaml.YAMLError) as error:  # ValueError: no UTF-8
        raise EvidenceRefused(
            f"{place}: is not YAML: {str(error).splitlines()[0]}", todo
        ) from error
    images = [entry.image for entry in entries]
    if twice := next((image for image in images if images.count(image) > 1), None):
        raise EvidenceRefused(f"{place}: {twice[:19]}… is named twice", todo)
    return entries


def write(entries: Entries) -> bytes:
    """Return the file; the same entries give the same bytes."""
    return plain_yaml.dump([entry.model_dump() for entry in entries]).encode()


def find(entries: Entries, image: str, model: str) -> Entry | None:
    """Return the entry with this image or these weights."""
    return next((entry for entry in entries if image == entry.image or model == entry.model), None)


def add(entries: Entries, entry: Entry) -> Entries:
    """The entries with ``entry`` at the end; if its image is listed already, that entry keeps its author and reason.

    The listed entry then gets the model of ``entry``, if it had none.
    """
    if all(entry.image != known.image for known in entries):
        return (*entries, entry)
    return tuple(
        known.model_copy(update={"model": known.model or entry.model})
        if known.image == entry.image
        else known
        for known in entries
    )


def release(entries: Entries, name: str) -> Entries:
    """Return the entries without those of ``name``: an image's or a model's digest, or a version.

    Raises EvidenceRefused if there is no such entry.
    """
    kept = tuple(
        entry for entry in entries if name not in (entry.image, entry.model, entry.version)
    )
    if len(kept) == len(entries):
        known = ", ".join(entry.shown for entry in entries) or "nothing"
        raise EvidenceRefused(
            f"{escape(name[:100])}: is not in quarantine",
            f"name what is, by version or whole digest: {known}",
        )
    return kept
