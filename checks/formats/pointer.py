"""An environment's pointer: the small file in git that says what the environment runs.

model: sha256:43b21c840e4fbc560f755027e3e07fe11ca36284e0cf2c9e41eec42efbd0bfc1
commit: 98f0e61f0a1c4f3f6f0e3f9c2d9c1b7a5e4d3c2b
version: v1.4.0
image: registry.example/team/router@sha256:3b1c…
evidence: sha256:77aa…
verified: as-served

It is YAML for whoever reads it. Here only the bytes that ``write`` makes are one: these lines in this order, so that
one pointer has one spelling, and a history of a thousand is read in milliseconds. Old pointers lack the last line.
This is format 1. A pointer of a later one begins with the line ``format: NUMBER``.
"""

import re
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from checks.process.errors import EvidenceRefused
from checks.records.record import Digest, Record
from checks.storage import files

Version = Annotated[str, Field(pattern=r"^v(0|[1-9][0-9]{0,8})(\.(0|[1-9][0-9]{0,8})){2}$")]
# HOST/NAME@sha256:…, or oci:FOLDER@sha256:… where there is no registry.
Image = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9\[][A-Za-z0-9._:/\[\]-]{0,400}@sha256:[0-9a-f]{64}$")
]

# How the model was verified: in a container of what was to serve there when it was moved, or otherwise, and in what.
Served = Literal["as-served", "container", "process", "url"]

_FORMAT = re.compile(rb"format: ([0-9]{1,9})\n")
_LONGEST = 2000  # bytes; the fields' own bounds leave no room for more


class Pointer(Record):
    """Names the release that an environment runs, and where its origin is recorded."""

    model: Digest  # The merged folder's digest.
    commit: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]  # The commit whose record made it.
    version: Version
    image: Image
    evidence: Digest  # The signed statement that lies beside the pointer.
    verified: Served | None = None  # None: moved by a version that did not say

    @property
    def digest(self) -> str:
        """Return the digest of the image."""
        return self.image.rpartition("@")[2]


def parse(text: bytes, place: str) -> Pointer:
    """Parse a pointer; ``place`` is its name in messages. Raises EvidenceRefused if it is invalid."""
    todo = "restore it from git's history: only a promotion or a rollback writes it"
    names = tuple(Pointer.model_fields)
    old = tuple(name for name, field in Pointer.model_fields.items() if field.is_required())
    if match := _FORMAT.match(text):
        files.refuse_format(place, match[1].decode(), "1")
    if len(text) > _LONGEST:
        raise EvidenceRefused(
            f"{place}: is {len(text)} bytes long, a pointer is below {_LONGEST}", todo
        )
    try:
        lines = [line.partition(": ") for line in text.decode("ascii").split("\n")]
    except UnicodeDecodeError as error:
        raise EvidenceRefused(f"{place}: is not ASCII", todo) from error
    if tuple(line[0] for line in lines) not in ((*names, ""), (*old, "")):
        raise EvidenceRefused(
            f"{place}: is not the lines {', '.join(names)}, in this order and no other", todo
        )
    try:
        return Pointer.model_validate({name: value for name, _, value in lines[:-1]})
    except ValidationError as error:
        raise EvidenceRefused(f"{place}: {files.first(error)}", todo) from error


def write(pointer: Pointer) -> bytes:
    """Return the file, one line per field. The same pointer gives the same bytes."""
    return "".join(
        f"{name}: {value}\n" for name, value in pointer.model_dump(exclude_none=True).items()
    ).encode()
