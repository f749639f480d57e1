"""threshold: a mean's one-sided bound, not the point, must clear a number."""

import math
from collections.abc import Iterator
from statistics import NormalDist
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from checks.evaluation import answered
from checks.formats.verdict import Finding, Status, Verdict
from checks.kinds.gate import (
    Case,
    Confidence,
    Explained,
    GateParams,
    Metric,
    ScoreGate,
    Test,
    corrected,
    explain_rows,
    explain_test,
    figure,
    held_back,
    percent,
    small,
)
from checks.records.sections import problems, stricter
from checks.stats import intervals, mean_planning
from checks.stats.planning import Needed
from checks.storage import layout


class ThresholdGate(ScoreGate):
    """The interval's bound, not the point, must clear ``at_least`` (or stay under ``at_most``)."""

    rank: ClassVar[int] = 10

    kind: Literal["threshold"]
    metric: Metric
    at_least: Annotated[
        float | None,
        Field(ge=0, le=1, description="the mean must be at least this"),
        stricter("higher"),
    ] = None
    at_most: Annotated[
        float | None,
        Field(ge=0, le=1, description="the mean must be at most this"),
        stricter("lower"),
    ] = None
    confidence: Confidence
    resolution: Annotated[
        float,
        Field(
            ge=1e-4,
            lt=1,
            description="half-width that the two-sided interval must not exceed; sets the rows needed",
        ),
        stricter("lower"),  # a narrower interval needs more rows
    ]

    def contradictions(self) -> Iterator[str]:
        """Yield each contradiction, as "problem|remedy"."""
        return problems(
            (
                (self.at_least is None) == (self.at_most is None),
                "needs exactly one of at_least and at_most|write one of them",
            )
        )

    @property
    def upward(self) -> bool:
        """Whether the mean must be at least the bound; else it must be at most that."""
        return self.at_least is not None

    @property
    def bound(self) -> float:
        """Return the one of ``at_least`` and ``at_most`` that is written."""
        return next(bound for bound in (self.at_least, self.at_most) if bound is not None)

    @property
    def rows_needed(self) -> int:
        """Rows for a half-width of ``resolution`` at worst (p = 1/2, normal approximation): z² / 4r².

        No fewer do where rows come in groups: the gate itself then asks for effective rows.
        """
        z = NormalDist().inv_cdf((1 - self.confidence) / 2)
        return math.ceil(z * z / (4 * self.resolution**2))

    def impossible(self, name: str, params: GateParams) -> str | None:
        """Return the metric must be scored, and there must be rows enough for ``resolution``."""
        if problem := super().impossible(name, params):
            return problem
        if (
            self.suite is not None
            and (rows := answered.size_of(params.suites, self.suite, self.metric, params.test_rows))
            < self.rows_needed
        ):
            return (
                f"gates.{name}.resolution: {rows} samples of suite {self.suite} cannot give ±{self.resolution:g}|"
                f"widen it: {self.rows_needed} samples would"
            )
        rows = params.test_rows
        if self.suite is None and rows < self.rows_needed:
            return (
                f"validate.min_rows.test: {rows} rows cannot give gate {name!r} its resolution of "
                f"{self.resolution:g}|raise it to {self.rows_needed}, or widen gates.{name}.resolution"
            )
        return None

    def check(self, case: Case) -> Test:
        """Pass when the bound clears and the rows resolve ``resolution``; fail when the point does not clear."""
        sample = case.sample.of(self.suite, self.metric)
        mean = intervals.Mean.of(sample.scores("candidate", self.metric), sample.groups)
        upward = self.upward
        bound = self.bound
        level = 1 - self.confidence
        p = mean.p_above(bound) if upward else mean.p_below(bound)
        # Plans are made upward.
        ours, least = (mean, bound) if upward else (mean_planning.mirrored(mean), 1 - bound)
        wanted = f"at {'least' if upward else 'most'} {bound:g}"
        distance = mean.value - bound if upward else bound - mean.value
        detectable = mean_planning.detectable(ours, least, level)
        method = "exact binomial test" if mean.exact else "binomial test at the effective size"
        if not mean.alone:
            method += f", {mean.groups:g} group{'s' if mean.groups > 1 else ''}"

        def decide(p_holm: float, _: float | None) -> Finding:
            status: Status
            needed: Needed | None = None
            # The question has one side, so the bounds are one-sided: the ends of a two-sided interval at 2c - 1.
            interval = intervals.interval_of(mean, 1 - corrected(level, p, p_holm), sided=1)
            side, limit = ("lower", interval.low) if upward else ("upper", interval.high)
            end = f"{side} {percent(self.confidence)} bound {limit:.3f}"
            measured = f"{self.metric} {interval.value:.3f}"
            if not mean_planning.resolves(mean, self.resolution, self.confidence):
                status = "inconclusive"
                needed = mean_planning.needed_to_resolve(mean, self.resolution, self.confidence)
                if distance > 0 and needed:
                    for_test = mean_planning.needed(ours, least, level)
                    needed = for_test and max(needed, for_test)
                rows = f"{interval.n} rows"
                if not mean.alone:
                    effective = f"{mean_planning.effective_rows(mean):.0f} independent ones"
                    rows += f" in {mean.groups:g} groups count as {effective} and"
                would = f"; about {needed} would" if needed else ""
                reason = f"{rows} cannot resolve ±{self.resolution:g}{would}"
            elif p_holm <= level:
                status, reason = "pass", f"{measured}, {end}: {wanted}"
            elif distance > 0:
                status = "inconclusive"
                needed = mean_planning.needed(ours, least, held_back(level, p, p_holm))
                more = (
                    f"; about {needed} would decide if the true mean is as observed"
                    if needed
                    else ""
                )
                reason = f"{measured} is {wanted}, but its {end} is not (p {p_holm:.2g}){more}"
            else:
                status, reason = "fail", f"{measured} is not {wanted} ({end})"
            return Finding(
                gate=case.name, kind=self.kind, status=status, reason=reason, metric=self.metric, bound=bound,
                n=interval.n, value=figure(interval.value), low=figure(interval.low), high=figure(interval.high),
                p=small(p), p_holm=small(p_holm), detectable=None if detectable is None else figure(detectable),
                rows_needed=needed.rows if needed else None, groups_needed=needed.groups if needed else None,
                method=method,
            )  # fmt: skip

        return Test(p, None, decide)

    def explain(self, place: str, finding: Finding, verdict: Verdict) -> Explained:
        """Return the number that the mean must clear, and the number that these rows do clear."""
        bound = self.bound
        word = "least" if self.upward else "most"
        end = finding.low if self.upward else finding.high
        way = "up to" if self.upward else "down to"
        refuted = f"the true mean is {'below' if self.upward else 'above'} {bound:g}"
        return Explained(
            f"is the mean {self.metric} over the {self.asked_of} at {word} {bound:g}, shown with "
            f"{percent(self.confidence)} confidence by rows enough to know it to ±{self.resolution:g} "
            f"({self.rows_needed} independent ones)?",
            explain_test(finding, verdict, self.confidence, refuted),
            "evidence, which is missing" if end is None
            else f"{explain_rows(finding)}these rows clear {place}.at_{word} {way} {end:.4g}",
            self.answers_at if self.suite else f"{layout.SUMMARY}, {self.answers_at}/candidate.jsonl",
        )  # fmt: skip
