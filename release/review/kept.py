"""What a model kept and what it forgot of its base: each metric of each suite, with the loss that a gate allows."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from checks.formats.suite_report import SuitesReport
from checks.formats.verdict import Finding, Verdict
from release.pages.figures import signed
from release.review import same_samples
from release.review.metrics import SuiteScore
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
    def words(self) -> Words:
        """Name, change and allowance in a line; the interval where it contains no change."""
        allowed = f"{self.allowed} allowed" if self.allowed else ""
        inside = "; ".join(part for part in (self.interval if self.change.startswith("≈") else "", allowed) if part)
        change = f" {self.change}" if self.change else f" {self.own:.3f}"
        return Words(f"{{suite}}{change}{f' ({inside})' if inside else ''}", {"suite": self.suite})


def of_scores(suites: Sequence[SuiteScore], verdict: Verdict | None) -> list[Kept]:
    """What the suites of a pull request gave beside the base."""
    found = list[Kept]()
    for score in suites:
        base = dict(score.others).get("base")
        if base is None:
            continue
        gate = _gate(verdict, score.suite, score.metric)
        difference = score.differences.get("base")
        bounds = (difference.value, difference.low, difference.high) if difference else _bounds(gate)
        found.append(_kept(score.suite, score.metric, base, score.own, bounds, gate, score.less_is_better))
    return found


def of_report(report: SuitesReport | None, verdict: Verdict) -> Iterator[Kept]:
    """What the suites of a record gave beside the base, by the bounds of its gates."""
    for name, suite in report.suites.items() if report else ():
        base = suite.means.get("base", {})
        for metric, own in suite.means.get("candidate", {}).items():
            gate = _gate(verdict, name, metric)
            less = not same_samples.is_bounded(suite.kind)
            yield _kept(name, metric, base.get(metric), own, _bounds(gate), gate, less)


def _gate(verdict: Verdict | None, suite: str, metric: str) -> Finding | None:
    findings = verdict.findings if verdict else ()
    wanted = (suite, metric, "base", None)
    return next((each for each in findings if (each.suite, each.metric, each.against, each.slice) == wanted), None)


def _bounds(gate: Finding | None) -> tuple[float, float, float] | None:
    if gate is None or gate.value is None or gate.low is None or gate.high is None:
        return None
    return gate.value, gate.low, gate.high


def _kept(
    suite: str,
    metric: str,
    base: float | None,
    own: float,
    bounds: tuple[float, float, float] | None,
    gate: Finding | None,
    less_is_better: bool,
) -> Kept:
    """A loss is written in per cent of the base's, a share in points, any other scale as it is."""
    scale, unit, how = 1.0, "", "+.2f"
    if less_is_better and base:
        scale, unit, how = 100 / base, " %", "+.1f"
    elif base is not None and 0 <= base <= 1 and 0 <= own <= 1:
        scale, unit, how = 100.0, " points", "+.1f"
    allows = gate is not None and gate.bound is not None and gate.kind in _ALLOWING
    allowed = f"{abs((gate.bound or 0) * scale):.3g}" if gate and allows else ""
    if bounds is None:
        return Kept(suite, metric, base, own, "", "", allowed)
    value, low, high = bounds
    mark = "≈" if low <= 0 <= high else "▲" if (value > 0) is not less_is_better else "▼"
    interval = f"{signed(low * scale, how)} to {signed(high * scale, how)}"
    return Kept(suite, metric, base, own, f"{mark} {signed(value * scale, how)}{unit}", interval, allowed)
