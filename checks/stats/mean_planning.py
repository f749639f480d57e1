"""Plans rows for a mean: the distance from a bound that is seen, and how many rows would do.

As in ``checks.stats.planning`` each figure is about the decision itself, with at least 80 % power. For right/wrong
rows, one a group, it is exact: the binomial distribution of the rows that are right.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from checks.stats import planning
from checks.stats.intervals import Mean
from checks.stats.planning import MOST_TIMES, POWER, Needed
from checks.stats.roots import crossing

_LUCK = NormalDist().inv_cdf(POWER)


def mirrored(mean: Mean) -> Mean:
    """Return the same of 1 - score."""
    return replace(mean, value=1 - mean.value, unseen=mean.unseen_right, unseen_right=mean.unseen)


def detectable(mean: Mean, bound: float, level: float) -> float | None:
    """How far above ``bound`` the true mean must lie to be shown with at least 80 % power; None: no mean does."""
    if bound <= 0 or bound >= 1:
        return 0.0 if bound <= 0 else None
    if mean.exact:
        from scipy.special import betaincinv

        n = int(mean.rows)
        critical = int(_critical(np.array([n]), bound, level)[0])
        return (
            None if critical > n else float(betaincinv(critical, n - critical + 1, POWER)) - bound
        )
    least, most = min(max(bound, 1e-9), 1 - 1e-9), 1 - 1e-9
    if _shortfall(mean, most, bound, level) > 0:
        return None
    return _root(lambda true: _shortfall(mean, true, bound, level), least, most) - bound


def needed(mean: Mean, bound: float, level: float) -> Needed | None:
    """Return what shows a true mean as seen to lie above ``bound``; None: it does not, or too much is needed."""
    if mean.value <= bound or bound <= 0:
        return None
    if mean.exact:
        rows = _rows(mean.value, bound, level)
        return None if rows is None or rows > MOST_TIMES * mean.rows else Needed(rows, None)
    return _needed(mean, lambda times: _shortfall(_times(mean, times), mean.value, bound, level))


def resolves(mean: Mean, resolution: float, confidence: float) -> bool:
    """Whether the two-sided interval would be no wider than ``resolution`` to each side, were the mean 1/2."""
    return _too_wide(mean, resolution, confidence) <= 0


def needed_to_resolve(mean: Mean, resolution: float, confidence: float) -> Needed | None:
    """Return what gives ``resolution``, with at least 80 % power where the effective size is an estimate.

    The variance of this sample and that of the new one are both uncertain, and so is their difference. One group more
    than was seen, as large as the largest, is in the variance: a giant group that lies near the mean by chance would
    otherwise hide how far such groups scatter.
    """
    one_more = replace(mean, between=mean.between + mean.value * (1 - mean.value) * mean.largest**2)

    def too_wide(times: float) -> float:
        unlucky = 0.0 if mean.alone else _LUCK * mean.unsure * math.sqrt(1 + 1 / times)
        more = _times(one_more, times)
        return _too_wide(
            replace(more, between=more.between * (1 + unlucky)), resolution, confidence
        )

    return _needed(mean, too_wide)


def effective_rows(mean: Mean) -> float:
    """Rows of their own that these count as, where the worst is asked: no more than there are."""
    return mean.rows if mean.alone else min(mean.rows, mean.size)


def _too_wide(mean: Mean, resolution: float, confidence: float) -> float:
    from scipy.special import ndtri, stdtrit

    tail = (1 - confidence) / 2
    freedom = None if mean.alone else mean.freedom
    if freedom is not None and freedom <= 0:
        return 1.0
    quantile = -float(ndtri(tail) if freedom is None else stdtrit(freedom, tail))
    return quantile / (2 * math.sqrt(effective_rows(mean))) - resolution


def _needed(mean: Mean, falls_short: Callable[[float], float]) -> Needed | None:
    """Rows for the least number of times these at which ``falls_short`` is 0 or less."""
    low, high = math.log(1 / mean.rows), math.log(MOST_TIMES)
    # A single group does not show how groups differ.
    if mean.groups < 2 or falls_short(MOST_TIMES) > 0:
        return None
    times = math.exp(_root(lambda size: falls_short(math.exp(size)), low, high))
    return planning.needed(times, mean.rows, None if mean.alone else mean.groups)


def _root(falls_short: Callable[[float], float], low: float, high: float) -> float:
    return crossing(lambda at: -falls_short(at), low, high, ends=(low, high), xtol=1e-9)


def _times(mean: Mean, times: float) -> Mean:
    """As many times these groups."""
    return replace(
        mean,
        rows=mean.rows * times,
        groups=mean.groups * times,
        between=mean.between * times,
        times=mean.times * times,
    )


def _shortfall(mean: Mean, true: float, bound: float, level: float) -> float:
    """Above 0 where a sample of mean ``true``, with the bad luck of one in five, does not clear ``bound``."""
    seen, would = mean.value * (1 - mean.value), true * (1 - true)
    between = mean.between * would / seen if seen > 0 else 0.0
    # One typical group more, all of it wrong, is in the variance, as in the test's (``Mean.size``).
    error = math.sqrt(between + mean.typical**2) / mean.rows
    value = min(1.0, max(0.0, true - _LUCK * error))
    share = value * (1 - value) / would if would > 0 else 1.0
    unlucky = replace(mean, value=value, between=between * share)
    return math.log(max(unlucky.p_above(bound), 1e-300) / level)


def _critical(rows: NDArray[np.int64], bound: float, level: float) -> NDArray[np.int64]:
    """Return the fewest right rows that clear ``bound``, for each number of rows; rows + 1 where none do."""
    from scipy.special import bdtrc, bdtrik

    critical = np.asarray(np.nan_to_num(np.ceil(bdtrik(1 - level, rows, bound)), nan=0.0), np.int64)
    critical = np.clip(critical - 1, 0, rows)
    for _ in range(4):  # the real-valued inverse may be off by one or two
        critical = np.where(
            (critical <= rows) & (bdtrc(critical - 1, rows, bound) > level), critical + 1, critical
        )
    return critical


def _rows(true: float, bound: float, level: float) -> int | None:
    """Return the fewest rows of which enough are right with at least 80 % power."""
    from scipy.special import bdtrc

    most = 1e9
    z = -NormalDist().inv_cdf(level)
    about = (z * math.sqrt(bound * (1 - bound)) + _LUCK * math.sqrt(true * (1 - true))) ** 2 / (
        true - bound
    ) ** 2
    if not about < most:
        return None
    first, last = max(1, int(0.6 * about) - 30), int(1.3 * about) + 60
    rows = np.unique(np.linspace(first, last, min(last - first + 1, 20_000)).astype(np.int64))
    power = bdtrc(_critical(rows, bound, level) - 1, rows, true)
    enough = np.flatnonzero(power >= POWER)
    return int(rows[enough[0]]) if len(enough) else None
