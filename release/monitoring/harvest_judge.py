"""Asks the judge of a suite of kind ``judged`` about answers that a gateway captured.

It sees request and answer, and never a label, so that it cannot treat labelled requests otherwise.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from checks.config.params import Params
from checks.evaluation import scoring
from checks.formats import judgements
from checks.kinds.judge import Asked
from checks.kinds.retriever import no_model
from checks.kinds.scorer import Scorer
from checks.kinds.suite import Material
from checks.process.errors import EvidenceRefused, ParamsRefused
from checks.records.rows import Message, Row
from checks.storage import layout
from checks.suites.judged import Judged


class Answer(NamedTuple):
    """An answer that a model gave to a captured request. ``id``: the digest of the request's id."""

    id: str
    prompt: Sequence[Message]
    text: str


class HarvestJudge(NamedTuple):
    """The suite whose judge labels requests. ``scorer``: says whether an answer is what people's label says."""

    root: Path
    name: str
    suite: Judged
    scorer: Scorer

    def right(self, answers: Sequence[Answer]) -> set[str]:
        """Return the ids of the answers to which the judge gives the highest value. Raises as ``JudgeKind.judge``."""
        rows = {
            answer.id: Row(
                id=answer.id, messages=tuple(answer.prompt), reference="", group=answer.id, slice="captured", source="",
            )
            for answer in sorted(answers)
        }  # fmt: skip
        texts = {answer.id: answer.text for answer in answers}
        asked = [
            Asked(row, texts[name], judgements.answer_sha(texts[name]))
            for name, row in rows.items()
        ]
        ((_, scale),) = self.suite.metrics.items()
        material = Material(
            self.name, self.root, {}, {}, [*rows.values()], {}, no_model, no_model, no_model
        )
        judged = list(self.suite.judge.judge(asked, scale, material))
        if wrong := judgements.problem(judged, {"candidate": texts}):
            raise EvidenceRefused(
                f"{layout.PARAMS}: suites.{self.name}.judge: judgement {wrong}",
                "repair the judge: it must judge the answers that it is asked about",
            )
        return {judgement.sample for judgement in judged if judgement.value == scale.high}

    def is_wrong(self, answer: str, label: str) -> bool:
        """Return whether an answer is anything but what the label says."""
        return scoring.score(self.scorer, answer, label) < 1


def of(root: Path, params: Params, name: str) -> HarvestJudge:
    """Return the judge of the suite ``name``. Raises ParamsRefused if params.yaml does not let it label requests."""
    suite = params.suites.get(name)
    if not isinstance(suite, Judged) or suite.harvest_error is None:
        raise ParamsRefused(
            f"{layout.PARAMS}: suites.{name}: is no suite of kind judged whose judge may label requests",
            "write one with harvest_error: docs/how-to/harvest.md#let-a-judge-label",
        )
    return HarvestJudge(root, name, suite, params.evaluate.scorers[0])
