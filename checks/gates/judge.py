"""judge: a judge agrees with people on an anchor, with itself when answers change places, and with its last record."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from checks.formats.suite_report import Anchored
from checks.formats.verdict import Finding, Status, Verdict
from checks.gating.suite_sample import checked
from checks.kinds.gate import Case, Confidence, Explained, GateKind, GateParams, Reads, figure
from checks.records.sections import Fraction, Name, Share, stricter
from checks.stats import mean_planning
from checks.stats.intervals import Mean
from checks.storage import layout


class JudgeGate(GateKind):
    """The judge of a suite of kind ``pairwise`` agrees with people on the suite's anchor, and does not drift."""

    reads: ClassVar[Reads] = "no rows"
    rank: ClassVar[int] = 48

    kind: Literal["judge"]
    suite: Annotated[Name, Field(description="a suite of kind pairwise with a judge and an anchor")]
    min_agreement: Annotated[
        Fraction,
        Field(description="share of the anchor's pairs where judge and people agree"),
        stricter("higher"),
    ]
    max_flips: Annotated[
        Share,
        Field(
            description="share of the anchor's pairs where it says another thing in the other order"
        ),
        stricter("lower"),
    ]
    confidence: Confidence

    def impossible(self, name: str, params: GateParams) -> str | None:
        """The suite must have an anchor."""
        suite = params.suites.get(self.suite)
        if suite is not None and "anchor" in suite.sources and suite.judged_by is not None:
            return None
        return (
            f"gates.{name}.suite: {self.suite!r} has no judge with an anchor|name a suite of kind pairwise, and add "
            f"suites.{self.suite}.anchor: `lockstep label {self.suite} --anchor FILE` makes one"
        )

    def check(self, case: Case) -> Finding:
        """Pass when agreement is shown to be high enough, flips are few, and nothing changed since the last record."""
        result = checked(self.suite, case.params.suites, case.evidence)[1]
        compared, anchor = result.compared, result.compared.anchor if result.compared else None
        if compared is None or anchor is None:
            return self._found(
                case.name,
                "fail",
                f"no evidence: {layout.SUITES_REPORT} has no anchor of {self.suite}",
            )
        values = [float(digit) for digit in anchor.agrees]
        agreement = Mean.of(values, [str(at) for at in range(len(values))])
        level = 1 - self.confidence
        low, high = agreement.low(level), agreement.high(level)
        status, why = self._decided(anchor, agreement, low, high)
        of_rows = f"; of {compared.differ} rows it flips {compared.flips} and leaves out {compared.unparsed}"
        return self._found(
            case.name, status, why + of_rows, value=figure(agreement.value), low=figure(low), high=figure(high),
            bound=self.min_agreement, n=len(values), method="exact binomial bound; McNemar's test of drift",
        )  # fmt: skip

    def _decided(
        self, anchor: Anchored, agreement: Mean, low: float, high: float
    ) -> tuple[Status, str]:
        n = len(anchor.agrees)
        summary = f"agrees with people on {anchor.agrees.count('1')} of {n} pairs of the anchor"
        flips = f"{anchor.flips} of {n} change with the order, at most {self.max_flips:.1%} may"
        if high < self.min_agreement:
            return (
                "fail",
                f"{summary} (upper {self.confidence:.0%} bound {high:.3f}): below {self.min_agreement:g}",
            )
        if anchor.flips > self.max_flips * n:
            return "fail", f"{summary}; {flips}"
        drift = _drift(anchor)
        if drift is not None and drift <= 1 - self.confidence:
            assert anchor.before is not None  # else there is no drift
            assert anchor.commit is not None
            then = f"{anchor.before.count('1')} at {anchor.commit[:12]} (McNemar p {drift:.2g})"
            return (
                "inconclusive",
                f"{summary}, and on {then}: the judge has changed; look at it, and pin it anew",
            )
        if low < self.min_agreement:
            needed = mean_planning.needed(agreement, self.min_agreement, 1 - self.confidence)
            more = f"; about {needed} would show it" if needed else ""
            bound = f"lower {self.confidence:.0%} bound {low:.3f}"
            return "inconclusive", f"{summary} ({bound}): {self.min_agreement:g} is not shown{more}"
        return "pass", f"{summary} (lower {self.confidence:.0%} bound {low:.3f}); {flips}"

    def _found(
        self, name: str, status: Status, reason: str, **figures: float | int | str | None
    ) -> Finding:
        return Finding.model_validate(
            {"gate": name, "kind": self.kind, "status": status, "reason": reason, "suite": self.suite,
             "evidence": "witnessed", **figures}
        )  # fmt: skip

    def explain(self, place: str, finding: Finding, verdict: Verdict) -> Explained:
        """The bounds, and what would change the answer."""
        return Explained(
            f"does the judge of suite {self.suite} agree with people on {self.min_agreement:.0%} of the anchor's "
            f"pairs, shown with {self.confidence:.0%} confidence, flip at most {self.max_flips:.0%}, and not change?",
            "by an exact bound for the agreement, by rule for the flips, by McNemar's exact test for the change",
            "evidence" if finding.low is None
            else f"a better prompt or judge, a larger anchor, or {place}.min_agreement below {finding.low:.3f}",
            f"{layout.SUITES_REPORT}, {layout.JUDGED}",
        )  # fmt: skip


def _drift(anchor: Anchored) -> float | None:
    """McNemar's exact p-value, two-sided, of the same agreement as in the last record; None: there is none."""
    if anchor.before is None or len(anchor.before) != len(anchor.agrees):
        return None
    from scipy.stats import binomtest

    pairs = list(zip(anchor.before, anchor.agrees, strict=True))
    better, worse = pairs.count(("0", "1")), pairs.count(("1", "0"))
    return float(binomtest(better, better + worse).pvalue) if better + worse else 1.0
