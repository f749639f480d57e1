"""non_inferior: the candidate is not worse than a reference on the same rows."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from checks.formats.suite_report import HUMAN
from checks.formats.verdict import Finding, Status, Verdict
from checks.gating.assisted_gate import AssistedGate
from checks.gating.compared import Against
from checks.kinds.gate import Confidence, Explained, Loss, Metric, held_back, percent
from checks.records.sections import stricter
from checks.stats import planning
from checks.stats.paired import Comparison, Pairs
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

    def sees(self, pairs: Pairs) -> float | None:
        """Return the loss that such rows of an unchanged model rule out."""
        return planning.detectable_loss([pairs], 1 - self.confidence)

    def decided(
        self, shown: str, comparison: Comparison, bounds: tuple[float, float], detectable: float | None, p: float,
        worse: float | None,
    ) -> tuple[Status, str, Needed | None]:  # fmt: skip
        """Pass when a loss of ``margin`` is refuted; fail when a loss is shown, and the point is beyond the margin."""
        assert worse is not None  # the kind gives a p_worse
        level = 1 - self.confidence
        against = f"{self.metric} {comparison.effect:+.3f} against {shown}"
        if worse <= level and comparison.effect < -self.margin:
            high = f"upper {percent(self.confidence)} bound {bounds[1]:+.3f}"
            return (
                "fail",
                f"{against} ({high}, p {worse:.2g}): worse, by more than {self.margin:g}",
                None,
            )
        summary = f"{against} (lower {percent(self.confidence)} bound {bounds[0]:+.3f}, p {p:.2g})"
        if p <= level:
            return "pass", f"{summary}: not worse by {self.margin:g}", None
        at = held_back(level, comparison.p, p)
        if detectable is None or detectable > self.margin:
            needed = planning.needed_if_unchanged([comparison.pairs], -self.margin, at)
            least = "no loss" if detectable is None else f"a loss of {detectable:.3f}"
            seen = f"{comparison.n} rows can rule out {least} of an unchanged model (at least 80 % power)"
            would = f"; about {needed} would" if needed else ""
            return "inconclusive", f"{summary}: {seen}, not of {self.margin:g}{would}", needed
        if comparison.effect > -self.margin:
            needed = planning.needed_as_seen([comparison.pairs], -self.margin, at)
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
        """Return the loss that is ruled out, and the margin that these rows clear."""
        if self.metric == HUMAN:
            return self.explain_people(place, finding, verdict)
        return self.explain_loss("", place, finding, verdict)
