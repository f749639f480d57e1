"""Makes the bars of gates, of differences and of releases, and lists the scores of releases with theirs."""

from collections.abc import Sequence
from typing import NamedTuple

from checks.formats.evaluation_reports import Interval
from checks.formats.verdict import Finding
from checks.formats.watch_report import WatchReport
from checks.stats.paired import Difference
from release.cards.release_page import Against, ReleasePage, Site
from release.cards.trade import Far
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
    farthest = dict[str, float]()
    for row in beside:
        if row.difference:
            ends = abs(row.difference.low), abs(row.difference.high), farthest.get(row.metric, 0.0)
            farthest[row.metric] = max(ends)
    return [
        _of_difference(row.difference, farthest[row.metric] or 1.0) if row.difference else None
        for row in beside
    ]


def _of_difference(far: Difference, most: float) -> Bar:
    value, low, high = (signed(figure, "+.3f") for figure in (far.value, far.low, far.high))
    sign = -1 if far.less_is_better else 1
    left, right = sorted((sign * far.low, sign * far.high))
    bar = Line.over((-most, most)).bar(
        (sign * far.value, left, right), 0.0, f"{value}, from {low} to {high}", how="+.2g"
    )
    return bar._replace(ends=bar.ends[::sign])


def together(figures: Sequence[Interval | Far | float], bound: float, how: str) -> list[Bar]:
    """Return the bars of ``figures`` on one scale, beside ``bound``. ``how``: the format of their words."""
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
    # Every comparison of a page has the first metric.
    pairs = [
        (page, beside, beside.ours)
        for page in site.pages
        for beside in [row for row in page.against if row.ours is not None][:1]
        if beside.ours is not None
    ]
    if not pairs:
        return None
    newest, of_newest, newest_score = pairs[0]
    environment, version = list(site.environments.items())[-1]
    running = next((score for page, _, score in pairs if page.version == version), None)
    line = _ends(newest_score if running is None else running)[0]
    places = together([score for *_, score in pairs], line, ".3f")
    return ScoreTable(
        metric=of_newest.metric,
        line=f"{newest.version}, the newest" if running is None else f"{version}, which {environment} runs",
        releases=tuple(
            ReleaseScore(
                page=page, score=score, bar=bar, unlike=_unlike(newest, of_newest.metric, page, beside),
                window=next(iter(page.production.windows), None),
            )
            for (page, beside, score), bar in zip(pairs, places, strict=True)
        ),
    )  # fmt: skip


def _unlike(newest: ReleasePage, metric: str, page: ReleasePage, score: Against) -> str:
    if score.metric != metric:
        return f"scored by {score.metric}"
    return "" if page.test == newest.test else "another test split"
