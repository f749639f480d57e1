"""A refusal as it is handed on: what stages, `lockstep run` and `lockstep estimate` leave for the report.

The last one only, in .lockstep/refusal.json::

    {"schema_version": 1, "stage": "train", "exit_code": 5, "what": "the loss is not finite at step 12",
     "todo": "lower train.learning_rate", "others": [], "commit": "6f0c…", "params": "sha256:…"}

It is about one commit and one params.yaml, and says nothing of any other. A stage does not know the commit:
`lockstep run` adds it.
"""

from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from checks.process.errors import EvidenceRefused, MachineRefused, Refusal
from checks.records.record import Digest, Record
from checks.storage import digest, files, layout

_LONGEST = 2000  # characters of one sentence
_MOST = 100  # further problems

# The file comes from another machine.
Sentence = Annotated[str, Field(max_length=_LONGEST)]
Stage = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,39}$")]


class Refused(Record):
    """A refusal of ``stage``, or of the verb of that name. ``commit``: HEAD; None if there is none or it is unknown.

    ``params``: the digest of params.yaml as it was read; None if there was none.
    """

    schema_version: Literal[1] = 1
    stage: Stage
    exit_code: Annotated[int, Field(ge=2, lt=64)]
    what: Sentence
    todo: Sentence
    others: Annotated[tuple[Sentence, ...], Field(max_length=_MOST)] = ()
    commit: Annotated[str, Field(pattern=r"^([0-9a-f]{40}|[0-9a-f]{64})$")] | None = None
    params: Digest | None = None


def of(stage: str, refusal: Refusal, params: str | None, commit: str | None = None) -> Refused:
    """Return the ``Refused`` of a ``refusal`` by ``stage``."""
    return Refused(
        stage=stage, exit_code=refusal.exit_code, what=_written(refusal.what), todo=_written(refusal.todo),
        others=tuple(map(_written, refusal.others[:_MOST])), commit=commit, params=params,
    )  # fmt: skip


def params(root: Path) -> str | None:
    """Return the current digest of params.yaml."""
    try:
        return digest.of_file(root / layout.PARAMS).sha256
    except EvidenceRefused:
        return None


def write(root: Path, refused: Refused) -> None:
    """Write refusal.json. Write errors are ignored: the exit code already reports the refusal."""
    with suppress(OSError):
        files.write_json(root / layout.REFUSAL, refused)


def read(root: Path) -> Refused | None:
    """Return the last refusal; None if there is none or the file is invalid."""
    with suppress(EvidenceRefused):
        return files.read_json(root / layout.REFUSAL, Refused)
    return None


def forget(root: Path) -> None:
    """Delete the last refusal. Raises MachineRefused if that fails."""
    try:
        (root / layout.REFUSAL).unlink(missing_ok=True)
    except OSError as error:
        raise MachineRefused(f"{layout.REFUSAL}: {error.strerror}", "remove it by hand") from error


def _written(text: str) -> str:
    """Text that can be encoded as UTF-8: a file name may contain other bytes."""
    return text[:_LONGEST].encode("utf-8", "replace").decode()
