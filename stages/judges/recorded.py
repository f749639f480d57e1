"""recorded: judgements that somebody made before, in a pinned file: people's labels, or another program's.

A line is a ``Judgement`` of ``checks.formats.suite_report``::

    {"sample": "002d7ae27cff7c01", "answer_sha": "sha256:…", "value": 1.0, "judge": "ada", "prompt_sha": null}

``sample`` is the id of the test row or of the suite's sample, ``answer_sha`` the SHA-256 of the answer's text: of
``prediction`` in data/predictions, or of ``answer`` in data/suites/NAME.answers.jsonl.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field

from checks.formats.suite_report import Judgement, Scale, SourceClass
from checks.kinds.judge import Asked, JudgeKind
from checks.kinds.suite import Material
from checks.process.errors import EvidenceRefused
from checks.records.sections import Log, Source
from checks.storage import files, layout


class Recorded(JudgeKind):
    """Judgements that were made before, by people or by another program."""

    kind: Literal["recorded"]
    source: Annotated[SourceClass, Field(description="who judged")]
    log: Log

    @property
    def evidence(self) -> SourceClass:
        """As it is declared."""
        return self.source

    @property
    def sources(self) -> Mapping[str, Source]:
        """The file."""
        return {"log": self.log}

    def judge(
        self, asked: Sequence[Asked], scale: Scale, material: Material
    ) -> Iterable[Judgement]:
        """Read them. Raises EvidenceRefused for a line that is none, or whose value is not on the scale."""
        start = f"{layout.PARAMS}: suites.{material.name}.judge.log"
        judgements = files.read_pinned(
            material.files["judge.log"],
            Judgement,
            start,
            "pin a file of judgements: docs/how-to/suites.md",
        )
        for number, judgement in enumerate(judgements, 1):
            if judgement.value is not None and not scale.low <= judgement.value <= scale.high:
                outside = f"is not from {scale.low:g} to {scale.high:g}"
                raise EvidenceRefused(
                    f"{start}: {number}: {judgement.value:g} {outside}",
                    "correct the scale, or the value",
                )
        return judgements
