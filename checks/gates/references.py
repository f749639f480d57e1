"""What the paired kinds need beside scores: the reference, and a margin above the measured noise."""

from typing import NamedTuple

from checks import layout
from checks.chain import Evidence
from checks.evidence import ReferenceUse
from checks.gate_kinds import EARLIER, ImprovesGate, PairedGate
from checks.gates.asked import failed, gap
from checks.verdict import Finding


class Compared(NamedTuple):
    """The model that a paired gate compares with.

    ``model`` names its answers, ``shown`` is what a reason calls it, ``which`` is its digest, or its name where it is
    evaluated beside the candidate: gates that ask the same of the same model make one claim.
    """

    model: str
    shown: str
    which: str


def settled(name: str, gate: PairedGate, evidence: Evidence) -> Finding | Compared:
    """What to compare with; the finding where there is nothing to compare with, or the margin means nothing."""
    found = _reference(name, gate, evidence)
    if isinstance(found, Compared) and gate.margin > 0 and (finding := _noise(name, gate, evidence)):
        return finding
    return found


def _reference(name: str, gate: PairedGate, evidence: Evidence) -> Finding | Compared:
    """``main`` stands in for a champion while production runs nothing."""
    if gate.against not in EARLIER:
        return Compared(gate.against, gate.against, gate.against)
    if missing := gap(evidence, (layout.REFERENCES, layout.EVALUATION)):
        return failed(name, gate, missing)
    why = list[str]()
    for model in (gate.against, "main") if gate.against == "champion" else (gate.against,):
        use = _use(evidence, model)
        if use is None:
            return failed(name, gate, f"no evidence: {layout.REFERENCES} names no {model}; run `lockstep run`")
        if use.how == "unavailable":
            return failed(name, gate, f"no evidence of {model}: {use.note}")
        if use.merged is not None:
            shown = model if model == gate.against else f"{model}, which stands in for {gate.against} ({why[0]})"
            return _same(name, gate, shown) if use.how == "same-model" else Compared(model, shown, use.merged)
        why.append(use.note)
    return Finding(
        gate=name, kind=gate.kind, status="pass", metric=gate.metric, against=gate.against,
        reason=f"nothing to compare with: {'; '.join(why)}",
    )  # fmt: skip


def _same(name: str, gate: PairedGate, shown: str) -> Finding:
    """A model does not differ from itself: there is nothing to estimate."""
    better = isinstance(gate, ImprovesGate)
    return Finding(
        gate=name, kind=gate.kind, status="fail" if better else "pass", metric=gate.metric, against=gate.against,
        reason=f"it is the very model of {shown}: no row differs{', so it is not better' if better else ''}",
    )  # fmt: skip


def _use(evidence: Evidence, model: str) -> ReferenceUse | None:
    evaluation = evidence.reports.evaluation
    assert evaluation is not None  # else it is a gap
    return next((use for known, use in evaluation.references.items() if known == model), None)


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
