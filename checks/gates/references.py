"""What the paired kinds need beside scores: the reference, and a margin above the measured noise."""

from checks import layout
from checks.chain import Evidence
from checks.gate_kinds import EARLIER, PairedGate
from checks.gates.asked import failed, gap
from checks.verdict import Finding


def settled(name: str, gate: PairedGate, evidence: Evidence) -> Finding | None:
    """The finding where there is nothing to compare or the margin means nothing; None where the test may be asked."""
    return _reference(name, gate, evidence) or (_noise(name, gate, evidence) if gate.margin > 0 else None)


def _reference(name: str, gate: PairedGate, evidence: Evidence) -> Finding | None:
    if gate.against not in EARLIER:
        return None
    if missing := gap(evidence, (layout.REFERENCES, layout.EVALUATION)):
        return failed(name, gate, missing)
    evaluation = evidence.reports.evaluation
    assert evaluation is not None  # else it is a gap
    use = next((use for known, use in evaluation.references.items() if known == gate.against), None)
    if use is None:
        return failed(
            name, gate, f"no evidence: {layout.REFERENCES} names no {gate.against}; run `lockstep references`"
        )
    if use.how == "absent":
        return Finding(
            gate=name, kind=gate.kind, status="pass", metric=gate.metric, against=gate.against,
            reason=f"nothing to compare with: {use.note}",
        )  # fmt: skip
    if use.how == "unavailable":
        return failed(name, gate, f"no evidence of {gate.against}: {use.note}")
    return None


def _noise(name: str, gate: PairedGate, evidence: Evidence) -> Finding | None:
    """A margin that reruns of one model exceed says nothing about another model."""
    todo = "run `lockstep calibrate`"
    noise, evaluation = evidence.reports.noise, evidence.reports.evaluation
    if evaluation is None:
        return failed(name, gate, f"no evidence: {evidence.gaps[layout.EVALUATION.as_posix()]}")
    if noise is None:
        unknown = evidence.gaps[layout.NOISE.as_posix()]
    elif stale := [
        what
        for what, one, two in (
            ("base", noise.base, evaluation.base),
            ("scorers", noise.scorers, evaluation.scorers),
            ("prompt format", noise.prompt_format, evaluation.prompt_format),
        )
        if one != two
    ]:
        unknown = f"{layout.NOISE} is about another {', '.join(stale)}"
    elif gate.metric not in noise.floor:
        unknown = f"{layout.NOISE} has no {gate.metric}"
    elif gate.margin < noise.floor[gate.metric]:
        return failed(
            name, gate,
            f"a margin of {gate.margin:g} means nothing: one unchanged model scores {noise.floor[gate.metric]:.4f} "
            f"apart in {len(noise.runs)} runs; set gates.{name}.margin above that",
        )  # fmt: skip
    else:
        return None
    return Finding(
        gate=name, kind=gate.kind, status="inconclusive", metric=gate.metric, against=gate.against,
        reason=f"the noise that a margin of {gate.margin:g} must exceed is not measured: {unknown}; {todo}",
    )  # fmt: skip
