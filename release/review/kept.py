"""What a model kept and what it forgot of its base: each metric of each suite, with the loss that a gate allows."""

from collections.abc import Iterator
from typing import NamedTuple

from checks.evaluation.suite_kind import BoundedSuite
from checks.formats.suite_report import SuitesReport
from checks.formats.verdict import Finding, Verdict
from checks.suites import SUITES
from release.pages.figures import signed
from release.review.words import Words

_ALLOWING = ("non_inferior", "remembers")  # kinds of gate that allow a loss


class Kept(NamedTuple):
    """A metric of a suite beside the base. ``change``: such as "▼ 5.6 %"; ``allowed``: the loss that a gate allows."""

    suite: str
    metric: str
    base: float | None
    own: float
    change: str
    interval: str
    allowed: str

    @property
    def figures(self) -> Words:
        """The change with its interval; a dash if it is not known."""
        return Words(f"{self.change} ({self.interval})" if self.change else "–")

    @property
    def allowance(self) -> Words:
        """The allowed loss; a dash if no gate allows one."""
        return Words(self.allowed or "–")

    @property
    def words(self) -> Words:
        """Name, change and allowance in a line; the interval where it contains no change."""
        allowed = f"{self.allowed} allowed" if self.allowed else ""
        inside = "; ".join(part for part in (self.interval if self.change.startswith("≈") else "", allowed) if part)
        change = f" {self.change}" if self.change else f" {self.own:.3f}"
        return Words(f"{{suite}}{change}{f' ({inside})' if inside else ''}", {"suite": self.suite})


def of_report(report: SuitesReport | None, verdict: Verdict) -> Iterator[Kept]:
    """What the suites of a record gave beside the base, by the bounds of its gates."""
    for name, suite in report.suites.items() if report else ():
        base = suite.means.get("base", {})
        for metric, own in suite.means.get("candidate", {}).items():
            yield row(verdict, name, metric, (base.get(metric), own), not is_bounded(suite.kind))


def _gate(verdict: Verdict | None, suite: str, metric: str) -> Finding | None:
    findings = verdict.findings if verdict else ()
    wanted = (suite, metric, "base", None)
    return next((each for each in findings if (each.suite, each.metric, each.against, each.slice) == wanted), None)


def _bounds(gate: Finding | None) -> tuple[float, float, float] | None:
    if gate is None or gate.value is None or gate.low is None or gate.high is None:
        return None
    return gate.value, gate.low, gate.high


def is_bounded(kind: str) -> bool:
    """Whether metrics of this kind of suite have bounds, and more is better. A loss has none, and less is better."""
    found = SUITES.kinds.get(kind)
    return found is None or issubclass(found, BoundedSuite)


def row(
    verdict: Verdict | None,
    suite: str,
    metric: str,
    means: tuple[float | None, float],
    less_is_better: bool,
    bounds: tuple[float, float, float] | None = None,
) -> Kept:
    """The row of a metric. ``means``: of the base and of the model; ``bounds``: the change; None: those of the gate.

    A loss is written in per cent of the base's, a share in points, any other scale as it is.
    """
    base, own = means
    gate = _gate(verdict, suite, metric)
    bounds = bounds or _bounds(gate)
    scale, unit, how = 1.0, "", "+.2f"
    if less_is_better and base:
        scale, unit, how = 100 / base, " %", "+.1f"
    elif base is not None and 0 <= base <= 1 and 0 <= own <= 1:
        scale, unit, how = 100.0, " points", "+.1f"
    allows = gate is not None and gate.bound is not None and gate.kind in _ALLOWING
    allowed = f"{round(abs(gate.bound or 0) * scale, 1 if unit else 3):g}" if gate and allows else ""
    if bounds is None:
        return Kept(suite, metric, base, own, "", "", allowed)
    value, low, high = bounds
    mark = "≈" if low <= 0 <= high else "▲" if (value > 0) is not less_is_better else "▼"
    interval = f"{signed(low * scale, how)} to {signed(high * scale, how)}"
    # Of a loss, the mark says the direction: a plus would read as a gain.
    size = f"{abs(value * scale):.1f}" if less_is_better and mark != "≈" else signed(value * scale, how)
    return Kept(suite, metric, base, own, f"{mark} {size}{unit}", interval, allowed)
