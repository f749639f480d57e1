"""Questions about prompts and answers: drift, proxies of quality, and quality where labels came.

A window is compared with the windows of the same release before it, if there are ``LEAST_EARLIER``, and else with the
release's data. That has each prompt once, so a window that is compared with it has, too; labels and means weigh
requests. Requests of one user depend on one another, and so do those of a block of hours where users are not known. But
users who come back make weeks differ in a way that no block shows. So a difference is an alarm only where keys tell
users apart, or where it is larger than those between the earlier windows.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from types import MappingProxyType
from typing import NamedTuple, TypeVar

from checks.config.monitor import Monitor
from checks.data import signals
from checks.formats.watch_report import Kind, WatchFinding
from checks.kinds.scorer import Scorer
from checks.records.record import Digest
from checks.stats import drift, intervals
from checks.stats.drift import Separation, Shift, Text
from checks.stats.planning import POWER
from checks.stats.two_samples import Difference
from release.monitoring.window_questions import Question, untested

LEAST_EARLIER = 3
_FEW = "{} {} of the window and {} of the reference are too few to compare"

Tested = TypeVar("Tested", Separation, Shift)


class ScoredAnswer(NamedTuple):
    """A prompt, what was answered, and the score of the answer if it is known.

    ``group``: answers of one group may depend on one another: those to near-duplicates, or to one user.
    """

    id: str
    prompt: str
    answer: str
    group: str
    score: float | None = None


class Reference(NamedTuple):
    """The ``prompts`` of the pinned rows, and the ``answers`` of the release before it was served.

    ``labels``: the valid answers of a task that has a closed set of them. ``digests``: of the files that all this was
    read from. ``scorer``: by which the answers were scored; None: it is not the one that params.yaml names now.
    """

    prompts: Sequence[Text]
    answers: Sequence[ScoredAnswer]
    labels: frozenset[str] | None
    digests: Mapping[str, Digest] = MappingProxyType({})
    scorer: Scorer | None = None


class Windows(NamedTuple):
    """Answers of one window, and of each one before it. ``keyed``: the groups are users, so they are independent."""

    now: Sequence[ScoredAnswer]
    earlier: Sequence[Sequence[ScoredAnswer]]
    keyed: bool

    @property
    def compared(self) -> bool:
        """Whether there are enough earlier windows to compare this one with; else it is compared with the release."""
        return len(self.earlier) >= LEAST_EARLIER

    @property
    def note(self) -> str | None:
        """Say why a difference is no alarm; None: it is one."""
        if self.keyed or self.compared:
            return None
        return (
            "drift raises no alarm yet, because it is not known how much usual weeks differ: give requests user keys "
            f"(`lockstep gateway --user-secret`), or wait for {LEAST_EARLIER} earlier windows of this release "
            f"({len(self.earlier)} captured so far)"
        )


def questions(windows: Windows, reference: Reference, monitor: Monitor) -> Iterator[Question]:
    """All questions that this window allows."""
    known, offline, now = reference.labels, reference.answers, windows.now
    texts = partial(drift.texts, confidence=monitor.confidence)
    rate = partial(_rate, offline=offline, monitor=monitor)

    def lengths(ours: Sequence[Text], theirs: Sequence[Text]) -> Separation | None:
        if not ours or not theirs:
            return None
        words = [[float(len(text.text.split())) for text in side] for side in (ours, theirs)]
        clusters = tuple([text.cluster for text in side] for side in (ours, theirs))
        return drift.separation(
            words[0], words[1], (clusters[0], clusters[1]), monitor.confidence, 2
        )

    def sample(side: Sequence[ScoredAnswer]) -> Sequence[ScoredAnswer]:
        return side if windows.compared else _first_of_each_prompt(side)

    def prompts_of(side: Sequence[ScoredAnswer]) -> list[Text]:
        return _prompts(sample(side))

    def answers_of(side: Sequence[ScoredAnswer]) -> list[Text]:
        return [Text(answer.id, answer.answer, answer.group) for answer in sample(side)]

    offline_answers = [Text(answer.id, answer.answer, answer.group) for answer in offline]
    prompts = _compared(windows, reference.prompts, prompts_of, texts)
    yield _texts("prompts", prompts, windows, monitor)
    if known is None:
        answered = _compared(windows, offline_answers, answers_of, texts)
        yield _texts("answers", answered, windows, monitor)
    else:
        labels = partial(drift.labels, confidence=monitor.confidence)
        labels_of = partial(_labels_of, known=known)
        shift = _compared(windows, labels_of(offline), labels_of, labels)
        yield _labels(shift, windows, monitor)
        yield rate("valid labels", now, lambda answer: answer.answer.strip() in known)
    long = _compared(windows, offline_answers, answers_of, lengths)
    yield _lengths(long, windows, monitor)
    yield rate("no refusals", now, lambda answer: not signals.is_refusal(answer.answer))
    yield rate("no repetition", now, lambda answer: not signals.is_repetitive(answer.answer))
    labelled = [answer for answer in now if answer.score is not None]
    if labelled:
        yield rate("quality", labelled, lambda answer: answer.score or 0.0, kind="quality")


def beside_training(
    now: Sequence[ScoredAnswer], reference: Reference, confidence: float
) -> Separation | None:
    """Return how well a classifier tells a window's prompts from those of the release's data. None: one has too few."""
    return drift.texts(_prompts(_first_of_each_prompt(now)), reference.prompts, confidence)


def _first_of_each_prompt(side: Sequence[ScoredAnswer]) -> Sequence[ScoredAnswer]:
    """Return the first request of each prompt, because the release's data has each prompt once."""
    return list({answer.prompt: answer for answer in reversed(side)}.values())[::-1]


