"""Questions about a window, each with its p-value, and the findings that they become after Holm's correction."""

from collections.abc import Sequence
from typing import NamedTuple

from checks.config.monitor import Monitor
from checks.formats.watch_report import Kind, WatchFinding
from checks.kinds.gate import figure, small
from checks.stats.multiple import holm


class Levels(NamedTuple):
    """``alpha``: of an alarm, over all questions of a window. ``passing``: of a pass, and of each bound."""

    alpha: float
    passing: float

    @property
    def confidence(self) -> float:
        """Of a pass, and of each bound."""
        return 1 - self.passing


class Asked(NamedTuple):
    """A question. ``finding`` is what it becomes without an alarm, ``alarm`` the reason with one."""

    finding: WatchFinding
    alarm: str


def levels(monitor: Monitor) -> Levels:
    """The levels that ``monitor`` asks for."""
    return Levels(monitor.alpha, 1 - monitor.confidence)


def untested(name: str, kind: Kind, reason: str) -> Asked:
    """A question that this window cannot answer."""
    return Asked(WatchFinding(name=name, kind=kind, status="inconclusive", reason=reason), "")


def findings(asked: Sequence[Asked], alpha: float) -> tuple[WatchFinding, ...]:
    """The findings: an alarm at ``alpha`` or less, after Holm's correction over all questions, fails."""
    tested = [question.finding for question in asked if question.finding.p_alarm is not None]
    corrected = iter(holm([finding.p_alarm for finding in tested if finding.p_alarm is not None]))
    findings_made = list[WatchFinding]()
    for finding, alarm in asked:
        if finding.p_alarm is None:
            findings_made.append(finding)
            continue
        p = next(corrected)
        update: dict[str, object] = {"p_holm": small(p), "p_alarm": small(finding.p_alarm)}
        if p <= alpha:
            update |= {"status": "fail", "reason": f"{alarm} (p {p:.2g})", "rows_needed": None}
        findings_made.append(finding.model_copy(update=update))
    return tuple(_rounded(finding) for finding in findings_made)


def _rounded(finding: WatchFinding) -> WatchFinding:
    """Its figures without the digits that another machine might give otherwise."""
    names = ("value", "low", "high", "reference", "detectable", "p_pass")
    values = {name: getattr(finding, name) for name in names}
    return finding.model_copy(
        update={name: figure(value) for name, value in values.items() if value is not None}
    )
