"""A cache of the answers of single batches, so that an evaluation goes on where a killed one was.

With ``evaluate.stable_batches`` most batches are those of before when test rows are added or removed.

In and out: files below ``.lockstep/batches``, one a batch. Its name is the digest of everything that decides its
answers: what ``same`` names (model, settings, device, versions, code), the prompts as tokens, their random numbers, and
how many first tokens were read before. It is written whole or not at all. A file that is damaged or of another key
counts for nothing.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field
from tqdm import tqdm

from checks.process.errors import EvidenceRefused
from checks.records.record import Digest
from checks.records.rows import Record
from checks.storage import digest, files, layout
from stages.inference.batches import Answer, Asked


class _Entry(Record):
    """One file; ``content`` is the digest of its other fields."""

    content: Digest
    key: Digest
    tokens: list[list[int]]
    seconds: list[Annotated[float, Field(ge=0)]]


class KeptBatches:
    """The batches of ``same``: a digest of all that decides answers but the prompts.

    ``rows`` and ``seconds``: of the batches that were answered before. ``seconds`` adds up how long each took.
    """

    def __init__(self, root: Path, same: str) -> None:
        self._folder, self._same = root / layout.BATCHES, same
        self.rows, self.seconds = 0, 0.0
        self._refused = False

    def get(self, prefix: int, batch: Sequence[Asked]) -> list[Answer] | None:
        """An answer for each prompt; None if the batch is not kept whole."""
        key = self._key(prefix, batch)
        try:
            entry = files.read_json(self._path(key), _Entry)
        except EvidenceRefused:
            return None
        lengths = {len(entry.tokens), len(entry.seconds)}
        if entry.key != key or entry.content != _content(entry) or lengths != {len(batch)}:
            return None
        self.rows += len(batch)
        self.seconds += max(entry.seconds)
        return [
            Answer(tuple(tokens), took)
            for tokens, took in zip(entry.tokens, entry.seconds, strict=True)
        ]

    def keep(self, prefix: int, batch: Sequence[Asked], answers: Sequence[Answer]) -> None:
        """Write the batch's file; where there is no room for it, say so once."""
        key = self._key(prefix, batch)
        tokens = [list(answer.tokens) for answer in answers]
        seconds = [answer.seconds for answer in answers]
        entry = _Entry(content=digest.of_bytes(b""), key=key, tokens=tokens, seconds=seconds)
        try:
            files.write_json(self._path(key), entry.model_copy(update={"content": _content(entry)}))
        except OSError as error:  # the answers are there; a later evaluation makes them again
            if not self._refused:
                tqdm.write(
                    f"{self._folder}: batches are not kept: {error.strerror or error}",
                    file=sys.stderr,
                )
            self._refused = True

    def _key(self, prefix: int, batch: Sequence[Asked]) -> str:
        return digest.of_json(
            {"same": self._same, "prefix": prefix, "prompts": [list(prompt) for prompt in batch]}
        )

    def _path(self, key: str) -> Path:
        return self._folder / f"{key.removeprefix('sha256:')}.json"


def _content(entry: _Entry) -> str:
    return digest.of_json(entry.model_dump(exclude={"content"}))
