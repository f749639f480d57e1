"""An environment's pointer: the small file in git that says what the environment runs.

model: sha256:43b21c840e4fbc560f755027e3e07fe11ca36284e0cf2c9e41eec42efbd0bfc1
commit: 98f0e61f0a1c4f3f6f0e3f9c2d9c1b7a5e4d3c2b
"""

from typing import Annotated

import yaml
from pydantic import Field, ValidationError

from checks import files
from checks.errors import EvidenceRefused
from checks.evidence import Digest
from checks.rows import Record


class Pointer(Record):
    """What an environment runs, and the commit whose record made it."""

    model: Digest  # of the merged directory
    commit: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]


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
