"""Judges a candidate beside production by pairs of answers, at any number of looks.

Each question compares one thing in pairs: whether there was an answer at all, signals of quality, quality itself where
labels came. Its evidence is the e-process of ``checks.stats.anytime``. One question fails where a loss above the
margin is shown; alpha is divided among all questions that are asked, whether or not anything came for them. A question
passes where a loss of the margin is ruled out; a candidate is kept only if every question passes, so alpha is not
divided.
"""

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import NamedTuple

from checks.config.monitor import Monitor
from checks.data import signals
from checks.formats.rollout_report import Decision, RolloutFinding
from checks.formats.verdict import Status
from checks.kinds.gate import figure, small
from checks.stats.anytime import Stream


class SideAnswer(NamedTuple):
    """The answer of one release; None: no whole answer. ``score``: by its label, if that is known."""

    answer: str | None
    score: float | None = None


class Pair(NamedTuple):
    """The answers of both releases: one each to the same prompt, or one or more each to prompts of the same time.

    A pair is one observation: the difference of the two means.
    """

    production: Sequence[SideAnswer]
    candidate: Sequence[SideAnswer]


class Judged(NamedTuple):
    """The findings, what they decide, and the share of equal answers, if both answered the same prompts."""

    findings: tuple[RolloutFinding, ...]
    decision: Decision
    agreement: float | None


def judge(
    pairs: Sequence[Pair], scored: Sequence[Pair], monitor: Monitor, *, same_prompts: bool
) -> Judged:
    """Ask ``pairs`` about answers, and ``scored`` about quality: pairs of answers that all have a score.

    ``same_prompts``: both sides of a pair answered one prompt. Then equal answers have equal scores, whatever their
    label, and the share of different answers bounds the loss.
    """
    questions: list[tuple[str, Callable[[str], bool]]] = [
        ("no refusals", lambda answer: not signals.is_refusal(answer)),
        ("no repetition", lambda answer: not signals.is_repetitive(answer)),
    ]
    if monitor.labels is not None:
        known = frozenset(monitor.labels)
        questions.append(("valid labels", lambda answer: answer.strip() in known))
    means = {
        "answered": [
            tuple(fmean(side.answer is not None for side in sides) for sides in pair)
            for pair in pairs
        ]
    }
    answers = [
        tuple([side.answer for side in sides if side.answer is not None] for sides in pair)
        for pair in pairs
    ]
    whole = [pair for pair in answers if all(pair)]
    means |= {
        name: [tuple(fmean(map(good, texts)) for texts in pair) for pair in whole]
        for name, good in questions
    }
    means["quality"] = [
        tuple(fmean(side.score or 0.0 for side in sides) for sides in pair) for pair in scored
    ]
    differ = (
        [float(one.strip() != two.strip()) for (one,), (two,) in whole] if same_prompts else None
    )
    findings = tuple(
        _finding(name, values, monitor, len(means), differ if name == "quality" else None)
        for name, values in means.items()
    )
    statuses = {finding.status for finding in findings}
    decision: Decision = (
        "roll back" if "fail" in statuses else "keep" if statuses == {"pass"} else "go on"
    )
    return Judged(findings, decision, figure(1 - sum(differ) / len(differ)) if differ else None)


def _finding(
    name: str,
    values: Sequence[tuple[float, ...]],
    monitor: Monitor,
    questions: int,
    differ: Sequence[float] | None,
) -> RolloutFinding:
    """``values``: of production and candidate. ``differ``: 1 for a pair of different answers, an upper bound of a loss.

    Where there is such a bound, half of alpha is for each of the two ways to pass.
    """
    stream = Stream.of([ours - theirs for ours, theirs in values])
    n, margin, alpha = len(values), monitor.margin, 1 - monitor.confidence
    level, passing = alpha / questions, alpha / (1 if differ is None else 2)
    p_loss, p_fine = stream.p_above(margin), stream.p_below(margin)
    p_same = 1.0 if differ is None else Stream.of(differ).p_below(margin)
    low, high = stream.low(level), stream.high(passing)
    status: Status = (
        "fail" if p_loss <= level else "pass" if min(p_fine, p_same) <= passing else "inconclusive"
    )
    production, candidate = (
        sum(value[side] for value in values) / n if n else None for side in (0, 1)
    )
    compared = f"{candidate:.3f} against {production:.3f} on {n:,} pairs" if n else "no pair yet"
    if status == "fail":
        reason = f"{compared}: a loss above {margin:g} is shown (at least {low:.3f})"
    elif status == "pass" and p_fine <= passing:
        reason = f"{compared}: a loss of {margin:g} is ruled out (at most {high:.3f})"
    elif status == "pass":
        reason = f"{compared}: fewer than {margin:g} of the answers differ, so no larger loss is possible"
    else:
        reason = f"{compared}: a loss of {margin:g} is neither shown nor ruled out (bounds {low:.3f}, {high:.3f})"
    return RolloutFinding(
        name=name, status=status, reason=reason, pairs=n, low=figure(low), high=figure(high),
        production=None if production is None else figure(production),
        candidate=None if candidate is None else figure(candidate),
        loss=None if production is None or candidate is None else figure(production - candidate),
        p_loss=small(p_loss), p_fine=small(min(1.0, min(p_fine, p_same) * alpha / passing)),
    )  # fmt: skip
