"""Released pointers and their evidence from git, for the mirrors."""

import base64
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from checks.formats.pointer import Pointer
from checks.formats.statement import Statement
from checks.process.errors import EvidenceRefused
from checks.storage import digest, files, layout
from release.adapters.git import Git
from release.ledger import Ledger, Move

_RUN = re.compile(r"[A-Za-z0-9_-]{1,100}")
_FIX = "restore it from git's history: only a promotion or a rollback writes it"


class Envelope(NamedTuple):
    """A signed statement in git, which names it by digest. Its signature was checked when it was committed."""

    data: bytes
    statement: Statement


# The last pointer of each image, with the evidence of that pointer.
Released = Mapping[str, tuple[Pointer, Envelope | None]]


def path(environment: str) -> Path:
    """The path of the evidence of what an environment runs."""
    return layout.ENVIRONMENTS / environment / layout.EVIDENCE


def envelope(data: bytes | None, pointer: Pointer, where: str) -> Envelope:
    """The evidence that a pointer names. Raises EvidenceRefused if ``data`` is anything else."""
    if data is None:
        raise EvidenceRefused(f"{where}: is missing", _FIX)
    if (actual := digest.of_bytes(data)) != pointer.evidence:
        raise EvidenceRefused(f"{where}: is {actual}, the pointer names {pointer.evidence}", _FIX)
    try:
        plain = json.loads(data)
        payload = base64.b64decode(plain.get("dsseEnvelope", plain)["payload"], validate=True)
        return Envelope(data, Statement.model_validate_json(payload))
    except ValidationError as error:
        raise files.unfit(where, error, "read it with the version that signed it") from error
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:
        raise EvidenceRefused(f"{where}: is not an envelope of a statement", _FIX) from error


def releases(ledger: Ledger, tip: str, environments: Iterable[str]) -> Released:
    """Every image that ever ran, with its last pointer and its evidence; None if the evidence cannot be read."""
    last: dict[str, Move] = {}
    places = ledger.places(tip)
    for move in sorted(
        (move for name in environments for move in ledger.moves(tip, name)),
        key=lambda move: places[move.landed],
    ):
        if move.after is not None and move.ran:
            last[move.after.image] = move
    names = [(move.commit, path(move.environment)) for move in last.values()]
    by_model: dict[str, tuple[Pointer, Envelope | None]] = {}
    for (image, move), data in zip(last.items(), ledger.gather(names), strict=True):
        assert move.after is not None
        try:
            by_model[image] = move.after, envelope(data, move.after, str(path(move.environment)))
        except EvidenceRefused:
            by_model[image] = move.after, None
    return by_model


def runs(root: Path, commits: Sequence[str], deadline: float) -> Mapping[str, str]:
    """MLflow's ids of training runs, by the commit whose record names them. Unknown commits are left out."""
    git = Git(root, deadline)
    wanted = list(dict.fromkeys(commits))
    read = git.named([f"{commit}:./{layout.TRAIN_MEASURED.as_posix()}" for commit in wanted])
    return {
        commit: run
        for commit, data in zip(wanted, read, strict=True)
        if data and (run := _run(data))
    }


def _run(report: bytes) -> str | None:
    try:
        run = json.loads(report).get("mlflow_run")
    except (ValueError, AttributeError, RecursionError):
        return None
    return run if isinstance(run, str) and _RUN.fullmatch(run) else None
