"""slice: in no slice is the candidate worse than a reference by a margin.

To pass, every slice must refute a loss of the margin, so the gate's p-value is the largest of theirs and needs no
correction (an intersection-union test: Berger, 1982). To fail, one slice must show a loss, so those p-values are
corrected by Holm's method over the slices first.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import Field

from checks.formats.verdict import Finding, Status, Verdict
from checks.gating import compared
from checks.gating.compared import Against, PairedGate
from checks.kinds.gate import (
    Case,
    CheckResult,
    Confidence,
    Explained,
    Loss,
    Metric,
    Test,
    corrected,
    figure,
    held_back,
    small,
)
from checks.records.sections import stricter
from checks.stats import multiple, planning
from checks.stats.paired import Comparison, compare
from checks.stats.planning import Needed

SMALL = "(small slices)"


class _Seen(NamedTuple):
    """The comparison of each slice.

    ``detectable``: the loss that would be seen in every slice with a power of 80 %; None: no loss would. ``levels``:
    those at which a lower and an upper bound of a slice agree with the corrected p-values.
    """

    comparisons: "Mapping[str, Comparison]"
    detectable: float | None
    against: str
    levels: tuple[float, float]

    def bounds(self, label: str) -> tuple[float, float]:
        """Of the difference of a slice."""
        down, up = self.levels
        return self.comparisons[label].lower(down), self.comparisons[label].upper(up)

    def described(self, label: str) -> str:
        """A slice with its difference, its bounds and its rows."""
        comparison, (low, high) = self.comparisons[label], self.bounds(label)
        difference = f"{comparison.effect:+.3f} [{low:+.3f}, {high:+.3f}]"
        return f"{label!r} {difference} on {comparison.n} rows against {self.against}"


class SliceGate(PairedGate):
    """In no slice worse than a reference by ``margin`` or more."""

    rank: ClassVar[int] = 40

    kind: Literal["slice"]
    metric: Metric
    against: Against
    margin: Annotated[
        Loss,
        Field(description="the loss of a slice's mean that must be ruled out"),
        stricter("lower"),
    ]
    confidence: Confidence
    min_rows: Annotated[
        int,
        Field(ge=1, description="slices with fewer rows are judged together, as one"),
        stricter("lower"),  # a small slice that is judged with others can hide among them
    ]

    def check(self, case: Case) -> CheckResult:
        """Pass when every slice is shown to lose less than the margin; fail when one is shown to lose more."""
        against = compared.settled(case, self)
        if isinstance(against, Finding):
            return against
        if finding := compared.uninformed(case, self, against):
            return finding
        sample = case.sample.of(self.suite, self.metric, against.model)
        ours = sample.scores("candidate", self.metric)
        theirs = sample.scores(against.model, self.metric)
        sizes = Counter(sample.slices)
        labels = np.array(
            [s if sizes[s] >= self.min_rows else SMALL for s in sample.slices], dtype=object
        )
        comparisons: dict[str, Comparison] = {}
        for label in sorted(set(labels)):
            rows = labels == label
            _, groups = np.unique(sample.groups[rows], return_inverse=True)
            comparisons[label] = compare(
                ours[rows], theirs[rows], groups, -self.margin, self.confidence
            )
        if min(c.low for c in comparisons.values()) <= 0 and (
            finding := compared.nothing_to_lose(case, self, against)
        ):
            return finding
        of_slices = multiple.holm([c.p_worse for c in comparisons.values()])
        samples = [comparison.pairs for comparison in comparisons.values()]
        detectable = planning.detectable_loss(samples, 1 - self.confidence)
        worse = {
            label: p for (label, c), p in zip(comparisons.items(), of_slices, strict=True) if c.effect < -self.margin
        }  # fmt: skip
        worst = min(worse, key=lambda label: (worse[label], label), default=None)
        p, p_worse = max(c.p for c in comparisons.values()), 1.0 if worst is None else worse[worst]
        # This p is not yet corrected for the number of slices.
        alone = 1.0 if worst is None else comparisons[worst].p_worse
        level = 1 - self.confidence

        def decide(p_holm: float, worse_holm: float | None) -> Finding:
            assert worse_holm is not None  # the kind gives a p_worse
            levels = corrected(level, p, p_holm), corrected(level, alone, worse_holm)
            seen = _Seen(comparisons, detectable, against.shown, levels)
            status, shown, reason, needed = self._decided(
                seen, worst, p_holm, worse_holm, held_back(level, p, p_holm)
            )
            about = comparisons[shown]
            rows = labels == shown
            low, high = seen.bounds(shown)
            return Finding(
                gate=case.name, kind=self.kind, status=status,
                reason=f"{reason}{_together(self, sizes)}",
                metric=self.metric, against=against.model, slice=shown, method=about.method,
                value=figure(about.effect), low=figure(low), high=figure(high), bound=-self.margin,
                p=small(p), p_holm=small(p_holm), detectable=None if detectable is None else figure(detectable),
                n=about.n, gained=int((ours > theirs)[rows].sum()), lost=int((ours < theirs)[rows].sum()),
                rows_needed=needed.rows if needed else None,
                groups_needed=needed.groups if needed else None,
            )  # fmt: skip

        return Test(
            p,
            p_worse,
            decide,
            (
                self.kind,
                self.suite,
                self.metric,
                self.margin,
                self.confidence,
                self.min_rows,
                against.which,
            ),
        )

    def _decided(
        self, seen: _Seen, worst: str | None, p: float, p_worse: float, at: float
    ) -> tuple[Status, str, str, Needed | None]:
        """Return the status by the corrected p-values, the slice that shows it, the reason, and what would decide.

        ``at``: the level at which the needed rows are planned.
        """
        level, comparisons = 1 - self.confidence, seen.comparisons
        if worst is not None and p_worse <= level:
            return (
                "fail",
                worst,
                f"{seen.described(worst)}: worse, by more than {self.margin:g}",
                None,
            )
        if p <= level:
            lowest = min(comparisons, key=lambda label: comparisons[label].effect)
            reason = f"none of {len(comparisons)} slices loses {self.margin:g}; lowest: {seen.described(lowest)}"
            return "pass", lowest, reason, None
        open_one = max(comparisons, key=lambda label: comparisons[label].p)
        samples = [comparison.pairs for comparison in comparisons.values()]
        if seen.detectable is None or seen.detectable > self.margin:
            needed = planning.needed_if_unchanged(samples, -self.margin, at)
            least = "no loss" if seen.detectable is None else f"a loss of {seen.detectable:.3f}"
            reason = (
                f"{least} of an unchanged model can be ruled out in all slices (at least 80 % power), "
                f"not {self.margin:g}"
            )
            would = f"; about {needed} of all slices would" if needed else ""
        else:
            needed = planning.needed_as_seen(samples, -self.margin, at)
            reason = f"a loss of {self.margin:g} is not ruled out (p {p:.2g})"
            would = (
                f"; about {needed} of all slices would decide if each true difference is as observed"
                if needed
                else ""
            )
        return "inconclusive", open_one, f"{seen.described(open_one)}: {reason}{would}", needed

    def explain(self, place: str, finding: Finding, verdict: Verdict) -> Explained:
        """Return the loss that is ruled out in each slice, and the margin that the rows of the lowest clear."""
        return self.explain_loss(
            f"in each slice (those under {self.min_rows} rows together), ", place, finding, verdict
        )


def _together(gate: SliceGate, sizes: Mapping[str, int]) -> str:
    """How many slices are too small to be judged apart."""
    count = sum(size < gate.min_rows for size in sizes.values())
    return (
        f"; {count} slices of fewer than {gate.min_rows} rows are judged as one"
        if count > 1
        else ""
    )
