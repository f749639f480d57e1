"""loss: how well each model predicts pinned texts, in bits per byte.

A text is a line of the pinned file. ``group`` is the cluster that it lies in; without it, the text is its own::

    {"id": "tides", "text": "Twice a day, on most coasts, the sea …", "group": "science", "slice": "all"}

Bits per byte is minus the log-likelihood of the text, base 2, over its length in UTF-8: a measure that does not depend
on the tokenizer (Gao and others, 2020, https://arxiv.org/abs/2101.00027, section 3.1). Less is better.
"""

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from checks.formats.suite_report import SampleId, Scored, SourceClass, Word
from checks.kinds.suite import AskedSuite, Made, Material
from checks.process.errors import EvidenceRefused
from checks.records.record import Record
from checks.records.sections import Log
from checks.storage import digest, files, layout

METRIC = "bits-per-byte"


class Piece(Record):
    """A line of the pinned file."""

    id: SampleId
    text: Annotated[str, Field(min_length=1)]
    group: Word | None = None
    slice: Word = "all"


class Loss(AskedSuite):
    """How well each of ``models`` predicts pinned texts, as the one metric ``bits-per-byte``: less is better."""

    evidence: ClassVar[SourceClass] = "pure"
    scales: ClassVar[Mapping[str, None]] = {METRIC: None}  # a loss has no top

    kind: Literal["loss"]
    text: Annotated[
        Log,
        Field(description="JSON lines with id and text, and group and slice where there are any"),
    ]
    precision: Annotated[
        Literal["bf16", "fp16", "fp32"], Field(description="number format of the models")
    ]

    def size(self, test_rows: int) -> int:
        """Only the file knows."""
        return 1

    def scored(self, material: Material) -> Made:
        """Let each model read the texts."""
        pieces = _pieces(material.name, material.files["text"])
        texts = [piece.text for piece in pieces]
        return Made(
            {
                role: [
                    Scored(
                        sample=piece.id, sample_sha=digest.of_json(piece.text), model=material.models[role],
                        metric=METRIC, value=round(nats / math.log(2) / len(piece.text.encode()), 6),
                        group=piece.group or piece.id[:200], slice=piece.slice,
                    )
                    for piece, nats in zip(pieces, material.nats(role, texts, self.precision), strict=True)
                ]
                for role in self.models if role in material.models
            },
            chance=round(_entropy("".join(texts).encode()), 6),
        )  # fmt: skip


def _pieces(name: str, path: Path) -> list[Piece]:
    key = f"{layout.PARAMS}: suites.{name}.text"
    pieces = files.read_pinned(
        path, Piece, key, "pin JSON lines with id and text: docs/how-to/suites.md"
    )
    if twice := [
        piece_id for piece_id, count in Counter(piece.id for piece in pieces).items() if count > 1
    ]:
        raise EvidenceRefused(f"{key}: two pieces are called {twice[0]!r}", "give each its own id")
    if not pieces:
        raise EvidenceRefused(f"{key}: has no lines", "pin a file with texts")
    return pieces


def _entropy(text: bytes) -> float:
    """Bits for each byte of ``text`` when nothing is known but how often each value comes in it."""
    counts = Counter(text).values()
    return -sum(count / len(text) * math.log2(count / len(text)) for count in counts)
