"""Places figures on a line: a bound, the value, and the interval of the value; and lists the scores of releases so."""

from collections.abc import Sequence
from typing import NamedTuple

from checks.formats.evaluation_reports import Interval
from checks.formats.verdict import Finding
from checks.formats.watch_report import WatchReport
from checks.stats.paired import Difference
from release.cards.release_page import ReleasePage, Site
from release.cards.trade import Far, Trade
from release.pages.figures import signed

_ROOM = 0.06  # This share of the line stays free at both ends.


class Bar(NamedTuple):
    """Places from 0 to 100. ``low`` and ``high``: the ends of what is drawn to the left and right of ``value``.

    ``passes``: from where to where a value passes; None where that is not known. ``words``: the same in words.
    """

    value: float
    low: float
    high: float
    bound: float
    passes: tuple[float, float] | None
    words: str


def of_gate(finding: Finding) -> Bar | None:
    """The bar of a gate's finding; None for a kind without figures, or where they are missing."""
    if finding.value is None or finding.bound is None:
        return None
    has_interval = finding.low is not None and finding.high is not None
    # A figure without an interval, such as a size, is drawn from zero.
    low, high = (finding.low, finding.high) if has_interval else sorted((0.0, finding.value))
    assert low is not None
    assert high is not None
    words = f"{signed(finding.value, '.4g')}, from {signed(low, '.4g')} to {signed(high, '.4g')}"
    words = f"{words if has_interval else signed(finding.value, '.4g')}, limit {signed(finding.bound, '.4g')}"
    return _bar(finding.value, low, high, finding.bound, words, finding.status == "pass")


def of_difference(difference: Difference) -> Bar:
    """The bar of a difference, beside no difference."""
    value, low, high = (
        signed(figure, "+.3f") for figure in (difference.value, difference.low, difference.high)
    )
    return _bar(
        difference.value,
        difference.low,
        difference.high,
        0.0,
        f"{value}, from {low} to {high}",
        False,
    )


def of_scores(scores: Sequence[Interval | float], line: Interval | float) -> list[Bar]:
    """Return the bars of ``scores`` beside ``line``, on one scale."""
    return _together(scores, _ends(line)[0], ".3f")


def of_gains(trade: Trade) -> list[Bar]:
    """Return the bars of what the releases gained, on one scale."""
    return _together([point.gain for point in trade.points], 0.0, "+.3f")


def of_changes(trade: Trade) -> list[Bar]:
    """Return the bars of what the releases changed elsewhere, on one scale."""
    return _together([point.change for point in trade.points], 0.0, "+.3f")


def _together(figures: Sequence[Interval | Far | float], bound: float, how: str) -> list[Bar]:
    """Return the bars of ``figures`` on one scale, beside ``bound``."""
    rows = [_ends(figure) for figure in figures]
    ends = [end for row in rows for end in row]
    return [_bar(*row, bound, signed(row[0], how), False, ends) for row in rows]


def _ends(figure: Interval | Far | float) -> tuple[float, float, float]:
    """Return value, low and high: for a figure without an interval the value itself."""
    if isinstance(figure, float | int) or figure.low is None or figure.high is None:
        value = figure if isinstance(figure, float | int) else figure.value
        return value, value, value
    return figure.value, figure.low, figure.high


def _bar(
    value: float,
    low: float,
    high: float,
    bound: float,
    words: str,
    passed: bool,
    others: Sequence[float] = (),
) -> Bar:
    ends = [value, low, high, bound, *others]
    left, right = min(ends), max(ends)
    room = (right - left or abs(right) or 1.0) * _ROOM / (1 - 2 * _ROOM)
    left, span = left - room, right - left + 2 * room

    def place(at: float) -> float:
        return 100 * (at - left) / span

    passes = None
    if passed and value != bound:
        passes = (place(bound), 100.0) if value > bound else (0.0, place(bound))
    return Bar(place(value), place(low), place(high), place(bound), passes, words)


class ReleaseScore(NamedTuple):
    """The score of one release by its first metric.

    ``unlike``: why it cannot be compared with the newest release; empty: it can. ``window``: the latest window of
    production that a current signer signed.
    """

    page: ReleasePage
    score: Interval | float
    bar: Bar
    unlike: str
    window: WatchReport | None


class ScoreTable(NamedTuple):
    """The releases with a score, the newest first. ``line``: which score the thick line shows."""

    metric: str
    line: str
    releases: tuple[ReleaseScore, ...]


def score_table(site: Site) -> ScoreTable | None:
    """Return the scores of the releases of ``site`` on one scale; None if no release has a score."""
    pairs = [(page, score) for page in site.pages if (score := _first(page))]
    if not pairs:
        return None
    newest, newest_score = pairs[0]
    environment, version = list(site.environments.items())[-1]
    running = next((score for page, score in pairs if page.version == version), None)
    places = of_scores([score.value for _, score in pairs], (running or newest_score).value)
    return ScoreTable(
        metric=newest_score.metric,
        line=f"{version}, which {environment} runs" if running else f"{newest.version}, the newest",
        releases=tuple(
            ReleaseScore(
                page=page,
                score=score.value,
                bar=bar,
                unlike=_unlike(newest, newest_score, page, score),
                window=next(iter(page.production.windows), None),
            )
            for (page, score), bar in zip(pairs, places, strict=True)
        ),
    )


class _Scored(NamedTuple):
    metric: str
    value: Interval | float


def _first(page: ReleasePage) -> _Scored | None:
    """Return the score by the first metric, which every comparison of the page has; None if no evaluation has it."""
    return next(
        (_Scored(beside.metric, beside.ours) for beside in page.against if beside.ours is not None),
        None,
    )


def _unlike(newest: ReleasePage, newest_score: _Scored, page: ReleasePage, score: _Scored) -> str:
    if score.metric != newest_score.metric:
        return f"scored by {score.metric}"
    return "" if page.test == newest.test else "another test split"