def _prompts(side: Sequence[ScoredAnswer]) -> list[Text]:
    return [Text(answer.id, answer.prompt, answer.group) for answer in side]


def _compared(
    windows: Windows, release: Sequence[Text], sample: Callable[[Sequence[ScoredAnswer]], Sequence[Text]],
    test: Callable[[Sequence[Text], Sequence[Text]], Tested | None],
) -> Tested | None:  # fmt: skip
    """Return the ``test`` of this window: against the earlier ones if there are enough, else against ``release``.

    Where users are not known, each earlier window is tested against the others too: ordinary windows may differ so
    much. None where a side is too small.
    """
    if not windows.compared:
        return test(sample(windows.now), release)
    samples = [sample(window) for window in windows.earlier]
    result = test(sample(windows.now), list(chain(*samples)))
    if result is None or windows.keyed:
        return result
    ordinary = [
        test(window, list(chain(*samples[:i], *samples[i + 1 :])))
        for i, window in enumerate(samples)
    ]
    tested = [test_result for test_result in ordinary if test_result is not None]
    return result.beside(tested) if len(tested) >= LEAST_EARLIER else None


def _labels_of(side: Sequence[ScoredAnswer], known: frozenset[str]) -> list[Text]:
    """Return the label of each answer; answers that are none count as one label more."""
    return [
        Text(
            answer.id,
            label if (label := answer.answer.strip()) in known else "(no label)",
            answer.group,
        )
        for answer in side
    ]


def _texts(name: str, result: Separation | None, windows: Windows, monitor: Monitor) -> Question:
    if result is None:
        return untested(name, "drift", f"too few different {name} to compare")
    method = "held-out half of a classifier on TF-IDF of words"
    terms = f", as by the words {', '.join(result.terms)}" if result.terms else ""
    alarm = f"{name} are not those of {_against(windows)}: AUC {result.auc:.3f}{terms}"
    return _drift(name, "drift", result, windows, monitor, method, alarm, halves=2)


def _lengths(result: Separation | None, windows: Windows, monitor: Monitor) -> Question:
    if result is None:
        return untested("length", "proxy", "there is no answer to compare")
    way = "longer" if result.auc > 0.5 else "shorter"
    alarm = f"answers are {way} than those of {_against(windows)}: AUC {result.auc:.3f}"
    method = "Mann-Whitney test of words in an answer"
    return _drift("length", "proxy", result, windows, monitor, method, alarm)


def _labels(result: Shift | None, windows: Windows, monitor: Monitor) -> Question:
    if result is None:
        return untested("labels", "drift", "too few labels to compare")
    moved = ", ".join(
        f"{label} {now:.1%} ({before:.1%} before)" for label, now, before in result.moved
    )
    alarm = f"shares of labels are not those of {_against(windows)}: w {result.w:.3f}; {moved}"
    method = "chi-square test with Rao and Scott's correction"
    return _drift("labels", "drift", result, windows, monitor, method, alarm)


