"""slice: in no slice is the candidate worse than a reference by a margin.

To pass, every slice must refute a loss of the margin, so the gate's p-value is the largest of theirs and needs no
correction (an intersection-union test: Berger, 1982). To fail, one slice must show a loss, so those p-values are
corrected by Holm's method over the slices first.
"""

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from checks.formats.verdict import Finding, Status, Verdict
from checks.gating import compared
from checks.gating.compared import Against, PairedGate
from checks.gating.gate_kind import (
    Case,
    CheckResult,
    Confidence,
    Explained,
    Loss,
    Metric,
    Test,
    figure,
    held_back,
    small,
)
from checks.sections import stricter

if TYPE_CHECKING:
    from checks.stats.paired import Comparison
    from checks.stats.planning import Needed

SMALL = "(small slices)"


class SliceGate(PairedGate):
    """In no slice worse than a reference by ``margin`` or more."""

    rank: ClassVar[int] = 40

    kind: Literal["slice"]
    metric: Metric
    against: Against
    margin: Annotated[Loss, Field(description="the loss of a slice's mean that must be ruled out"), stricter("lower")]
    confidence: Confidence
    min_rows: Annotated[
        int,
        Field(ge=1, description="slices with fewer rows are judged together, as one"),
        stricter("lower"),  # a small slice that is judged with others can hide among them
    ]

    def check(self, case: Case) -> CheckResult:
        """Pass when every slice is shown to lose less than the margin; fail when one is shown to lose more."""
        import numpy as np

        from checks.stats import multiple, planning
        from checks.stats.paired import compare

        against = compared.settled(case, self)
        if isinstance(against, Finding):
            return against
        if finding := compared.uninformed(case, self, against):
            return finding
        sample = case.sample.of(self.suite, self.metric)
        named = against.shown
        ours, theirs = sample.scores("candidate", self.metric), sample.scores(against.model, self.metric)
        sizes = Counter(sample.slices)
        labels = np.array([s if sizes[s] >= self.min_rows else SMALL for s in sample.slices], dtype=object)
        found: dict[str, Comparison] = {}
        for label in sorted(set(labels)):
            rows = labels == label
            _, groups = np.unique(sample.groups[rows], return_inverse=True)
            found[label] = compare(ours[rows], theirs[rows], groups, -self.margin, self.confidence)
        corrected = dict(zip(found, multiple.holm([c.p_worse for c in found.values()]), strict=True))
        beyond = [label for label, c in found.items() if c.effect < -self.margin]
        worst = min(found, key=lambda label: found[label].effect)
        p = max(c.p for c in found.values())
        p_worse = min((corrected[label] for label in beyond), default=1.0)

        samples = [comparison.pairs for comparison in found.values()]
        detectable = planning.detectable_loss(samples, 1 - self.confidence)

        def decide(p_holm: float, worse_holm: float | None) -> Finding:
            assert worse_holm is not None  # the kind gives a p_worse
            status: Status
            needed: Needed | None = None
            level, shown = 1 - self.confidence, worst
            at = held_back(level, p, p_holm)
            if worse_holm <= level:
                shown = min(beyond, key=lambda label: (corrected[label], label))
                status, reason = "fail", f"{_said(named, shown, found[shown])}: worse, by more than {self.margin:g}"
            elif p_holm <= level:
                status = "pass"
                reason = (
                    f"none of {len(found)} slices loses {self.margin:g}; lowest: {_said(named, shown, found[shown])}"
                )
            else:
                status, shown = "inconclusive", max(found, key=lambda label: found[label].p)
                if detectable is None or detectable > self.margin:
                    needed = planning.needed_if_unchanged(samples, -self.margin, at)
                    least = "no loss" if detectable is None else f"a loss of {detectable:.3f}"
                    seen = "of an unchanged model can be ruled out in all slices (at least 80 % power)"
                    reason = f"{least} {seen}, not {self.margin:g}"
                    would = f"; about {needed} of all slices would" if needed else ""
                else:
                    needed = planning.needed_as_seen(samples, -self.margin, at)
                    reason = f"a loss of {self.margin:g} is not ruled out (p {p_holm:.2g})"
                    would = f"; about {needed} of all slices would tell, were each difference as seen" if needed else ""
                reason = f"{_said(named, shown, found[shown])}: {reason}{would}"
            about, rows = found[shown], labels == shown
            return Finding(
                gate=case.name, kind=self.kind, status=status, reason=f"{reason}{_together(self, sizes)}",
                metric=self.metric, against=against.model, slice=shown, method=about.method, value=figure(about.effect),
                low=figure(about.low), high=figure(about.high), bound=-self.margin, p=small(p), p_holm=small(p_holm),
                detectable=None if detectable is None else figure(detectable), n=about.n,
                gained=int((ours > theirs)[rows].sum()), lost=int((ours < theirs)[rows].sum()),
                rows_needed=needed.rows if needed else None, groups_needed=needed.groups if needed else None,
            )  # fmt: skip

        claim = (self.kind, self.suite, self.metric, self.margin, self.confidence, self.min_rows, against.which)
        return Test(p, p_worse, decide, claim)

    def explain(self, place: str, finding: Finding, verdict: Verdict) -> Explained:
        """The loss that is ruled out in each slice, and the margin that the rows of the lowest clear."""
        where = f"in each slice (those under {self.min_rows} rows together), "
        return self.explain_loss(where, place, finding, verdict)


def _together(gate: SliceGate, sizes: Mapping[str, int]) -> str:
    """How many slices are too small to be judged apart."""
    count = sum(size < gate.min_rows for size in sizes.values())
    return f"; {count} slices of fewer than {gate.min_rows} rows are judged as one" if count > 1 else ""


def _said(against: str, label: str, found: "Comparison") -> str:
    bounds = f"[{found.low:+.3f}, {found.high:+.3f}]"
    return f"{label!r} {found.effect:+.3f} {bounds} on {found.n} rows against {against}"
