"""remembers: the candidate has not forgotten more than it may of what a reference knew, in bits per byte of a text."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from checks.formats.verdict import Finding, Status, Verdict
from checks.gating import compared
from checks.gating.compared import PairedGate
from checks.gating.suite_sample import SuiteSample
from checks.kinds.gate import (
    ALONE,
    Case,
    CheckResult,
    Confidence,
    Explained,
    Test,
    corrected,
    explain_test,
    failed,
    figure,
    held_back,
    percent,
    small,
)
from checks.records.sections import Name, stricter
from checks.stats.paired_mean import LEAST_GROUPS, MeanDifference


class RemembersGate(PairedGate):
    """On the texts of a suite of kind ``loss``, worse than a reference by less than ``allowance`` bits per byte."""

    rank: ClassVar[int] = 45
    unscaled: ClassVar[bool] = True

    kind: Literal["remembers"]
    suite: Annotated[Name, Field(description="a suite of kind loss")]
    metric: Literal["bits-per-byte"]
    against: Annotated[
        Literal["base", "unquantised", "main", "production", "best"],
        Field(description="base, unquantised, main, production or best"),
    ]
    allowance: Annotated[
        float,
        Field(gt=0, description="bits per byte: the mean loss that must be ruled out"),
        stricter("lower"),
    ]
    confidence: Confidence

    def check(self, case: Case) -> CheckResult:
        """Pass when a loss of ``allowance`` is refuted; fail when a larger one is shown."""
        against = compared.reference(case.name, self, case.evidence)
        if isinstance(against, Finding):
            return against
        sample = case.sample.of(self.suite, self.metric)
        ours, theirs = (sample.scores(model, self.metric) for model in ("candidate", against.model))
        difference, level = MeanDifference.of(ours - theirs, sample.groups), 1 - self.confidence
        if difference.groups < LEAST_GROUPS:
            return Finding(
                gate=case.name, kind=self.kind, status="inconclusive", metric=self.metric, against=against.model,
                reason=f"{difference.groups} groups of texts are too few for the test: it needs {LEAST_GROUPS}",
            )  # fmt: skip
        knows = MeanDifference.of(theirs, sample.groups)
        chance = sample.chance(self.metric) if isinstance(sample, SuiteSample) else None
        if chance is not None and knows.upper(level) >= chance:
            return failed(
                case.name, self,
                f"{against.shown} itself needs {knows.mean:.3f} bits per byte, no fewer than the {chance:.3f} "
                f"of how often each byte comes: suite {self.suite} cannot show what was forgotten; use texts in a "
                f"language that {against.shown} knows",
            )  # fmt: skip
        worse = int((ours > theirs).sum())
        means = f"{knows.mean:.3f} to {knows.mean + difference.mean:.3f}, {worse} of {difference.n} texts worse"

        def decide(p_holm: float, beyond_holm: float | None) -> Finding:
            assert beyond_holm is not None  # the kind gives a p_worse
            low = difference.lower(corrected(level, beyond, beyond_holm))
            high = difference.upper(corrected(level, p, p_holm))
            status, reason, needed = self._decided(
                against.shown, means, difference, (low, high), p_holm, beyond_holm
            )
            return Finding(
                gate=case.name, kind=self.kind, status=status, reason=reason, metric=self.metric,
                against=against.model, method=f"t test, skewness removed, {difference.groups} groups",
                value=figure(difference.mean), low=figure(low), high=figure(high),
                bound=self.allowance, p=small(p), p_holm=small(p_holm), n=difference.n,
                detectable=figure(difference.detectable(level)),
                rows_needed=needed and -(-needed * difference.n // difference.groups), groups_needed=needed,
            )  # fmt: skip

        p, beyond = difference.p_at_least(self.allowance), difference.p_at_most(self.allowance)
        return Test(
            p,
            beyond,
            decide,
            (self.kind, self.suite, self.metric, self.allowance, self.confidence, against.which),
        )

    def _decided(
        self,
        shown: str,
        means: str,
        difference: MeanDifference,
        bounds: tuple[float, float],
        p: float,
        beyond: float,
    ) -> tuple[Status, str, int | None]:
        level = 1 - self.confidence
        summary = f"{self.metric} {difference.mean:+.3f} against {shown} ({means}; "
        if p <= level:
            bound = f"upper {percent(self.confidence)} bound {bounds[1]:+.3f}, p {p:.2g}"
            like = (
                "texts like these"
                if difference.groups < difference.n
                else "texts like these, each taken for independent"
            )
            return (
                "pass",
                f"{summary}{bound}): a loss of {self.allowance:g} is ruled out for {like}",
                None,
            )
        if beyond <= level:
            bound = f"lower {percent(self.confidence)} bound {bounds[0]:+.3f}, p {beyond:.2g}"
            return "fail", f"{summary}{bound}): it forgot more than {self.allowance:g}", None
        needed = difference.groups_needed(
            self.allowance, held_back(level, difference.p_at_least(self.allowance), p)
        )
        more = (
            f"; about {needed} groups like these would if the true loss is as observed"
            if needed
            else ""
        )
        bound = f"upper {percent(self.confidence)} bound {bounds[1]:+.3f}, p {p:.2g}"
        return (
            "inconclusive",
            f"{summary}{bound}): a loss of {self.allowance:g} is not ruled out{more}",
            needed,
        )

    def explain(self, place: str, finding: Finding, verdict: Verdict) -> Explained:
        """The loss that is ruled out, and the allowance that these texts clear."""
        more = (
            f"about {finding.groups_needed} groups of texts would decide {ALONE}; "
            if finding.groups_needed
            else ""
        )
        return Explained(
            f"on the {self.asked_of}, does the candidate need less than {self.allowance:g} bits per byte more than "
            f"{self.against}, shown with {percent(self.confidence)} confidence?",
            explain_test(finding, verdict, self.confidence, f"the true loss is {self.allowance:g} or more"),
            self.not_asked(finding) if finding.high is None
            else f"{more}these texts clear {place}.allowance above {max(finding.high, 0.0):.4g}; with a lower "
            "train.learning_rate, or with rows of replay (docs/measurements/forgetting.md), a model forgets less",
            self.answers_at,
        )  # fmt: skip
