"""An environment's pointer: the small file in git that says what the environment runs.

model: sha256:43b21c840e4fbc560f755027e3e07fe11ca36284e0cf2c9e41eec42efbd0bfc1
commit: 98f0e61f0a1c4f3f6f0e3f9c2d9c1b7a5e4d3c2b
version: v1.4.0
image: registry.example/team/router@sha256:3b1c…
evidence: sha256:77aa…
"""

from typing import Annotated

import yaml
from pydantic import Field, ValidationError

from checks import files
from checks.errors import EvidenceRefused
from checks.evidence import Digest
from checks.rows import Record

Version = Annotated[str, Field(pattern=r"^v(0|[1-9][0-9]{0,8})(\.(0|[1-9][0-9]{0,8})){2}$")]
# HOST/NAME@sha256:…, or oci:FOLDER@sha256:… where there is no registry.
Image = Annotated[str, Field(pattern=r"^[A-Za-z0-9\[][A-Za-z0-9._:/\[\]-]{0,400}@sha256:[0-9a-f]{64}$")]


class Pointer(Record):
    """What an environment runs, and where to read how it came about."""

    model: Digest  # of the merged directory
    commit: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]  # whose record made it
    version: Version
    image: Image
    evidence: Digest  # of the signed statement, as it lies beside the pointer

    @property
    def digest(self) -> str:
        """The image's."""
        return self.image.rpartition("@")[2]


def parse(text: bytes, where: str) -> Pointer:
    """Read a pointer; ``where`` is what messages call it. Raises EvidenceRefused when it is anything else."""
    todo = "restore it from git's history: only a promotion or a rollback writes it"
    try:
        # Every value is text: a hash of digits alone is no number.
        return Pointer.model_validate(yaml.load(text, Loader=yaml.BaseLoader))  # noqa: S506 - makes plain values only
    except ValidationError as error:
        raise EvidenceRefused(f"{where}: {files.first(error)}", todo) from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:  # ValueError: no UTF-8
        raise EvidenceRefused(f"{where}: is not YAML", todo) from error


def write(pointer: Pointer) -> bytes:
    """The file, one line a field. The same pointer is the same bytes."""
    return "".join(f"{name}: {value}\n" for name, value in pointer.model_dump().items()).encode()
