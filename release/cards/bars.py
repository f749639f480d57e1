"""Places figures on a line: a bound, the value, and the interval of the value."""

from collections.abc import Sequence
from typing import NamedTuple

from checks.formats.evaluation_reports import Interval
from checks.formats.verdict import Finding
from checks.stats.paired import Difference
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
