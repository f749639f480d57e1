"""The test rows as the gates see them: scores of each model, groups, slices. Scored here, whatever a file claims.

The samples of suites are the exception: ``checks.gating.suite_sample``.
"""

import copy
import itertools
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from checks.evaluation import scoring
from checks.formats.evidence import Evidence, NoEvidence
from checks.formats.thinking import answer_in
from checks.gating.suite_sample import SuiteSample
from checks.kinds.scorer import Scorer
from checks.kinds.suite import SuiteKind
from checks.records.rows import Prediction
from checks.storage import layout


class Sample:
    """Scores are arrays of shape (rows,) in [0, 1], in test order; each model is scored once for each metric.

    A sample ``of`` a reference leaves out the rows that the reference was trained on.
    """

    def __init__(
        self,
        evidence: Evidence,
        scorers: Sequence[Scorer],
        suites: Mapping[str, SuiteKind] = MappingProxyType({}),
    ) -> None:
        self._evidence, self._suites = evidence, suites
        # A claimed score can be held against ours only where the evaluation was scored by the same scorers.
        evaluation = evidence.reports.evaluation
        self._scorers = scoring.metrics(scorers, evaluation.draws if evaluation else 1)
        self._claimed = evaluation is not None and evaluation.scorers == scoring.digest_of(scorers)
        self._scores: dict[tuple[str, str], NDArray[np.float64]] = {}
        codes: dict[str, int] = {}
        self.groups = np.array(
            [codes.setdefault(row.group, len(codes)) for row in evidence.test], dtype=np.intp
        )
        self.slices = tuple(row.slice for row in evidence.test)
        self._kept = np.ones(len(self.slices), dtype=bool)

    def of(
        self, suite: str | None, metric: str | None = None, against: str | None = None
    ) -> "Sample | SuiteSample":
        """The samples of ``suite`` that ``metric`` scores (None: all of them); without a suite, these.

        ``against``: the reference that they are compared with. Raises NoEvidence where the suite has no scores.
        """
        if suite is not None:
            return SuiteSample(suite, self._suites, self._evidence, metric)
        learned = [answer.learned for answer in self._evidence.answers.get(against or "", ())]
        if not any(learned):
            return self
        part = copy.copy(self)
        part._kept = ~np.array(learned)
        part.groups = np.unique(self.groups[part._kept], return_inverse=True)[1]
        part.slices = tuple(itertools.compress(self.slices, part._kept))
        return part

    def scores(self, model: str, metric: str) -> NDArray[np.float64]:
        """Scores of ``model`` by ``metric``. Raises NoEvidence where there are none, or a claimed one is wrong."""
        if (model, metric) not in self._scores:
            self._scores[model, metric] = self._scored(model, metric)
        return self._scores[model, metric][self._kept]

    def _scored(self, model: str, metric: str) -> NDArray[np.float64]:
        path = layout.PREDICTIONS / f"{model}.jsonl"
        self._evidence.hold(layout.EVALUATION, layout.SPLITS / "test.jsonl", path)
        answers = self._evidence.answers.get(model, ())
        if not answers:
            raise NoEvidence(f"no evidence: evaluate did not ask {model}")
        if (scorer := self._scorers.get(metric)) is None:
            raise NoEvidence(
                f"no evidence: {layout.EVALUATION} has one draw of each row, and no {metric}; run `lockstep run`"
            )
        evaluation = self._evidence.reports.evaluation
        marked = evaluation.thinking if evaluation else None
        scores = np.array(
            [
                scoring.score_draws(metric, scorer, a.draws, answer_in(a.reference, marked))
                for a in answers
            ]
        )
        if self._claimed:
            _hold(path.as_posix(), metric, answers, scores)
        return scores


def _hold(
    path: str, metric: str, answers: Sequence[Prediction], scores: NDArray[np.float64]
) -> None:
    claims = [answer.scores.get(metric) for answer in answers]
    # No claim becomes NaN, which is close to nothing.
    wrong = ~(np.abs(np.array(claims, dtype=np.float64) - scores) <= 1e-9)
    if wrong.any():
        row = int(wrong.argmax())
        raise NoEvidence(
            f"{path}:{row + 1}: claims {metric} {claims[row]}, scored again it is {scores[row]:g}"
        )
