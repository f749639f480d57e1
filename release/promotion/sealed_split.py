"""Makes a sealed split from rows of one's own: encrypts them with a new key, and writes both."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from checks.config import params_file
from checks.config import sealed as split
from checks.config.pipeline_params import NearDuplicates
from checks.data import near_duplicates
from checks.data.documents import asked
from checks.process.errors import EvidenceRefused, MachineRefused
from checks.records.rows import Row, request
from checks.storage import digest, files, layout
from release.adapters import ignored

KEY = layout.STATE / "keys" / "sealed.key"  # decrypts the rows; below .lockstep, which git ignores
_SHOWN = 3  # lines that a refusal names
_WRITE = "write one JSON object a line: docs/how-to/sealed.md"


class SealedSplit(NamedTuple):
    """A new sealed split: the key of its rows, and its pin in params.yaml."""

    key: Path
    sha256: str
    rows: int


def make(root: Path, source: Path, key: Path | None = None) -> SealedSplit:
    """Encrypt the rows of ``source`` with a new key, which is written to ``key`` (default: ``KEY``).

    The file replaces an earlier sealed split; the key's file must be new. Raises EvidenceRefused if a line is no row,
    or is alike to another split's row; MachineRefused if git would take rows or key in, or a file cannot be written.
    """
    from cryptography.fernet import Fernet

    private = key or root / KEY
    for path in (source, private):
        ignored.check(root, path)
    near = params_file.load(root / layout.PARAMS).prepare.near_duplicates
    lines = _lines(source)
    texts = [request(line.messages) for line in lines]
    try:
        rows = split.rows_of(lines, near_duplicates.groups(texts, near.shingle, near.similarity))
    except EvidenceRefused as refused:
        raise EvidenceRefused(f"{source}: {refused.what}", refused.todo) from None
    if not rows:
        raise EvidenceRefused(f"{source}: has no rows", _WRITE)
    for name in layout.SPLIT_NAMES:
        known = files.read_jsonl(root / layout.SPLITS / f"{name}.jsonl", Row)
        if alike := _alike(texts, known, near):
            raise EvidenceRefused(
                f"{source}: {len(alike)} of {len(rows)} rows are near-duplicates of {name} rows: "
                f"{', '.join(alike[:_SHOWN])}",
                "take these lines out",
            )
    secret = Fernet.generate_key()
    data = split.encrypt(rows, secret)
    _write(root, private, secret, data)
    return SealedSplit(private, digest.of_bytes(data).removeprefix("sha256:"), len(rows))


def _lines(source: Path) -> list[split.SealedLine]:
    try:
        return files.read_jsonl(source, split.SealedLine)
    except EvidenceRefused as refused:
        # The file is a person's own, so no run makes it again.
        raise EvidenceRefused(refused.what, _WRITE) from None


def _alike(texts: Sequence[str], known: Sequence[Row], near: NearDuplicates) -> list[str]:
    """Return one sentence for each line whose text is alike to a known row."""
    given = [(text, row.source) for row in known for text in asked(row)]
    pairs = near_duplicates.first_alike(
        texts, [text for text, _ in given], near.shingle, near.similarity
    )
    return [f"line {line + 1} is alike to {given[place][1]}" for line, place in pairs]


def _write(root: Path, private: Path, secret: bytes, data: bytes) -> None:
    """Write the key, which only its owner may read, and then the rows."""
    try:
        private.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(private, "xb", opener=lambda path, flags: os.open(path, flags, 0o600)) as stream:
            stream.write(secret + b"\n")  # So that the keys of several projects can be joined.
        with files.replacing(root / layout.SEALED) as stream:
            stream.write(data)
    except OSError as error:
        todo = "make it writable"
        if isinstance(error, FileExistsError):
            todo = "move the key of the last split away first"
        raise MachineRefused(
            f"{error.filename or private}: {error.strerror or error}", todo
        ) from error
