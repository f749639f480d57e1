"""Lists the score of each release beside that of the release that the last environment runs."""

from typing import NamedTuple

from checks.formats.evaluation_reports import Interval
from checks.formats.watch_report import WatchReport
from release.cards import bars
from release.cards.release_page import ReleasePage, Site


class ReleaseScore(NamedTuple):
    """The score of one release by its first metric.

    ``unlike``: why it cannot be compared with the newest release; empty: it can. ``window``: the latest window of
    production that a current signer signed.
    """

    page: ReleasePage
    score: Interval | float
    bar: bars.Bar
    unlike: str
    window: WatchReport | None


class ScoreTable(NamedTuple):
    """The releases with a score, the newest first. ``line``: which score the thick line shows."""

    metric: str
    line: str
    releases: tuple[ReleaseScore, ...]


def of(site: Site) -> ScoreTable | None:
    """Return the scores of the releases of ``site`` on one scale; None if no release has a score."""
    pairs = [(page, score) for page in site.pages if (score := _first(page))]
    if not pairs:
        return None
    newest, newest_score = pairs[0]
    environment, version = list(site.environments.items())[-1]
    running = next((score for page, score in pairs if page.version == version), None)
    places = bars.of_scores([score.value for _, score in pairs], (running or newest_score).value)
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
