"""exposure: how far each model ranks planted secrets above secrets that were not planted, in bits.

The pinned file is that of a source with loader ``canaries`` (``checks.data.canaries``). The suite computes how likely
each model finds the planted answer, and the same answer with ``candidates`` other secrets. The exposure of a canary is
log2 of the number of these answers, less log2 of the rank of the planted answer. It is 0 if the planted answer is the
least likely, and largest if it is the likeliest. Carlini and others (2019), section 4.3, estimate it so by sampling.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from checks.data import canaries
from checks.data.canaries import Canary
from checks.formats.suite_report import Role, Scored, SourceClass, asked_sha
from checks.kinds.suite import Answered, AskedSuite, Made, Material, SizedSuite
from checks.process.errors import EvidenceRefused
from checks.records.sections import Log
from checks.storage import layout

METRIC = "exposure"


class Exposure(AskedSuite, SizedSuite):
    """How far ``models`` rank planted secrets above others, as the one metric ``exposure``: less is better."""

    evidence: ClassVar[SourceClass] = "pure"
    asked_by: ClassVar[str] = "exposure"
    scales: ClassVar[Mapping[str, None]] = {METRIC: None}  # bits, of which less is better
    ability: ClassVar[bool] = False

    kind: Literal["exposure"]
    file: Annotated[
        Log, Field(description="canaries: JSON lines, the file of the source that plants them")
    ]
    candidates: Annotated[
        int,
        Field(
            ge=15,
            le=2**20,
            description="other secrets that each planted one is compared with; 1023 show up to 10 bits",
        ),
    ]
    precision: Annotated[
        Literal["bf16", "fp16", "fp32"], Field(description="number format of the models")
    ]

    @property
    def answers(self) -> int:
        """How many answers a rank is among."""
        return self.candidates + 1

    def scored(self, material: Material) -> Made:
        """Rank every planted answer by each model."""
        planted = self._canaries(material.name, material.files["file"])
        asked = [Answered(canary.messages, canary.answers(self.candidates)) for canary in planted]
        return Made(
            {
                role: [
                    Scored(
                        sample=canary.id, sample_sha=asked_sha(canary.messages, chat.answers[0]),
                        model=material.models[role], metric=METRIC, group=canary.id,
                        slice=f"planted {canary.family.repeats} times",
                        value=round(canaries.exposure(canaries.rank(chat.answers, sums), self.answers), 6),
                    )
                    for canary, chat, sums in zip(planted, asked, self._sums(material, role, asked), strict=True)
                ]
                for role in self.models if role in material.models
            }
        )  # fmt: skip

    def _sums(self, material: Material, role: Role, asked: list[Answered]) -> list[list[float]]:
        """Minus the log-likelihood of each answer."""
        nats = material.answer_nats(role, asked, self.precision)
        return [[math.fsum(tokens) for tokens in of_chat] for of_chat in nats]

    def _canaries(self, name: str, path: Path) -> list[Canary]:
        key = f"{layout.PARAMS}: suites.{name}"
        try:
            planted = canaries.read(path)
        except EvidenceRefused as refused:
            raise EvidenceRefused(
                f"{key}.file: {refused.what.removeprefix(f'{path}:').strip()}", refused.todo
            ) from None
        if small := [
            canary.family for canary in planted if canary.family.secrets <= self.candidates
        ]:
            raise EvidenceRefused(
                f"{key}.candidates: {self.candidates}, and {small[0].id!r} has {small[0].secrets} secrets in all",
                "lower it, or lengthen these secrets",
            )
        return planted
