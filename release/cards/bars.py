"""Makes the bars of gates, of differences and of releases, and lists the scores of releases with theirs."""

from collections.abc import Sequence
from typing import NamedTuple

from checks.formats.evaluation_reports import Interval
from checks.formats.verdict import Finding
from checks.formats.watch_report import WatchReport
from release.cards.release_page import Against, ReleasePage, Site
from release.cards.trade import Far, Trade
from release.pages.bars import Bar, Line
from release.pages.figures import signed

_NEXT_TO_NOTHING = 0.02  # A figure without an interval below this share of its limit has no bar.


def of_gate(finding: Finding) -> Bar | None:
    """The bar of a gate's finding; None for a kind without figures, or one that is next to nothing of its limit."""
    if finding.value is None or finding.bound is None:
        return None
    value, bound = finding.value, finding.bound
    words = signed(value, ".4g")
    if finding.low is not None and finding.high is not None:
        low, high = finding.low, finding.high
        words = f"{words}, from {signed(low, '.4g')} to {signed(high, '.4g')}"
    elif abs(value) <= _NEXT_TO_NOTHING * abs(bound):
        return None
    else:  # A figure without an interval, such as a size, is drawn from zero.
        low, high = sorted((0.0, value))
    return Line.over((value, low, high, bound)).bar(
        (value, low, high),
        bound,
        f"{words}, limit {signed(bound, '.4g')}",
        finding.status == "pass",
    )


def of_differences(beside: Sequence[Against]) -> list[Bar | None]:
    """Return the bar of each difference, better to the right. No difference is in the middle of every line.

    Differences by one metric have one scale.
    """
    lines, farthest = list[Bar | None](), dict[str, float]()
    for row in beside:
        if row.difference:
            ends = abs(row.difference.low), abs(row.difference.high), farthest.get(row.metric, 0.0)
            farthest[row.metric] = max(ends)
    for row in beside:
        far = row.difference
        if far is None:
            lines.append(None)
            continue
        value, low, high = (signed(figure, "+.3f") for figure in (far.value, far.low, far.high))
        most = farthest[row.metric] or 1.0
        figure = (
            (-far.value, -far.high, -far.low)
            if far.less_is_better
            else (far.value, far.low, far.high)
        )
        bar = Line.over((-most, most)).bar(
            figure, 0.0, f"{value}, from {low} to {high}", how="+.2g"
        )
        lines.append(bar._replace(ends=bar.ends[::-1]) if far.less_is_better else bar)
    return lines


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
    line = Line.over([bound, *(end for row in rows for end in row)])
    return [line.bar(row, bound, signed(row[0], how)) for row in rows]


def _ends(figure: Interval | Far | float) -> tuple[float, float, float]:
    """Return value, low and high: for a figure without an interval the value itself."""
    if isinstance(figure, float | int) or figure.low is None or figure.high is None:
        value = figure if isinstance(figure, float | int) else figure.value
        return value, value, value
    return figure.value, figure.low, figure.high


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
