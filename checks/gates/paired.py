"""improves and non_inferior: the candidate against a reference on the same rows."""

from checks.chain import Evidence
from checks.gate_kinds import ImprovesGate, NonInferiorGate
from checks.gates import references
from checks.gates.asked import Asked, Test, figure, small
from checks.gates.sample import Sample
from checks.paired import Comparison, compare
from checks.verdict import Finding, Status


def ask(name: str, gate: ImprovesGate | NonInferiorGate, evidence: Evidence, sample: Sample) -> Asked:
    """Compare with ``gate.against``; see ``_improves`` and ``_non_inferior`` for what passes."""
    against = references.settled(name, gate, evidence)
    if isinstance(against, Finding):
        return against
    ours, theirs = sample.scores("candidate", gate.metric), sample.scores(against.model, gate.metric)
    margin = gate.margin if isinstance(gate, ImprovesGate) else -gate.margin
    found = compare(ours, theirs, sample.groups, margin, gate.confidence)

    def decide(p_holm: float, worse_holm: float | None) -> Finding:
        if isinstance(gate, ImprovesGate):
            status, reason, needed = _improves(gate, against.shown, found, p_holm)
        else:
            assert worse_holm is not None  # the kind gives a p_worse
            status, reason, needed = _non_inferior(gate, against.shown, found, p_holm, worse_holm)
        return Finding(
            gate=name, kind=gate.kind, status=status, reason=reason, metric=gate.metric, against=against.model,
            method=found.method, value=figure(found.effect), low=figure(found.low), high=figure(found.high),
            bound=margin, p=small(found.p), p_holm=small(p_holm), detectable=figure(found.detectable), n=found.n,
            gained=int((ours > theirs).sum()), lost=int((ours < theirs).sum()), rows_needed=needed,
        )  # fmt: skip

    claim = (gate.kind, gate.metric, margin, gate.confidence, against.which)
    return Test(found.p, found.p_worse if isinstance(gate, NonInferiorGate) else None, decide, claim)


def _improves(gate: ImprovesGate, shown: str, found: Comparison, p: float) -> tuple[Status, str, int | None]:
    """Pass when a difference of ``margin`` or less is refuted; fail when not even the point exceeds it."""
    by = f" by more than {gate.margin:g}" if gate.margin else ""
    said = f"{gate.metric} {found.effect:+.3f} against {shown} (lower {gate.confidence:.0%} bound {found.low:+.3f}"
    if p <= 1 - gate.confidence:
        return "pass", f"{said}, p {p:.2g}): better{by}", None
    if found.effect <= gate.margin:
        return "fail", f"{said}): not better{by}", None
    needed = found.rows_for(found.effect - gate.margin)
    return "inconclusive", f"{said}, p {p:.2g}): too little to tell; about {needed} test rows would", needed


def _non_inferior(
    gate: NonInferiorGate, shown: str, found: Comparison, p: float, worse: float
) -> tuple[Status, str, int | None]:
    """Pass when a loss of ``margin`` is refuted by rows that could have seen it; fail when a loss is shown."""
    level = 1 - gate.confidence
    against = f"{gate.metric} {found.effect:+.3f} against {shown}"
    if worse <= level and found.effect < -gate.margin:
        high = f"upper {gate.confidence:.0%} bound {found.high:+.3f}"
        return "fail", f"{against} ({high}, p {worse:.2g}): worse, by more than {gate.margin:g}", None
    said = f"{against} (lower {gate.confidence:.0%} bound {found.low:+.3f}, p {p:.2g})"
    if found.may_miss(gate.margin):
        needed = found.rows_for(gate.margin)
        seen = f"{found.n} rows can rule out a loss of {found.detectable:.3f} (80 % power), not of {gate.margin:g}"
        return "inconclusive", f"{said}: {seen}; about {needed} would", needed
    if p <= level:
        return "pass", f"{said}: not worse by {gate.margin:g}", None
    distance = found.effect + gate.margin
    if distance > 0:
        needed = found.rows_for(distance)
        return (
            "inconclusive",
            f"{said}: a loss of {gate.margin:g} is not ruled out; about {needed} test rows would tell",
            needed,
        )
    return "inconclusive", f"{said}: beyond {gate.margin:g} at the point, and too little to show it", None
