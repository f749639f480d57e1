"""Compares a model with its base by each metric of each suite, with the loss that a gate allows."""

from collections.abc import Iterator
from typing import NamedTuple

from checks.formats.evaluation_reports import Interval
from checks.formats.suite_report import SuitesReport
from checks.formats.verdict import Finding, Verdict
from checks.kinds.suite import SUITES, BoundedSuite
from checks.stats.paired import Difference
from release.pages.figures import signed
from release.pages.words import Words

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
        inside = "; ".join(
            part for part in (self.interval if self.change.startswith("≈") else "", allowed) if part
        )
        change = f" {self.change}" if self.change else f" {self.own:.3f}"
        return Words(f"{{suite}}{change}{f' ({inside})' if inside else ''}", {"suite": self.suite})


def of_report(report: SuitesReport | None, verdict: Verdict) -> Iterator[Kept]:
    """Compare each suite of a record with the base, by the bounds of its gates."""
    for name, suite in report.suites.items() if report else ():
        base = suite.means.get("base", {})
        for metric, own in suite.means.get("candidate", {}).items():
            yield row(verdict, name, metric, (base.get(metric), own), not is_bounded(suite.kind))


def gate(
    verdict: Verdict | None, against: str, metric: str | None, suite: str | None = None
) -> Finding | None:
    """The finding about all rows of ``suite`` (None: the test rows) by ``metric`` against the model ``against``."""
    wanted = (against, metric, suite, None)
    for finding in verdict.findings if verdict else ():
        if (finding.against, finding.metric, finding.suite, finding.slice) == wanted:
            return finding
    return None


def interval(finding: Finding | None) -> Interval | None:
    """Return the value of a finding with its bounds; None if it lacks one of them."""
    if finding is None or finding.value is None or finding.low is None or finding.high is None:
        return None
    return Interval(value=finding.value, low=finding.low, high=finding.high, n=finding.n or 0)


def is_bounded(kind: str) -> bool:
    """Whether metrics of this kind of suite have bounds, and more is better. A loss has none, and less is better."""
    suite_kind = SUITES.kinds.get(kind)
    return suite_kind is None or issubclass(suite_kind, BoundedSuite)


def row(
    verdict: Verdict | None,
    suite: str,
    metric: str,
    means: tuple[float | None, float],
    less_is_better: bool,
    change: Interval | Difference | None = None,
) -> Kept:
    """The row of a metric. ``means``: of the base and of the model. Without ``change``, that of the gate is taken.

    A loss is written in per cent of the base's, a share in points, any other scale as it is.
    """
    base, own = means
    finding = gate(verdict, "base", metric, suite)
    change = change or interval(finding)
    scale, unit, how = 1.0, "", "+.2f"
    if less_is_better and base:
        scale, unit, how = 100 / base, " %", "+.1f"
    elif base is not None and 0 <= base <= 1 and 0 <= own <= 1:
        scale, unit, how = 100.0, " points", "+.1f"
    allows = finding is not None and finding.bound is not None and finding.kind in _ALLOWING
    allowed = (
        f"{round(abs(finding.bound or 0) * scale, 1 if unit else 3):g}"
        if finding and allows
        else ""
    )
    if change is None:
        return Kept(suite, metric, base, own, "", "", allowed)
    value = change.value
    is_better = (value > 0) is not less_is_better
    mark = "≈" if change.low <= 0 <= change.high else "▲" if is_better else "▼"
    bounds = f"{signed(change.low * scale, how)} to {signed(change.high * scale, how)}"
    # Of a loss, the mark says the direction: a plus would read as a gain.
    size = (
        f"{abs(value * scale):.1f}"
        if less_is_better and mark != "≈"
        else signed(value * scale, how)
    )
    return Kept(suite, metric, base, own, f"{mark} {size}{unit}", bounds, allowed)
