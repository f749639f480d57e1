"""threshold: a mean's one-sided bound, not the point, must clear a number."""

from checks import mean_planning, stats
from checks.gate_kinds import ThresholdGate
from checks.gates.asked import Test, figure, held_back, small
from checks.gates.sample import Sample
from checks.planning import Needed
from checks.verdict import Finding, Status


def ask(name: str, gate: ThresholdGate, sample: Sample) -> Test:
    """Pass when the bound clears and the rows resolve ``resolution``; fail when the point does not clear."""
    mean = stats.Mean.of(sample.scores("candidate", gate.metric), sample.groups)
    upward = gate.at_least is not None
    bound = gate.at_least if gate.at_least is not None else gate.at_most
    assert bound is not None  # the parameters hold exactly one of the two
    # The question has one side, so the bounds are one-sided: the ends of a two-sided interval at 2c - 1.
    interval = stats.interval_of(mean, gate.confidence, sided=1)
    level = 1 - gate.confidence
    p = mean.p_above(bound) if upward else mean.p_below(bound)
    # Plans are made upward.
    ours, least = (mean, bound) if upward else (mean_planning.mirrored(mean), 1 - bound)
    wanted = f"at {'least' if upward else 'most'} {bound:g}"
    end = (
        f"{'lower' if upward else 'upper'} {gate.confidence:.0%} bound {interval.low if upward else interval.high:.3f}"
    )
    distance = interval.value - bound if upward else bound - interval.value
    detectable = mean_planning.detectable(ours, least, level)
    method = "exact binomial test" if mean.exact else "binomial test at the effective size"
    if not mean.alone:
        method += f", {mean.groups:g} group{'s' if mean.groups > 1 else ''}"

    def decide(p_holm: float, _: float | None) -> Finding:
        status: Status
        needed: Needed | None = None
        found = f"{gate.metric} {interval.value:.3f}"
        if not mean_planning.resolves(mean, gate.resolution, gate.confidence):
            status = "inconclusive"
            needed = mean_planning.needed_to_resolve(mean, gate.resolution, gate.confidence)
            if distance > 0 and needed:
                told = mean_planning.needed(ours, least, level)
                needed = told and max(needed, told)
            rows = f"{interval.n} rows"
            if not mean.alone:
                rows += (
                    f" in {mean.groups:g} groups count as {mean_planning.effective_rows(mean):.0f} independent ones and"
                )
            would = f"; about {needed} would" if needed else ""
            reason = f"{rows} cannot resolve ±{gate.resolution:g}{would}"
        elif p_holm <= level:
            status, reason = "pass", f"{found}, {end}: {wanted}"
        elif distance > 0:
            status, needed = "inconclusive", mean_planning.needed(ours, least, held_back(level, p, p_holm))
            more = f"; about {needed} would tell, were the true mean as seen" if needed else ""
            reason = f"{found} is {wanted}, but its {end} is not (p {p_holm:.2g}){more}"
        else:
            status, reason = "fail", f"{found} is not {wanted} ({end})"
        return Finding(
            gate=name, kind=gate.kind, status=status, reason=reason, metric=gate.metric, bound=bound, n=interval.n,
            value=figure(interval.value), low=figure(interval.low), high=figure(interval.high),
            p=small(p), p_holm=small(p_holm), detectable=None if detectable is None else figure(detectable),
            rows_needed=needed.rows if needed else None, groups_needed=needed.groups if needed else None,
            method=method,
        )  # fmt: skip

    return Test(p, None, decide)
