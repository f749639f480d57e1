"""judged: what a judge says of the models' answers to the test rows, or to the samples of a suite.

The judgements are recorded in ``data/judgements/NAME.jsonl``, each with the digest of the answer that it judges. An
answer without a value counts against the candidate: as the lowest value if it is the candidate's, else as the highest.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field

from checks.evaluation.answered import AnsweredRows, RatingSuite
from checks.formats import judgements
from checks.formats.suite_report import Role, Scored, SourceClass, asked_sha
from checks.kinds.judge import Asked, Judge
from checks.kinds.suite import Made, Material, ScaledSuite
from checks.process.errors import EvidenceRefused
from checks.records.sections import Fraction, Share, Source, problems, stricter
from checks.storage import layout


class Judged(RatingSuite, ScaledSuite):
    """Scores answers of ``models`` by a judge, as one metric."""

    kind: Literal["judged"]
    judge: Judge
    models: Annotated[tuple[Role, ...], Field(strict=False, description="whose answers are judged")]
    max_unparsed: Annotated[
        Share,
        Field(description="share of a model's answers that may be without a value"),
        stricter("lower"),
    ]
    # Without a direction: to write it allows more than null, so each change needs approval.
    harvest_error: Annotated[
        Fraction | None,
        Field(
            description="largest share of wrong answers among those that the judge gives the highest value, for "
            "`lockstep harvest --judge` to train on such answers; null: it may not"
        ),
    ] = None

    def contradictions(self) -> Iterator[str]:
        """Yield each contradiction, as "problem|remedy"."""
        return problems(
            (
                "candidate" not in self.models or len(set(self.models)) < len(self.models),
                "models: must name the candidate, and each model once|name candidate, and base or main",
            ),
            (
                self.judge.compares,
                "judge: compares two answers|use kind pairwise, or show it one answer: $answer",
            ),
            (
                len(self.metrics) != 1,
                f"metrics: has {len(self.metrics)}, and a judge gives one value|name one",
            ),
            (
                self.harvest_error is not None and self.judge.sources,
                "harvest_error: this judge reads a file, and cannot be asked about requests|remove it",
            ),
        )

    @property
    def evidence(self) -> SourceClass:
        """Return the judge's."""
        return self.judge.evidence

    @property
    def sources(self) -> Mapping[str, Source]:
        """Return the judge's."""
        return {f"judge.{name}": source for name, source in self.judge.sources.items()}

    @property
    def scores_of(self) -> Sequence[Role]:
        """Return the models that are judged."""
        return self.models

    @property
    def judged_by(self) -> str:
        """Return the kind of ``judge``."""
        return self.judge.kind

    def scored(self, material: Material) -> Made:
        """Ask the judge, and hold what it says to the answers."""
        ((metric, scale),) = self.metrics.items()
        answers = {role: material.answers[role] for role in self.models if role in material.answers}
        judged = tuple(
            self.judge.judge(_asked(AnsweredRows(material.rows, answers)), scale, material)
        )
        key = f"{layout.PARAMS}: suites.{material.name}.judge"
        if wrong := judgements.problem(judged, answers):
            raise EvidenceRefused(f"{key}: judgement {wrong}", "let it judge these answers")
        values = {
            (judgement.sample, judgement.answer_sha): judgement.value
            for judgement in judged
            if judgement.value is not None
        }
        scored, unparsed = dict[Role, list[Scored]](), dict[Role, int]()
        for role, answer_of in answers.items():
            worst = scale.low if role == "candidate" else scale.high
            known = [
                values.get((row.id, judgements.answer_sha(answer_of[row.id])))
                for row in material.rows
            ]
            unparsed[role] = known.count(None)
            if unparsed[role] > self.max_unparsed * len(answer_of):
                raise EvidenceRefused(
                    f"{key}: {unparsed[role]} of {len(answer_of)} answers of {role} have no value, at most "
                    f"{self.max_unparsed:.1%} may",
                    f"see its answers in {layout.JUDGED}, or judge the rest",
                )
            scored[role] = [
                Scored(
                    sample=row.id, sample_sha=asked_sha(row.messages, row.reference, row.tools),
                    model=material.models[role], metric=metric, value=worst if value is None else value,
                    group=row.group, slice=row.slice,
                )
                for row, value in zip(material.rows, known, strict=True)
            ]  # fmt: skip
        return Made(scored, judged, unparsed)


def _asked(about: AnsweredRows) -> list[Asked]:
    """Each answer once, whichever models gave it."""
    questions = dict[tuple[str, str], Asked]()
    for given in about.answers.values():
        for row in about.rows:
            sha = judgements.answer_sha(given[row.id])
            questions.setdefault((row.id, sha), Asked(row, given[row.id], sha))
    return list(questions.values())
