"""Questions about a window, each with its p-value, and the findings that they become after Holm's correction."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from checks.formats.watch_report import Kind, WatchFinding
from checks.kinds.gate import figure, small
from checks.stats.multiple import holm

_FIGURES = ("value", "low", "high", "reference", "detectable", "p_pass")


class Question(NamedTuple):
    """A question. ``finding`` is what it becomes without an alarm, ``alarm`` the reason with one."""

    finding: WatchFinding
    alarm: str


def untested(name: str, kind: Kind, reason: str) -> Question:
    """Return a question that this window cannot answer."""
    return Question(WatchFinding(name=name, kind=kind, status="inconclusive", reason=reason), "")


def findings(asked: Sequence[Question], alpha: float) -> tuple[WatchFinding, ...]:
    """Return the findings: an alarm at ``alpha`` or less, after Holm's correction over all questions, fails."""
    p_values = [question.finding.p_alarm for question in asked]
    corrected = iter(holm([p for p in p_values if p is not None]))
    return tuple(_finding(question, corrected, alpha) for question in asked)


def _finding(question: Question, corrected: Iterator[float], alpha: float) -> WatchFinding:
    """Return the finding of a question. Its figures have no digits that another machine might give otherwise."""
    finding, alarm = question
    values = {name: getattr(finding, name) for name in _FIGURES}
    update: dict[str, object] = {
        name: figure(value) for name, value in values.items() if value is not None
    }
    if finding.p_alarm is not None:
        p = next(corrected)
        update |= {"p_holm": small(p), "p_alarm": small(finding.p_alarm)}
        if p <= alpha:
            update |= {"status": "fail", "reason": f"{alarm} (p {p:.2g})", "rows_needed": None}
    return finding.model_copy(update=update)
