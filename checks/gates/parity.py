"""parity: merged and adapter agree on real prompts, by log-probability and by the most likely token."""

from checks import layout
from checks.chain import Evidence
from checks.gate_kinds import ParityGate
from checks.gates.asked import failed, gap
from checks.verdict import Finding


def ask(name: str, gate: ParityGate, evidence: Evidence) -> Finding:
    """Pass when both bounds hold; a comparison of no token is no evidence, and a bound below the noise asks nothing."""
    if missing := gap(evidence, [layout.PARITY_REPORT]):
        return failed(name, gate, missing)
    report = evidence.reports.parity
    assert report is not None  # else it is a gap
    if report.positions == 0:
        return failed(name, gate, f"no evidence: {layout.PARITY_REPORT} compared no token")
    noise = evidence.reports.noise
    if noise is not None and noise.base == report.base and gate.max_logprob_diff < noise.max_logprob_diff:
        return failed(
            name, gate,
            f"a bound of {gate.max_logprob_diff:g} nats means nothing: one unchanged model differs from itself by "
            f"{noise.max_logprob_diff:.3f} in other batches; set gates.{name}.max_logprob_diff above that",
        )  # fmt: skip
    problems = []
    if not report.max_logprob_diff <= gate.max_logprob_diff:
        problems.append(
            f"log-probabilities differ by up to {report.max_logprob_diff:.3f}, above {gate.max_logprob_diff:g}"
        )
    if not report.top1 >= gate.min_top1:
        problems.append(f"the best token agrees at {report.top1:.1%} of positions, below {gate.min_top1:.1%}")
    held = (
        f"merged and adapter differ by at most {report.max_logprob_diff:.3f} nats and agree on "
        f"{report.top1:.1%} of {report.positions} tokens"
    )
    return Finding(
        gate=name, kind=gate.kind, status="fail" if problems else "pass", reason="; ".join(problems) or held,
        metric="max_logprob_diff", value=report.max_logprob_diff, bound=gate.max_logprob_diff, n=report.positions,
    )  # fmt: skip