def _drift(
    name: str, kind: Kind, result: Separation | Shift, windows: Windows, monitor: Monitor, method: str,
    alarm: str, halves: int = 1,
) -> Question:  # fmt: skip
    """Return a question of an AUC, or of Cohen's w. ``halves``: 2 if half of the rows only train the classifier."""
    if isinstance(result, Separation):
        unit, figure, none, effect = "AUC", result.auc, 0.5, monitor.drift.auc
        a_figure, shown, rows = "an AUC", f"AUC {figure:.3f}", "different ones"
    else:
        unit, figure, none, effect = "w", result.w, 0.0, monitor.drift.w
        a_figure, shown, rows = "w", f"Cohen's w {figure:.3f}", "requests"
    sees, needed = result.detectable(monitor.alpha), result.needed(effect, monitor.alpha)
    fine = sees is not None and sees <= effect
    seen = "nothing" if sees is None else f"{a_figure} of {none + sees:.3f} or more"
    more = f"; about {halves * needed:,} {rows} of the window would" if needed else ""
    asks = "" if fine else f"monitor.drift.{unit.lower()} asks for {none + effect:g}{more}"
    finding = WatchFinding(
        name=name, kind=kind, status="pass" if fine else "inconclusive", reason=_no_change(shown, seen, asks),
        method=method, unit=unit, value=figure, low=result.low, high=result.high, reference=none, bound=none + effect,
        p_alarm=result.p, detectable=sees, n=result.n, n_reference=result.m,
        rows_needed=None if fine or needed is None else halves * needed,
    )  # fmt: skip
    return _asked(finding, alarm, windows)


def _no_change(figure: str, seen: str, asks: str) -> str:
    """Return the reason of a question that found no change. ``asks``: what it should have seen; empty: it saw that."""
    reason = f"{figure}: no change is shown; {seen} would be seen with {POWER:.0%} power"
    return f"{reason}, and {asks}" if asks else reason


def _asked(finding: WatchFinding, alarm: str, windows: Windows) -> Question:
    """Return the question; where no ordinary window is known, its difference is reported and is no alarm."""
    if windows.note is None or finding.p_alarm is None:
        return Question(finding, alarm)
    differs = (
        f"{alarm} (p {finding.p_alarm:.2g})"
        if finding.p_alarm <= 0.05
        else finding.reason.partition(";")[0]
    )
    update = {"status": "inconclusive", "p_alarm": None, "rows_needed": None, "detectable": None}
    return Question(
        finding.model_copy(update=update | {"reason": f"{differs}; usual weeks are not known yet"}),
        "",
    )


def _against(windows: Windows) -> str:
    return "the windows before" if windows.compared else "the release's data"


def _rate(
    name: str,
    window: Sequence[ScoredAnswer],
    good: Callable[[ScoredAnswer], float],
    offline: Sequence[ScoredAnswer],
    monitor: Monitor,
    kind: Kind = "proxy",
) -> Question:
    """Return a mean that must not be lower than before release by more than the margin."""
    if not window or not offline:
        return untested(name, kind, _FEW.format(len(window), "answers", len(offline)))
    scores = [float(good(answer)) for answer in window]
    # A prompt's answers depend on one another, and so do those of a user: the larger variance counts.
    clusters = ([answer.prompt for answer in window], [answer.group for answer in window])
    ours = min((intervals.Mean.of(scores, by) for by in clusters), key=lambda mean: mean.size)
    theirs = intervals.Mean.of(
        [float(good(answer)) for answer in offline], [answer.group for answer in offline]
    )
    difference = Difference(ours, theirs)
    margin, level = monitor.margin, 1 - monitor.confidence
    low, high = difference.low(level), difference.high(level)
    p_pass = difference.p_above(-margin)
    passed, sees = p_pass <= level, difference.detectable(monitor.alpha)
    figures = f"{ours.value:.3f} on {len(window):,} answers, {theirs.value:.3f} before release"
    reason = f"{figures}: not lower by {margin:g} (lower bound {low:+.3f})"
    if not passed and high < -margin:
        reason = f"{figures}: lower by {margin:g} (upper bound {high:+.3f}), but not beyond chance among all questions"
    elif not passed:
        reason = f"{figures}: a loss of {margin:g} is neither shown nor ruled out (bounds {low:+.3f}, {high:+.3f})"
    finding = WatchFinding(
        name=name, kind=kind, status="pass" if passed else "inconclusive", reason=reason, unit="share",
        method="difference of two means, square-and-add bounds", value=ours.value, reference=theirs.value, low=low,
        high=high, bound=-margin, p_alarm=difference.p_below(-margin), p_pass=p_pass, detectable=margin + sees,
        n=len(window), n_reference=len(offline),
    )  # fmt: skip
    return Question(finding, f"{figures}: lower by more than {margin:g} (upper bound {high:+.3f})")
