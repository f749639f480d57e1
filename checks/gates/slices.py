"""slice: in no slice is the candidate worse than a reference by a margin.

To pass, every slice must refute a loss of the margin, so the gate's p-value is the largest of theirs and needs no
correction (an intersection-union test: Berger, 1982). To fail, one slice must show a loss, so those p-values are
corrected by Holm's method over the slices first.
"""

from collections import Counter
from collections.abc import Mapping

import numpy as np

from checks import multiple
from checks.chain import Evidence
from checks.gate_kinds import SliceGate
from checks.gates import references
from checks.gates.asked import Asked, Test, figure, small
from checks.gates.sample import Sample
from checks.paired import Comparison, compare
from checks.verdict import Finding, Status

SMALL = "(small slices)"


def ask(name: str, gate: SliceGate, evidence: Evidence, sample: Sample) -> Asked:
    """Pass when every slice is shown to lose less than the margin; fail when one is shown to lose more."""
    against = references.settled(name, gate, evidence)
    if isinstance(against, Finding):
        return against
    named = against.shown
    ours, theirs = sample.scores("candidate", gate.metric), sample.scores(against.model, gate.metric)
    sizes = Counter(sample.slices)
    labels = np.array([s if sizes[s] >= gate.min_rows else SMALL for s in sample.slices], dtype=object)
    found: dict[str, Comparison] = {}
    for label in sorted(set(labels)):
        rows = labels == label
        _, groups = np.unique(sample.groups[rows], return_inverse=True)
        found[label] = compare(ours[rows], theirs[rows], groups, -gate.margin, gate.confidence)
    corrected = dict(zip(found, multiple.holm([c.p_worse for c in found.values()]), strict=True))
    beyond = [label for label, c in found.items() if c.effect < -gate.margin]
    worst = min(found, key=lambda label: found[label].effect)
    p = max(c.p for c in found.values())
    p_worse = min((corrected[label] for label in beyond), default=1.0)

    def decide(p_holm: float, worse_holm: float | None) -> Finding:
        assert worse_holm is not None  # the kind gives a p_worse
        status: Status
        level, needed, shown = 1 - gate.confidence, None, worst
        blind = [label for label, c in found.items() if c.may_miss(gate.margin)]
        if worse_holm <= level:
            shown = min(beyond, key=lambda label: (corrected[label], label))
            status, reason = "fail", f"{_said(named, shown, found[shown])}: worse, by more than {gate.margin:g}"
        elif blind:
            shown = max(blind, key=lambda label: found[label].detectable)
            status, needed = "inconclusive", found[shown].rows_for(gate.margin)
            reason = (
                f"the {found[shown].n} rows of {shown!r} can rule out a loss of {found[shown].detectable:.3f} "
                f"(80 % power), not of {gate.margin:g}; about {needed} would"
            )
        elif p_holm <= level:
            status = "pass"
            reason = f"none of {len(found)} slices loses {gate.margin:g}; lowest: {_said(named, shown, found[shown])}"
        else:
            shown = max(found, key=lambda label: found[label].p)
            status = "inconclusive"
            distance = found[shown].effect + gate.margin
            needed = found[shown].rows_for(distance) if distance > 0 else None
            more = f"; about {needed} rows of it would tell" if needed else ""
            said = _said(named, shown, found[shown])
            reason = f"{said}: a loss of {gate.margin:g} is not ruled out (p {p_holm:.2g}){more}"
        about, rows = found[shown], labels == shown
        return Finding(
            gate=name, kind=gate.kind, status=status, reason=f"{reason}{_together(gate, sizes)}",
            metric=gate.metric, against=against.model, slice=shown, method=about.method, value=figure(about.effect),
            low=figure(about.low), high=figure(about.high), bound=-gate.margin, p=small(p), p_holm=small(p_holm),
            detectable=figure(about.detectable), n=about.n, gained=int((ours > theirs)[rows].sum()),
            lost=int((ours < theirs)[rows].sum()), rows_needed=needed,
        )  # fmt: skip

    claim = (gate.kind, gate.metric, gate.margin, gate.confidence, gate.min_rows, against.which)
    return Test(p, p_worse, decide, claim)


def _together(gate: SliceGate, sizes: Mapping[str, int]) -> str:
    """How many slices are too small to be judged apart."""
    count = sum(size < gate.min_rows for size in sizes.values())
    return f"; {count} slices of fewer than {gate.min_rows} rows are judged as one" if count > 1 else ""


def _said(against: str, label: str, found: Comparison) -> str:
    bounds = f"[{found.low:+.3f}, {found.high:+.3f}]"
    return f"{label!r} {found.effect:+.3f} {bounds} on {found.n} rows against {against}"
