"""threshold: a mean's one-sided bound, not the point, must clear a number."""

import math
from statistics import NormalDist

from checks import stats
from checks.gate_kinds import ThresholdGate
from checks.gates.asked import Test, figure, small
from checks.gates.sample import Sample
from checks.paired import POWER
from checks.verdict import Finding, Status


def ask(name: str, gate: ThresholdGate, sample: Sample) -> Test:
    """Pass when the bound clears and there are the rows that ``resolution`` needs; fail when the point does not."""
    scores = sample.scores("candidate", gate.metric)
    upward = gate.at_least is not None
    bound = gate.at_least if gate.at_least is not None else gate.at_most
    assert bound is not None  # the parameters hold exactly one of the two
    # The question has one side, so the bounds are one-sided: the ends of a two-sided interval at 2c - 1.
    interval = stats.mean_interval(scores, sample.groups, gate.confidence, sided=1)
    p = stats.mean_test(scores, sample.groups, bound, "above" if upward else "below")
    z = NormalDist().inv_cdf(gate.confidence)
    detectable = (interval.high - interval.low) / 2 * (1 + NormalDist().inv_cdf(POWER) / z)
    wanted = f"at {'least' if upward else 'most'} {bound:g}"
    end = (
        f"{'lower' if upward else 'upper'} {gate.confidence:.0%} bound {interval.low if upward else interval.high:.3f}"
    )
    distance = interval.value - bound if upward else bound - interval.value

    def decide(p_holm: float, _: float | None) -> Finding:
        status: Status
        needed: int | None = None
        found = f"{gate.metric} {interval.value:.3f}"
        if interval.n < gate.rows_needed:
            status, needed = "inconclusive", gate.rows_needed
            reason = f"{interval.n} rows cannot resolve ±{gate.resolution:g}; {gate.rows_needed} would"
        elif p_holm <= 1 - gate.confidence:
            status, reason = "pass", f"{found}, {end}: {wanted}"
        elif distance > 0:
            status, needed = "inconclusive", math.ceil(interval.n * (detectable / distance) ** 2)
            reason = f"{found} is {wanted}, but its {end} is not (p {p_holm:.2g}); about {needed} test rows would tell"
        else:
            status, reason = "fail", f"{found} is not {wanted} ({end})"
        return Finding(
            gate=name, kind=gate.kind, status=status, reason=reason, metric=gate.metric, bound=bound, n=interval.n,
            value=figure(interval.value), low=figure(interval.low), high=figure(interval.high),
            p=small(p), p_holm=small(p_holm), detectable=figure(detectable), rows_needed=needed,
            method="Wilson's score at the effective size",
        )  # fmt: skip

    return Test(p, None, decide)
