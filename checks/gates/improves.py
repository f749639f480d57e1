"""improves: the candidate is better than a reference on the same rows."""

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from checks.formats.suite_report import HUMAN
from checks.formats.verdict import Finding, Status, Verdict
from checks.gating.assisted_gate import AssistedGate
from checks.gating.compared import Against
from checks.kinds.gate import (
    Confidence,
    Explained,
    Metric,
    explain_rows,
    held_back,
    percent,
)
from checks.records.sections import problems, stricter
from checks.stats import planning
from checks.stats.paired import Comparison, Groups, Pairs, Scores, compare
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
    mid_p: Annotated[
        Literal[True] | None,
        Field(
            description="true: McNemar's mid-p test in place of his exact one shows more on few rows; for margin 0"
        ),
    ] = None

    def contradictions(self) -> Iterator[str]:
        """Yield each contradiction, as "problem|remedy"."""
        return problems(
            (
                self.mid_p is not None and (self.margin > 0 or self.metric == HUMAN),
                "mid_p: is a test of margin 0, of scores that are right or wrong|remove it",
            )
        )

    def compared(self, ours: Scores, theirs: Scores, groups: Groups) -> Comparison:
        """Compare the scores of both models."""
        return compare(ours, theirs, groups, self.limit, self.confidence, self.mid_p is not None)

    def sees(self, pairs: Pairs) -> float | None:
        """Return the gain beyond the margin that such rows show."""
        return planning.detectable_gain(pairs, self.margin, 1 - self.confidence)

    def decided(
        self, shown: str, comparison: Comparison, bounds: tuple[float, float], detectable: float | None, p: float,
        worse: float | None,
    ) -> tuple[Status, str, Needed | None]:  # fmt: skip
        """Pass when a difference of ``margin`` or less is refuted; fail when not even the point exceeds it."""
        by = f" by more than {self.margin:g}" if self.margin else ""
        level = 1 - self.confidence
        bound = f"lower {percent(self.confidence)} bound {bounds[0]:+.3f}"
        summary = f"{self.metric} {comparison.effect:+.3f} against {shown} ({bound}"
        if p <= level:
            return "pass", f"{summary}, p {p:.2g}): better{by}", None
        if comparison.effect <= self.margin:
            return "fail", f"{summary}): not better{by}", None
        needed = planning.needed_as_seen(
            [comparison.pairs], self.margin, held_back(level, comparison.p, p)
        )
        more = f"; about {needed} would if the true difference is as observed" if needed else ""
        return "inconclusive", f"{summary}, p {p:.2g}): too little to tell{more}", needed

    def explain(self, place: str, finding: Finding, verdict: Verdict) -> Explained:
        """Return the gain that is asked for, and the margin that these rows clear."""
        if self.metric == HUMAN:
            return self.explain_people(place, finding, verdict)
        by = f"by more than {self.margin:g}" if self.margin else "at all"
        return self.explained(
            (
                f"on the same {self.asked_of}, is {self.metric} better than that of {self.against} {by}, shown with "
                f"{percent(self.confidence)} confidence?"
            ),
            f"the true difference is {self.margin:g} or less",
            self._cleared(place, finding),
            finding,
            verdict,
        )

    def _cleared(self, place: str, finding: Finding) -> str:
        if finding.low is None:
            return self.not_asked(finding)
        if finding.low <= 0:
            return f"{explain_rows(finding)}these rows clear no {place}.margin: the lower bound is not above 0"
        return f"{explain_rows(finding)}these rows clear {place}.margin below {finding.low:.4g}"
