"""Questions about prompts and answers: drift, proxies of quality, and quality where labels came.

Drift is asked of prompts that differ: one that is sent again and again says nothing new, and training data has each
once. Proxies and quality are asked of every answer, where answers to one prompt are a cluster.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from checks.config.monitor import Monitor
from checks.data import signals
from checks.formats.watch_report import Kind, WatchFinding
from checks.stats import drift, intervals
from checks.stats.drift import Text
from checks.stats.planning import POWER
from checks.stats.two_samples import Difference
from release.monitoring.asked import Asked, Levels, untested

_FEW = "{} different {} of the window and {} of the reference are too few to compare"


class Answered(NamedTuple):
    """A prompt, what was answered, and the score of the answer if it is known. ``group``: of near-duplicates."""

    id: str
    prompt: str
    answer: str
    group: str
    score: float | None = None


class Reference(NamedTuple):
    """What a window is compared with: ``prompts`` of the pinned rows, ``answers`` of the release before it was served.

    ``labels``: the valid answers of a task that has a closed set of them.
    """

    prompts: Sequence[Text]
    answers: Sequence[Answered]
    labels: frozenset[str] | None


def questions(window: Sequence[Answered], reference: Reference, monitor: Monitor, levels: Levels) -> Iterator[Asked]:
    """All questions that this window allows."""
    distinct = list({each.prompt: each for each in reversed(window)}.values())[::-1]
    yield _texts("prompts", [(each.id, each.prompt) for each in distinct], reference.prompts, monitor, levels)
    known, offline = reference.labels, list(reference.answers)
    if known is None:
        ours, theirs = ([(each.id, each.answer) for each in side] for side in (distinct, offline))
        yield _texts("answers", ours, theirs, monitor, levels)
    else:
        yield _labels(distinct, offline, known, monitor, levels)
        yield _rate("valid labels", window, offline, lambda each: each.answer.strip() in known, monitor, levels)
    yield _lengths(distinct, offline, monitor, levels)
    yield _rate("no refusals", window, offline, lambda each: not signals.is_refusal(each.answer), monitor, levels)
    yield _rate("no repetition", window, offline, lambda each: not signals.is_repetitive(each.answer), monitor, levels)
    labelled = [each for each in window if each.score is not None]
    if labelled:
        yield _rate("quality", labelled, offline, lambda each: each.score or 0.0, monitor, levels, kind="quality")


def _texts(name: str, ours: Sequence[Text], theirs: Sequence[Text], monitor: Monitor, levels: Levels) -> Asked:
    found = drift.texts(ours, theirs, levels.confidence)
    if found is None:
        return untested(name, "drift", _FEW.format(len(ours), name, len(theirs)))
    method = "held-out half of a classifier on TF-IDF of words"
    asked = _separation(name, "drift", found, monitor, levels, method, halves=2)
    terms = f", as by the words {', '.join(found.terms)}" if found.terms else ""
    return asked._replace(alarm=f"{name} are not those of the reference: AUC {found.auc:.3f}{terms}")


def _lengths(window: Sequence[Answered], offline: Sequence[Answered], monitor: Monitor, levels: Levels) -> Asked:
    if not window or not offline:
        return untested("length", "proxy", _FEW.format(len(window), "answers", len(offline)))
    words = [np.array([len(each.answer.split()) for each in side], np.float64) for side in (window, offline)]
    found = drift.separation(words[0], words[1], levels.confidence, 2)
    asked = _separation("length", "proxy", found, monitor, levels, "Mann-Whitney test of words in an answer", halves=1)
    way = "longer" if found.auc > 0.5 else "shorter"
    means = f"{words[0].mean():.1f} words on average, {words[1].mean():.1f} before release"
    return asked._replace(alarm=f"answers are {way} than before release: {means}")


def _separation(
    name: str, kind: Kind, found: drift.Separation, monitor: Monitor, levels: Levels, method: str, halves: int
) -> Asked:
    """A question of an AUC; its ``alarm`` is for the caller to say."""
    effect, sees = monitor.drift.auc, found.detectable(levels.alpha)
    fine, needed = sees is not None and sees <= effect, found.needed(effect, levels.alpha)
    said = "nothing" if sees is None else f"an AUC of {0.5 + sees:.3f} or more"
    reason = f"AUC {found.auc:.3f}: no change is shown; {said} would be seen with {POWER:.0%} power"
    if not fine:
        more = f"; about {halves * needed:,} different ones of the window would" if needed else ""
        reason += f", and monitor.drift.auc asks for {0.5 + effect:g}{more}"
    finding = WatchFinding(
        name=name, kind=kind, status="pass" if fine else "inconclusive", reason=reason, method=method, unit="AUC",
        value=found.auc, low=found.low, high=found.high, reference=0.5, bound=0.5 + effect, p_alarm=found.p,
        detectable=sees, n=found.n, n_reference=found.m,
        rows_needed=None if fine or needed is None else halves * needed,
    )  # fmt: skip
    return Asked(finding, "")


def _labels(
    window: Sequence[Answered], offline: Sequence[Answered], known: frozenset[str], monitor: Monitor, levels: Levels
) -> Asked:
    ours, theirs = (_counts(side, known) for side in (window, offline))
    found = drift.labels(ours, theirs, levels.confidence)
    if found is None:
        return untested("labels", "drift", _FEW.format(len(window), "labels", len(offline)))
    effect, sees = monitor.drift.w, found.detectable(levels.alpha)
    fine, needed = sees is not None and sees <= effect, found.needed(effect, levels.alpha)
    said = "nothing" if sees is None else f"w of {sees:.3f} or more"
    reason = f"Cohen's w {found.w:.3f}: no change is shown; {said} would be seen with {POWER:.0%} power"
    if not fine:
        more = f"; about {needed:,} different prompts of the window would" if needed else ""
        reason += f", and monitor.drift.w asks for {effect:g}{more}"
    moved = ", ".join(f"{label} {now:.1%} ({before:.1%} before release)" for label, now, before in found.moved)
    finding = WatchFinding(
        name="labels", kind="drift", status="pass" if fine else "inconclusive", reason=reason, unit="w",
        method=f"chi-square test, {found.freedom + 1} labels after pooling", value=found.w, low=found.low,
        high=found.high, reference=0.0, bound=effect, p_alarm=found.p, detectable=sees, n=found.n,
        n_reference=found.m, rows_needed=None if fine else needed,
    )  # fmt: skip
    return Asked(finding, f"shares of labels changed: w {found.w:.3f}; {moved}")


def _counts(side: Sequence[Answered], known: frozenset[str]) -> Mapping[str, int]:
    """Answers that are no label count as one label more."""
    return Counter(label if (label := each.answer.strip()) in known else "(no label)" for each in side)


def _rate(
    name: str,
    window: Sequence[Answered],
    offline: Sequence[Answered],
    good: Callable[[Answered], float],
    monitor: Monitor,
    levels: Levels,
    kind: Kind = "proxy",
) -> Asked:
    """A mean that must not be lower than before release by more than the margin."""
    if not window or not offline:
        return untested(name, kind, _FEW.format(len(window), "answers", len(offline)))
    ours = intervals.Mean.of([float(good(each)) for each in window], [each.prompt for each in window])
    theirs = intervals.Mean.of([float(good(each)) for each in offline], [each.group for each in offline])
    found, margin = Difference(ours, theirs), monitor.margin
    low, high, p_pass = found.low(levels.passing), found.high(levels.passing), found.p_above(-margin)
    passed, sees = p_pass <= levels.passing, found.detectable(levels.alpha)
    figures = f"{ours.value:.3f} on {len(window):,} answers, {theirs.value:.3f} before release"
    reason = f"{figures}: not lower by {margin:g} (lower bound {low:+.3f})"
    if not passed:
        reason = f"{figures}: a loss of {margin:g} is neither shown nor ruled out (bounds {low:+.3f}, {high:+.3f})"
    finding = WatchFinding(
        name=name, kind=kind, status="pass" if passed else "inconclusive", reason=reason, unit="share",
        method="difference of two means, square-and-add bounds", value=ours.value, reference=theirs.value, low=low,
        high=high, bound=-margin, p_alarm=found.p_below(-margin), p_pass=p_pass, detectable=margin + sees,
        n=len(window), n_reference=len(offline),
    )  # fmt: skip
    return Asked(finding, f"{figures}: lower by more than {margin:g} (upper bound {high:+.3f})")
