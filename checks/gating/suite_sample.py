"""The samples of a suite as the gates see them.

Answers to questions (kind ``rows``) are scored again. All other scores are read and never computed again: they are
witnessed. Before a gate gets them they are held once more to params.yaml, to the models, and to the answers.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from checks.evaluation import answered, comparisons
from checks.evaluation.answered import AnsweredRows, RatingSuite
from checks.evaluation.comparisons import Comparisons
from checks.evaluation.suite_lines import problem
from checks.formats import judgements
from checks.formats.evidence import Evidence, NoEvidence
from checks.formats.suite_report import Role, SuiteAnswer, SuiteLine, SuiteResult
from checks.kinds.suite import SuiteKind
from checks.records.rows import request
from checks.storage import digest, layout

_FIX = "run `./lockstep run suites`"


def checked(
    name: str, asked: Mapping[str, SuiteKind], evidence: Evidence
) -> tuple[SuiteKind, SuiteResult]:
    """A suite of the section suites, and what is recorded of it. Raises NoEvidence where that is of another one."""
    evidence.hold(layout.PARITY_REPORT)
    report = evidence.need(evidence.reports.suites, layout.SUITES_REPORT)
    suite, result = asked.get(name), report.suites.get(name)
    if suite is None or result is None:
        raise NoEvidence(
            f"no evidence: {layout.SUITES_REPORT if suite else layout.PARAMS} has no suite {name}"
        )
    if result.asked != digest.of_json(suite.model_dump(mode="json")):
        raise NoEvidence(f"{layout.SUITES_REPORT}: is about another section suites.{name}; {_FIX}")
    return suite, result


class SuiteSample:
    """Scores are arrays of shape (samples,), shares of the metric's scale in [0, 1], in the order of the file.

    A metric without a scale has its own numbers instead. Of a metric that scores some samples only, these are those.
    Where the suite is about answers, the rows that were answered count, in their order: of the test rows there may be
    fewer under the policy of another commit.
    """

    def __init__(
        self,
        name: str,
        asked: Mapping[str, SuiteKind],
        evidence: Evidence,
        metric: str | None = None,
    ) -> None:
        """``asked`` is the section suites; ``metric`` is the one that is asked for.

        Raises NoEvidence when there are no such scores, or they are of another.
        """
        suite, result = checked(name, asked, evidence)
        path = layout.SUITES / f"{name}.jsonl"
        others = (
            (layout.JUDGEMENTS / path.name, result.judgements),
            (layout.suite_answers(name), result.given),
        )
        evidence.hold(path, *(other for other, made in others if made))
        lines: dict[Role, list[SuiteLine]] = {
            role: [line for line in evidence.suites[name] if line.model == model]
            for role, model in result.models.items()
        }
        if wrong := problem(lines, suite.scales, suite.declared_size, suite.partial):
            raise NoEvidence(f"{path}: {wrong[0]}: {wrong[1]}; {_FIX}")
        scored = [
            line
            for line in lines["candidate"]
            if metric not in suite.partial or line.metric == metric
        ]
        samples = {line.sample: (line.group, line.slice) for line in scored}
        references = _scored_again(name, suite, evidence) if suite.recomputed else {}
        # Without a metric, a gate looks for what was learnt, and may ask for it.
        if metric is not None and result.given:
            _hold_unseen(name, evidence)
        self._about: AnsweredRows | None = None
        if isinstance(suite, RatingSuite):
            self._about = about = _about(suite, asked, evidence, result)
            _hold_judgements(name, evidence, about)
            if gone := [row.id for row in about.rows if row.id not in samples]:
                raise NoEvidence(f"{path}: has no score of row {gone[0]}; {_FIX}")
            samples = {row.id: (row.group, row.slice) for row in about.rows}
        codes: dict[str, int] = {}
        self.groups = np.array(
            [codes.setdefault(group, len(codes)) for group, _ in samples.values()], dtype=np.intp
        )
        self.slices = tuple(label for _, label in samples.values())
        self._suite, self._measured_chance = suite, result.chance
        self._references = tuple(references[sample] for sample in samples if references)
        self._name, self._scales, self._samples = name, suite.scales, tuple(samples)
        self._values: dict[tuple[str, str, str], float] = {
            (role, line.metric, line.sample): line.value
            for role, lines_of_role in lines.items()
            for line in lines_of_role
        }
        self._lines: dict[str, list[SuiteLine]] = dict(lines.items())
        self._evidence, self._draw = evidence, suite.draw

    def compared(self, model: str) -> Comparisons:
        """People's and the judge's comparisons of the candidate's answers with those of ``model``."""
        if model not in self._lines or self._draw is None or self._about is None:
            raise NoEvidence(
                f"no evidence: suite {self._name} compares no answers with those of {model}"
            )
        shas: dict[str, dict[str, str]] = {
            role: {row: judgements.answer_sha(text) for row, text in texts.items()}
            for role, texts in self._about.answers.items()
            if role in ("candidate", model)
        }
        return comparisons.of(
            self._about.rows,
            shas["candidate"],
            shas[model],
            self._evidence.judgements.get(self._name, ()),
            self._draw,
        )

    def scores(self, model: str, metric: str) -> NDArray[np.float64]:
        """Scores of ``model`` by ``metric``. Raises NoEvidence where there are none."""
        if model not in self._lines:
            raise NoEvidence(f"no evidence: suite {self._name} has no scores of {model}")
        scale = self._scales[metric]
        values = np.array([self._values[model, metric, sample] for sample in self._samples])
        return values if scale is None else (values - scale.low) / (scale.high - scale.low)

    def answers(self, model: str) -> list[SuiteAnswer]:
        """Return what ``model`` answered, in the order of the samples. Raises NoEvidence where no answers were kept."""
        digest_of = {line.sample: line.model for line in self._lines.get(model, ())}
        given = {
            (answer.model, answer.sample): answer
            for answer in self._evidence.given.get(self._name, ())
        }
        try:
            return [given[digest_of[sample], sample] for sample in self._samples]
        except KeyError as error:
            raise NoEvidence(
                f"no evidence: suite {self._name} has no answers of {model}"
            ) from error

    def chance(self, metric: str) -> float | None:
        """The mean of a model that knows nothing, where it is known."""
        known = self._suite.chance_of(metric, self._references)
        return self._measured_chance if known is None else known


