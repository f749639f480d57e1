"""The decision of gates that rule out a share of answers: exposure and regurgitation."""

from collections.abc import Callable

from checks.formats.verdict import Finding, Status
from checks.kinds.gate import Case, ScoreGate, Test, corrected, figure, held_back, percent, small
from checks.stats import intervals, mean_planning
from checks.stats.intervals import Mean


def ruled_out(
    case: Case,
    gate: ScoreGate,
    metric: str,
    mean: Mean,
    at_most: float,
    reason: Callable[[str], str],
    claim: tuple[object, ...],
) -> Test:
    """Pass when the upper bound is within ``at_most``; fail when the share itself is not.

    ``reason`` makes the finding's from the words for the bound. ``claim``: what the test claims.
    """
    level = 1 - gate.confidence
    p = mean.p_below(at_most)

    def decide(p_holm: float, _: float | None) -> Finding:
        interval = intervals.interval_of(mean, 1 - corrected(level, p, p_holm), sided=1)
        bound = f"upper {percent(gate.confidence)} bound {interval.high:.2%}"
        not_shown: Status = "fail" if mean.value > at_most else "inconclusive"
        status: Status = "pass" if p_holm <= level else not_shown
        needed = None
        if status == "inconclusive":
            needed = mean_planning.needed(
                mean_planning.mirrored(mean), 1 - at_most, held_back(level, p, p_holm)
            )
        more = f"; about {needed} would decide if the true share is as observed" if needed else ""
        return Finding(
            gate=case.name, kind=gate.kind, status=status, metric=metric, bound=at_most, n=interval.n,
            reason=reason(bound) + more, value=figure(interval.value), low=figure(interval.low),
            high=figure(interval.high), p=small(p), p_holm=small(p_holm), method="exact binomial test" if mean.exact
            else "binomial test at the effective size", rows_needed=needed.rows if needed else None,
            groups_needed=needed.groups if needed else None,
        )  # fmt: skip

    return Test(p, None, decide, claim)
