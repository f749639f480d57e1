"""Computes the verdict from the gates of params.yaml.

A gate without evidence fails. A break in the chain of digests fails every gate, because it is then unknown what the
evidence is about. Gates with tests are decided together, after Holm's correction (docs/reference/gates.md).
"""

import copy
import itertools
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from checks.config.params import Params
from checks.evaluation import scoring
from checks.formats.evidence import Evidence, NoEvidence
from checks.formats.looks import RowSketch
from checks.formats.suite_report import HUMAN, SuiteResult
from checks.formats.thinking import answer_in
from checks.formats.verdict import Finding, Verdict, combine
from checks.gating.chain import MAKING
from checks.gating.suite_sample import SuiteSample
from checks.kinds.gate import (
    GATES,
    Case,
    CheckResult,
    DecisionParams,
    Gate,
    ScoreGate,
    Test,
    decided_at,
    failed,
    policy_digest,
)
from checks.kinds.scorer import SCORERS, Scorer
from checks.kinds.suite import SuiteKind
from checks.records.rows import Prediction
from checks.stats import multiple
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
        """Return the sample of ``suite`` that ``metric`` scores (None: all of it); without a suite, the test rows.

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
        """Return the scores of ``model`` by ``metric``. Raises NoEvidence if they are missing, or one is wrong."""
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
            _hold_claims(path.as_posix(), metric, answers, scores)
        return scores


def _hold_claims(
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


_NAMED = 3  # judges that a finding names


def judge(params: Params, evidence: Evidence) -> Verdict:
    """Evaluate every gate of ``params``; the verdict contains all digests of ``evidence``.

    It records the code of every kind and scorer from users' packages. Raises MachineRefused if that cannot be hashed.
    """
    sample = Sample(evidence, params.evaluate.scorers, params.suites)
    asked = decided_at(params.gates)
    decisions = _decided(
        {name: _answer(name, gate, params, evidence, sample) for name, gate in asked.items()}
    )
    findings = tuple(
        _with_worth(params, gate, _own(name, gate, finding), evidence)
        for (name, gate), finding in zip(asked.items(), decisions, strict=True)
    )
    used = GATES.plugins(gate.kind for gate in params.gates.values())
    used |= SCORERS.plugins(scorer.kind for scorer in params.evaluate.scorers)
    used |= SCORERS.plugins(kind for suite in params.suites.values() for kind in suite.scored_by)
    return Verdict(
        status=combine(findings),
        model=evidence.reports.parity.merged if evidence.reports.parity else None,
        policy=policy_digest(params.gates),
        judged=evidence.judged,
        findings=findings,
        plugins=used,
        rows=RowSketch.of(evidence.test),
    )


def decision_params(params: Params) -> DecisionParams:
    """Return the parameters that gates may read when they decide."""
    sources = {"base": params.base, **params.data.pinned}
    licenses = {place: source.license for place, source in sources.items()}
    return DecisionParams(params.suites, licenses)


def _answer(
    name: str, gate: Gate, params: Params, evidence: Evidence, sample: Sample
) -> CheckResult:
    if evidence.breaks:
        more = f" (and {len(evidence.breaks) - 1} more)" if len(evidence.breaks) > 1 else ""
        return failed(
            name, gate, f"the evidence is about different bytes: {evidence.breaks[0]}{more}"
        )
    try:
        # Whatever the gate asks: a verdict on a model whose making is not on record is none.
        evidence.hold(*MAKING)
        return gate.check(Case(name, decision_params(params), evidence, sample))
    except NoEvidence as reason:
        return failed(name, gate, str(reason))


def _own(name: str, gate: Gate, finding: Finding) -> Finding:
    """Check that a kind's finding is about its own gate."""
    if (finding.gate, finding.kind) == (name, gate.kind):
        return finding
    return failed(
        name,
        gate,
        f"its kind answered as gate {finding.gate!r} of kind {finding.kind!r}: repair the kind",
    )


def _with_worth(params: Params, gate: Gate, finding: Finding, evidence: Evidence) -> Finding:
    """The finding with what its scores are worth: those of a suite are somebody's word, unless gates score it again."""
    if not isinstance(gate, ScoreGate) or gate.suite is None:
        return finding
    suite, report = gate.suite, evidence.reports.suites
    update = {"suite": suite, "reason": f"{finding.reason} (suite {suite})"}
    if suite not in params.suites or not params.suites[suite].recomputed:
        known = report.suites.get(suite) if report else None
        judges = f": {_judges(known)}" if known else ""
        reason = f"{finding.reason} (witnessed{judges}, suite {suite})"
        update |= {"evidence": "witnessed", "reason": reason}
    return finding.model_copy(update=update)


def _judges(result: SuiteResult) -> str:
    more = f" and {len(result.judges) - _NAMED} more" if len(result.judges) > _NAMED else ""
    who = f" by {', '.join(result.judges[:_NAMED])}{more}" if result.judges else ""
    return f"{HUMAN if result.compared else result.source}{who}"


def _decided(results: Mapping[str, CheckResult]) -> tuple[Finding, ...]:
    """Return the findings in order; tests are decided after Holm's correction over the claims of each direction."""
    tests = {name: answer for name, answer in results.items() if isinstance(answer, Test)}
    better = _corrected(tests, {name: test.p for name, test in tests.items()})
    worse = _corrected(
        tests, {name: test.p_worse for name, test in tests.items() if test.p_worse is not None}
    )
    return tuple(
        answer.decide(better[name], worse.get(name)) if isinstance(answer, Test) else answer
        for name, answer in results.items()
    )


def _corrected(tests: Mapping[str, Test], p_values: Mapping[str, float]) -> dict[str, float]:
    """Each gate's p-value after Holm's correction; gates with the same claim count once."""
    claims = {name: (tests[name].claim or name) for name in p_values}
    distinct = {claims[name]: p for name, p in p_values.items()}
    corrected = dict(zip(distinct, multiple.holm(list(distinct.values())), strict=True))
    return {name: corrected[claim] for name, claim in claims.items()}