def _about(
    suite: RatingSuite, asked: Mapping[str, SuiteKind], evidence: Evidence, result: SuiteResult
) -> AnsweredRows:
    """The answers that ``suite`` is about; those to another suite are held as for a gate that asks that one."""
    if suite.suite is None:
        answers = {
            role: answered.texts(evidence.answers[role])
            for role in result.models
            if role in evidence.answers
        }
        return AnsweredRows(evidence.test, answers)
    other, checked_lines = checked(suite.suite, asked, evidence)
    SuiteSample(suite.suite, asked, evidence, next(iter(other.scales)))
    models = {
        role: checked_lines.models[role] for role in result.models if role in checked_lines.models
    }
    return answered.suite_answers(
        other, evidence.given[suite.suite], evidence.suites[suite.suite], models
    )


def _hold_judgements(name: str, evidence: Evidence, about: AnsweredRows) -> None:
    """Hold judgements to the answers that are here, word for word."""
    rows = {row.id for row in about.rows}
    judged = [
        judgement for judgement in evidence.judgements.get(name, ()) if judgement.sample in rows
    ]
    if wrong := judgements.problem(judged, about.answers):
        raise NoEvidence(f"{layout.JUDGEMENTS}/{name}.jsonl:{wrong}; {_FIX}")


def _hold_unseen(name: str, evidence: Evidence) -> None:
    """Refuse a suite of which a training row asks a question, whatever its case and spaces: it is no test of that."""
    evidence.hold(layout.SPLITS / "train.jsonl")
    asked = {
        _plain(
            request(answer.reading.question if answer.reading else answer.messages)
        ): answer.sample
        for answer in evidence.given.get(name, ())
    }
    seen = {
        sample: row
        for row in evidence.train
        for request in row.requests
        if (sample := asked.get(_plain(request)))
    }
    if seen:
        sample, row = next(iter(seen.items()))
        raise NoEvidence(
            f"suite {name} was trained on: {len(seen)} of its questions are training rows, {sample!r} is {row.source}; "
            "take them out of the data source, or out of the suite"
        )


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _scored_again(name: str, suite: SuiteKind, evidence: Evidence) -> dict[str, str]:
    """The reference of each sample, once every line has the score that its answer gets here."""
    path = layout.suite_answers(name)
    given = evidence.given.get(name, ())
    again = {
        (answer.model, answer.sample, metric): (answer, v)
        for answer, metric, v in suite.scored_again(given)
    }
    for number, line in enumerate(evidence.suites[name], 1):
        answer, score = again.pop((line.model, line.sample, line.metric), (None, 0.0))
        if answer is None or answer.sample_sha != line.sample_sha:
            raise NoEvidence(
                f"{path}: has no answer of {line.model[:19]}… to sample {line.sample!r} as asked; {_FIX}"
            )
        if abs(score - line.value) > 1e-9:
            raise NoEvidence(
                f"{layout.SUITES}/{name}.jsonl:{number}: claims {line.metric} {line.value:g}, scored again it is "
                f"{score:g}"
            )
    if again:
        model, sample, metric = next(iter(again))
        raise NoEvidence(
            f"{layout.SUITES}/{name}.jsonl: has no {metric} of {model[:19]}… on {sample!r}; {_FIX}"
        )
    return {answer.sample: answer.reference for answer in given}
