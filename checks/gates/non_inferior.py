"""non_inferior: the candidate is not worse than a reference on the same rows."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from checks.formats.suite_report import HUMAN
from checks.formats.verdict import Finding, Status, Verdict
from checks.gating import compared
from checks.gating.assisted_gate import AssistedGate
from checks.gating.compared import Against
from checks.kinds.gate import (
    Case,
    CheckResult,
    Confidence,
    Explained,
    Loss,
    Metric,
    Test,
    corrected,
    figure,
    held_back,
    percent,
    small,
)
from checks.records.sections import stricter
from checks.stats import planning
from checks.stats.paired import Comparison, compare
from checks.stats.planning import Needed


class NonInferiorGate(AssistedGate):
    """Not worse than a reference on the same rows by ``margin`` or more."""

    rank: ClassVar[int] = 30

    kind: Literal["non_inferior"]
    metric: Metric
    against: Against
    margin: Annotated[
        Loss, Field(description="the loss of the mean that must be ruled out"), stricter("lower")
    ]
    confidence: Confidence

    def check(self, case: Case) -> CheckResult:
        """Pass when a loss of ``margin`` is refuted; fail when a loss is shown, and the point is beyond the margin."""
        against = compared.settled(case, self)
        if isinstance(against, Finding):
            return against
        if self.asks(case):
            return self.people(case, against)
        if finding := compared.uninformed(case, self, against):
            return finding
        sample = case.sample.of(self.suite, self.metric, against.model)
        ours, theirs = (sample.scores(model, self.metric) for model in ("candidate", against.model))
        comparison = compare(ours, theirs, sample.groups, -self.margin, self.confidence)
        if comparison.low <= 0 and (finding := compared.nothing_to_lose(case, self, against)):
            return finding
        detectable = planning.detectable_loss([comparison.pairs], 1 - self.confidence)

        def decide(p_holm: float, worse_holm: float | None) -> Finding:
            assert worse_holm is not None  # the kind gives a p_worse
            low = comparison.lower(corrected(1 - self.confidence, comparison.p, p_holm))
            high = comparison.upper(corrected(1 - self.confidence, comparison.p_worse, worse_holm))
            status, reason, needed = self._decided(
                against.shown, comparison, (low, high), detectable, p_holm, worse_holm
            )
            return Finding(
                gate=case.name, kind=self.kind, status=status, reason=reason, metric=self.metric,
                against=against.model, method=comparison.method, value=figure(comparison.effect), low=figure(low),
                high=figure(high), bound=-self.margin, p=small(comparison.p), p_holm=small(p_holm), n=comparison.n,
                detectable=None if detectable is None else figure(detectable),
                gained=int((ours > theirs).sum()), lost=int((ours < theirs).sum()),
                rows_needed=needed.rows if needed else None, groups_needed=needed.groups if needed else None,
            )  # fmt: skip

        claim = (self.kind, self.suite, self.metric, -self.margin, self.confidence, against.which)
        return Test(comparison.p, comparison.p_worse, decide, claim)

    def _decided(
        self,
        shown: str,
        found: Comparison,
        bounds: tuple[float, float],
        sees: float | None,
        p: float,
        worse: float,
    ) -> tuple[Status, str, Needed | None]:
        level = 1 - self.confidence
        against = f"{self.metric} {found.effect:+.3f} against {shown}"
        if worse <= level and found.effect < -self.margin:
            high = f"upper {percent(self.confidence)} bound {bounds[1]:+.3f}"
            return (
                "fail",
                f"{against} ({high}, p {worse:.2g}): worse, by more than {self.margin:g}",
                None,
            )
        summary = f"{against} (lower {percent(self.confidence)} bound {bounds[0]:+.3f}, p {p:.2g})"
        if p <= level:
            return "pass", f"{summary}: not worse by {self.margin:g}", None
        at = held_back(level, found.p, p)
        if sees is None or sees > self.margin:
            needed = planning.needed_if_unchanged([found.pairs], -self.margin, at)
            least = "no loss" if sees is None else f"a loss of {sees:.3f}"
            seen = (
                f"{found.n} rows can rule out {least} of an unchanged model (at least 80 % power)"
            )
            would = f"; about {needed} would" if needed else ""
            return "inconclusive", f"{summary}: {seen}, not of {self.margin:g}{would}", needed
        if found.effect > -self.margin:
            needed = planning.needed_as_seen([found.pairs], -self.margin, at)
            more = (
                f"; about {needed} would decide if the true difference is as observed"
                if needed
                else ""
            )
            return (
                "inconclusive",
                f"{summary}: a loss of {self.margin:g} is not ruled out{more}",
                needed,
            )
        return (
            "inconclusive",
            f"{summary}: beyond {self.margin:g} at the point, and too little to show it",
            None,
        )

    def explain(self, place: str, finding: Finding, verdict: Verdict) -> Explained:
        """The loss that is ruled out, and the margin that these rows clear."""
        if self.metric == HUMAN:
            return self.explain_people(place, finding, verdict)
        return self.explain_loss("", place, finding, verdict)
