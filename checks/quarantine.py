"""The quarantine: what no promotion may move anywhere until it is released by name. A file beside the environments.

- image: sha256:…
  model: sha256:…
  version: v1.4.0
  by: Ada <ada@example.org>
  why: answers in French
"""

from typing import Annotated

import yaml
from pydantic import Field, TypeAdapter, ValidationError

from checks import files, plain_yaml
from checks.errors import EvidenceRefused
from checks.evidence import Digest
from checks.pointer import Version
from checks.rows import Record

Line = Annotated[str, Field(min_length=1, max_length=500, pattern=r"^[^\x00-\x1f\x7f]+$")]


class Entry(Record):
    """One release that went wrong: the image, and the weights in it whatever image carries them next."""

    image: Digest
    model: Digest
    version: Version
    by: Line
    why: Line


Entries = tuple[Entry, ...]
_ALL: TypeAdapter[Entries] = TypeAdapter(Entries)


def parse(text: str, where: str) -> Entries:
    """Read the file; ``where`` is what messages call it. Raises EvidenceRefused when it is anything else."""
    todo = "restore it from git's history: only `lockstep rollback` and `lockstep quarantine` write it"
    try:
        return _ALL.validate_python(plain_yaml.load(text) or ())
    except ValidationError as error:
        raise EvidenceRefused(f"{where}: {files.first(error)}", todo) from error
    except (ValueError, yaml.YAMLError) as error:
        raise EvidenceRefused(f"{where}: is not YAML: {str(error).splitlines()[0]}", todo) from error


def write(entries: Entries) -> bytes:
    """The file; the same entries are the same bytes."""
    plain = [entry.model_dump() for entry in entries]
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=1000).encode() if plain else b"[]\n"


def find(entries: Entries, image: str, model: str) -> Entry | None:
    """The entry that holds this image or these weights back."""
    return next((entry for entry in entries if image == entry.image or model == entry.model), None)
