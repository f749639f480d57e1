"""improves: the candidate is better than a reference on the same rows."""

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
    Metric,
    Test,
    corrected,
    explain_rows,
    figure,
    held_back,
    percent,
    small,
)
from checks.records.sections import stricter
from checks.stats import planning
from checks.stats.paired import Comparison, compare
from checks.stats.planning import Needed


class ImprovesGate(AssistedGate):
    """Better than a reference on the same rows, by more than ``margin``."""

    rank: ClassVar[int] = 20
    better: ClassVar[bool] = True

    kind: Literal["improves"]
    metric: Metric
    against: Against
    margin: Annotated[float, Field(ge=0, lt=1, description="0: better at all"), stricter("higher")]
    confidence: Confidence

    def check(self, case: Case) -> CheckResult:
        """Pass when a difference of ``margin`` or less is refuted; fail when not even the point exceeds it."""
        against = compared.settled(case, self)
        if isinstance(against, Finding):
            return against
        if self.asks(case):
            return self.people(case, against)
        sample = case.sample.of(self.suite, self.metric, against.model)
        ours, theirs = (sample.scores(model, self.metric) for model in ("candidate", against.model))
        comparison = compare(ours, theirs, sample.groups, self.margin, self.confidence)
        detectable = planning.detectable_gain(comparison.pairs, self.margin, 1 - self.confidence)

        def decide(p_holm: float, _: float | None) -> Finding:
            level = corrected(1 - self.confidence, comparison.p, p_holm)
            low = comparison.lower(level)
            status, reason, needed = self._decided(against.shown, comparison, low, p_holm)
            return Finding(
                gate=case.name, kind=self.kind, status=status, reason=reason, metric=self.metric,
                against=against.model, method=comparison.method, value=figure(comparison.effect), low=figure(low),
                high=figure(comparison.upper(level)), bound=self.margin,
                p=small(comparison.p), p_holm=small(p_holm), n=comparison.n,
                detectable=None if detectable is None else figure(detectable),
                gained=int((ours > theirs).sum()), lost=int((ours < theirs).sum()),
                rows_needed=needed.rows if needed else None, groups_needed=needed.groups if needed else None,
            )  # fmt: skip

        return Test(
            comparison.p,
            None,
            decide,
            (self.kind, self.suite, self.metric, self.margin, self.confidence, against.which),
        )

    def _decided(
        self, shown: str, found: Comparison, low: float, p: float
    ) -> tuple[Status, str, Needed | None]:
        by = f" by more than {self.margin:g}" if self.margin else ""
        level = 1 - self.confidence
        bound = f"lower {percent(self.confidence)} bound {low:+.3f}"
        summary = f"{self.metric} {found.effect:+.3f} against {shown} ({bound}"
        if p <= level:
            return "pass", f"{summary}, p {p:.2g}): better{by}", None
        if found.effect <= self.margin:
            return "fail", f"{summary}): not better{by}", None
        needed = planning.needed_as_seen([found.pairs], self.margin, held_back(level, found.p, p))
        more = f"; about {needed} would if the true difference is as observed" if needed else ""
        return "inconclusive", f"{summary}, p {p:.2g}): too little to tell{more}", needed

    def explain(self, place: str, finding: Finding, verdict: Verdict) -> Explained:
        """The gain that is asked for, and the margin that these rows clear."""
        if self.metric == HUMAN:
            return self.explain_people(place, finding, verdict)
        by = f"by more than {self.margin:g}" if self.margin else "at all"
        asks = (
            f"on the same {self.asked_of}, is {self.metric} better than that of {self.against} {by}, shown with "
            f"{percent(self.confidence)} confidence?"
        )
        refuted = f"the true difference is {self.margin:g} or less"
        return self.explained(asks, refuted, self._cleared(place, finding), finding, verdict)

    def _cleared(self, place: str, finding: Finding) -> str:
        if finding.low is None:
            return self.not_asked(finding)
        if finding.low <= 0:
            return f"{explain_rows(finding)}these rows clear no {place}.margin: the lower bound is not above 0"
        return f"{explain_rows(finding)}these rows clear {place}.margin below {finding.low:.4g}"
