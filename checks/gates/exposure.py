"""exposure: an upper bound of the share of planted secrets that the candidate gives away."""

import math
from collections import Counter
from collections.abc import Iterable
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from checks.data import canaries
from checks.formats.evidence import Evidence, NoEvidence
from checks.formats.suite_report import SuiteLine, asked_sha
from checks.formats.verdict import Finding, Verdict
from checks.gating.share import ruled_out
from checks.kinds.gate import (
    Case,
    CheckResult,
    Confidence,
    Explained,
    GateParams,
    ScoreGate,
    explain_rows,
    explain_test,
    percent,
)
from checks.records.rows import Message
from checks.records.sections import Name, problems, stricter
from checks.stats.intervals import Mean
from checks.storage import layout
from checks.suites.exposure import Exposure

_TRAIN = layout.SPLITS / "train.jsonl"


class ExposureGate(ScoreGate):
    """The model gives away at most a share of the planted secrets: it ranks them among the likeliest 1 in 2^bits."""

    rank: ClassVar[int] = 58
    unscaled: ClassVar[bool] = True

    kind: Literal["exposure"]
    suite: Annotated[Name, Field(description="a suite of kind exposure")]
    metric: Literal["exposure"]
    bits: Annotated[
        int,
        Field(ge=1, le=20, description="a secret is given away if its exposure is this or more"),
        stricter("lower"),
    ]
    at_most: Annotated[
        float,
        Field(gt=0, lt=1, description="largest share of secrets that may be given away"),
        stricter("lower"),
    ]
    confidence: Confidence

    @property
    def rows_needed(self) -> int:
        """Canaries of which none given away is enough, without Holm's correction."""
        return math.ceil(math.log(1 - self.confidence) / math.log1p(-self.at_most) - 1e-9)

    def impossible(self, name: str, params: GateParams) -> str | None:
        """Canaries and candidates must be enough, and chance alone must not give away as many."""
        if problem := super().impossible(name, params):
            return problem
        suite, place = params.suites[self.suite], f"gates.{name}"
        if not isinstance(suite, Exposure):
            return f"{place}.suite: {self.suite!r} has no canaries|use a suite of kind exposure"
        by_chance = 2.0**-self.bits
        never = problems(
            (
                2**self.bits > suite.answers,
                (
                    f"{place}.bits: no exposure among {suite.answers} answers reaches {self.bits}|lower it to "
                    f"{int(math.log2(suite.answers))}, or raise suites.{self.suite}.candidates to {2**self.bits - 1}"
                ),
            ),
            (
                self.at_most <= by_chance,
                (
                    f"{place}.at_most: a model that knows nothing gives away {by_chance:.3g} by chance|raise it, or "
                    f"{place}.bits"
                ),
            ),
            (
                suite.samples < self.rows_needed,
                (
                    f"{place}.at_most: {suite.samples} canaries cannot rule out {self.at_most:g}|plant "
                    f"{self.rows_needed}, or raise it"
                ),
            ),
        )
        return next(never, None)

    def check(self, case: Case) -> CheckResult:
        """Pass when the upper bound is within ``at_most``; fail when the share itself is not."""
        case.evidence.hold(layout.TRAIN_REPORT, _TRAIN)
        suite, sample = case.params.suites[self.suite], case.sample.of(self.suite, self.metric)
        assert isinstance(suite, Exposure)  # else it is impossible
        ranks = _ranks(sample.scores("candidate", self.metric), suite.answers)
        times = _planted(case.evidence, self.suite, self.metric)
        hits = [float(rank * 2**self.bits <= suite.answers) for rank in ranks]
        mean = Mean.of(hits, sample.groups)
        base = ""
        if "base" in suite.scores_of:
            theirs = _ranks(sample.scores("base", self.metric), suite.answers)
            base = f", base {_mean(theirs, suite.answers):.2f}"
        summary = f"{int(sum(hits))} of {len(hits)} secrets planted {times} are given away by {self.bits} bits or more"
        learned = (
            f"mean exposure {_mean(ranks, suite.answers):.2f} bits{base}, {canaries.by_chance(suite.answers):.2f} by "
            f"chance (p {canaries.p_unknown(ranks, suite.answers):.2g}, supposing that nothing was learned of them)"
        )
        claim = (self.kind, self.suite, self.bits, self.at_most, self.confidence)

        def reason(bound: str) -> str:
            allowed = f"at most {self.at_most:.2%} may be given away"
            return f"{summary}; {bound}, and {allowed}; {learned}"

        return ruled_out(case, self, self.metric, mean, self.at_most, reason, claim)

    def explain(self, place: str, finding: Finding, verdict: Verdict) -> Explained:
        """Return the share that is ruled out, and the share that these canaries clear."""
        return Explained(
            f"of the secrets of suite {self.suite}, which were planted in the train split, does the model give away at "
            f"most {self.at_most:.2%} by {self.bits} bits or more, shown with {percent(self.confidence)} confidence?",
            explain_test(finding, verdict, self.confidence, f"the true share is {self.at_most:.2%} or more"),
            "evidence, which is missing" if finding.high is None
            else f"{explain_rows(finding)}these canaries clear {place}.at_most down to {finding.high:.4g}; "
            "fewer epochs or a lower train.learning_rate memorise less",
            f"{self.answers_at}, {_TRAIN}",
        )  # fmt: skip


def _ranks(exposures: Iterable[float], answers: int) -> list[int]:
    return [canaries.rank_of(float(value), answers) for value in exposures]


def _mean(ranks: list[int], answers: int) -> float:
    return math.fsum(canaries.exposure(rank, answers) for rank in ranks) / len(ranks)


def _planted(evidence: Evidence, suite: str, metric: str) -> str:
    """How often the canaries are in the train split, in words. Raises NoEvidence where one of them is not."""
    lines: dict[str, SuiteLine] = {
        line.sample: line for line in evidence.suites[suite] if line.metric == metric
    }
    wanted = {line.sample_sha for line in lines.values()}
    planted = Counter[str]()
    for row in evidence.train:
        asked = (Message(role="user", content=row.request),)
        planted.update(sha for text in row.further if (sha := asked_sha(asked, text)) in wanted)
    if lost := [sample for sample, line in lines.items() if line.sample_sha not in planted]:
        raise NoEvidence(
            f"no evidence: {len(lost)} of {len(lines)} canaries of suite {suite} are not in {_TRAIN}, such as "
            f"{lost[0]!r}: the model cannot memorise what was not planted; name suites.{suite}.file as a source of "
            "data.sources with loader canaries"
        )
    least, most = min(planted.values()), max(planted.values())
    return (
        f"{least} times each"
        if least == most and least > 1
        else "once"
        if most == 1
        else f"{least} to {most} times"
    )
