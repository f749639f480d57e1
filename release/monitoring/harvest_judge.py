"""Asks the judge of a suite of kind ``judged`` about answers that a gateway captured.

It sees request and answer, and never a label, so that it cannot treat labelled requests otherwise.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from checks.config.params import Params
from checks.formats import judgements
from checks.kinds.judge import Asked
from checks.kinds.retriever import no_model
from checks.kinds.scorer import Scorer
from checks.kinds.suite import Material
from checks.process.errors import ParamsRefused
from checks.records.rows import Message, Row
from checks.storage import layout
from checks.suites.judged import Judged


class HarvestJudge(NamedTuple):
    """The suite whose judge labels requests. ``scorer``: says whether an answer is what people's label says."""

    root: Path
    name: str
    suite: Judged
    scorer: Scorer

    def right(self, chats: Mapping[str, Sequence[Message]]) -> set[str]:
        """Return the names of the chats whose last answer the judge gives the highest value.

        Raises as ``JudgeKind.judge``.
        """
        # In the order of their names, so that their places say nothing of labels.
        asked = [
            Asked(
                Row(id=name, messages=tuple(prompt), reference="", group=name, slice="captured", source=""),
                answer.content, judgements.answer_sha(answer.content),
            )
            for name, (*prompt, answer) in sorted(chats.items())
        ]  # fmt: skip
        ((_, scale),) = self.suite.metrics.items()
        material = Material(
            self.name, self.root, {}, {}, [question.row for question in asked], {}, no_model, no_model, no_model
        )  # fmt: skip
        judged = self.suite.judge.judge(asked, scale, material)
        return {judgement.sample for judgement in judged if judgement.value == scale.high}


def of(root: Path, params: Params, name: str) -> HarvestJudge:
    """Return the judge of the suite ``name``. Raises ParamsRefused if params.yaml does not let it label requests."""
    suite = params.suites.get(name)
    if not isinstance(suite, Judged) or suite.harvest_error is None:
        raise ParamsRefused(
            f"{layout.PARAMS}: suites.{name}: is no suite of kind judged whose judge may label requests",
            "write one with harvest_error: docs/how-to/harvest.md#let-a-judge-label",
        )
    return HarvestJudge(root, name, suite, params.evaluate.scorers[0])
