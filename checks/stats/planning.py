"""Plans paired rows: the difference seen with at least 80 % power, and how many rows would do.

Each figure is about the decision itself, the p-value of ``checks.stats.paired`` at a level: suppose a true difference,
take a sample that is as unlucky as one in five, and ask the test. Bad luck turns wins into losses, by so many standard
deviations of the difference, and the variance is estimated from that sample. More rows are more groups of the same
structure. For several slices, which must all pass, the powers are multiplied.

How often an unchanged model differs, and how many rows differ together, is known from this sample only. A plan that
takes both as seen is too optimistic for few groups: most samples see too few groups that differ as a whole, and too
low a plan loses more power than too high a plan wins. So the plan supposes that one whole group more differs, which
the test's variance supposes, too.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import NormalDist
from typing import NamedTuple

from checks.stats.paired import Pairs
from checks.stats.roots import crossing

POWER = 0.8
MOST_TIMES = 1e6  # more rows than this are no advice
_LUCK = NormalDist().inv_cdf(POWER)
_MOST_LUCK = 4.0  # standard deviations: beyond this a power is taken for 0 or 1


class Needed(NamedTuple):
    """How much would do: rows, in so many groups of the same structure; ``groups`` is None where a row is a group."""

    rows: int
    groups: int | None

    def __str__(self) -> str:
        return (
            f"{self.rows} rows"
            if self.groups is None
            else f"{self.groups} groups like these ({self.rows} rows)"
        )


def needed(times: float, rows: float, groups: float | None) -> Needed:
    """Return the needed rows: these ones ``times`` over, in whole groups."""
    if groups is None:
        return Needed(math.ceil(times * rows - 1e-6), None)
    more = math.ceil(times * groups - 1e-6)
    return Needed(math.ceil(more * rows / groups - 1e-6), more)


def detectable_loss(samples: Sequence[Pairs], level: float) -> float | None:
    """The smallest margin that an unchanged model clears in all ``samples`` with at least 80 % power; None: none is."""
    same = [_unchanged(pairs) for pairs in samples]
    return _smallest(lambda loss: _power(same, [-loss] * len(same), level))


def detectable_gain(pairs: Pairs, margin: float, level: float) -> float | None:
    """The gain beyond ``margin`` that is shown with at least 80 % power, by rows that differ besides the others."""
    return _smallest(
        lambda gain: _power([_gaining(pairs, margin + gain)], [margin], level), 1 - margin
    )


def needed_if_unchanged(samples: Sequence[Pairs], margin: float, level: float) -> Needed | None:
    """Return what an unchanged model needs to clear ``margin`` (below 0) in all ``samples``; None: too much."""
    return _needed([_unchanged(pairs) for pairs in samples], margin, level)


def needed_as_seen(samples: Sequence[Pairs], margin: float, level: float) -> Needed | None:
    """Return what a model needs whose true difference is the one seen; None where one sample lies on the wrong side."""
    if any(pairs.effect <= margin for pairs in samples):
        return None
    return _needed(samples, margin, level)


def _needed(samples: Sequence[Pairs], margin: float, level: float) -> Needed | None:
    if any(pairs.groups < 2 for pairs in samples):
        return None  # how one group differs from another is not known
    rows, groups = sum(pairs.rows for pairs in samples), sum(pairs.groups for pairs in samples)
    margins = [margin] * len(samples)

    def falls_short(size: float) -> float:
        return POWER - _power([_times(pairs, math.exp(size)) for pairs in samples], margins, level)

    most = math.log(MOST_TIMES)
    if falls_short(most) > 0:
        return None
    least = math.log(1 / rows)
    times = math.exp(_root(falls_short, least, most)) if falls_short(least) > 0 else 1 / rows
    return needed(times, rows, None if all(pairs.alone for pairs in samples) else groups)


def _smallest(power: Callable[[float], float], most: float = 1.0) -> float | None:
    edge = most * (1 - 1e-9)
    if power(edge) < POWER:
        return None
    return _root(lambda value: POWER - power(value), edge * 1e-9, edge)


def _root(falls_short: Callable[[float], float], low: float, high: float) -> float:
    """Return where ``falls_short``, which decreases, crosses 0."""
    return crossing(lambda at: -falls_short(at), low, high, ends=(low, high), xtol=1e-6)


def _power(samples: Sequence[Pairs], margins: Sequence[float], level: float) -> float:
    """Return the probability that every sample refutes its margin, when the samples are what is expected."""
    power = 1.0
    for pairs, margin in zip(samples, margins, strict=True):
        power *= NormalDist().cdf(_spare(pairs, margin, level))
        if not power:
            break
    return power


def _spare(pairs: Pairs, margin: float, level: float) -> float:
    """How much bad luck, in standard deviations, the test survives."""
    from scipy.special import ndtri

    def lacks(luck: float) -> float:
        p = _unlucky(pairs, luck).p(margin, margin)
        return float(ndtri(min(max(p, 1e-15), 1 - 1e-9)) - ndtri(level))

    return crossing(
        lacks, -_MOST_LUCK, _MOST_LUCK, ends=(-2 * _MOST_LUCK, 2 * _MOST_LUCK), xtol=1e-3
    )


def _unlucky(pairs: Pairs, luck: float) -> Pairs:
    """Fewer wins and more losses by ``luck`` standard deviations of their difference."""
    apart = pairs.wins + pairs.losses
    if apart <= 0:
        return pairs
    step = luck * math.sqrt(pairs.between)
    wins = pairs.wins - step * pairs.wins / apart
    losses = pairs.losses + step * pairs.losses / apart
    lead = max(-pairs.rows, min(pairs.wins - pairs.losses - step, pairs.rows))
    if wins < 0 or losses < 0:
        wins, losses = max(0.0, lead), max(0.0, -lead)
    if wins + losses > pairs.rows:  # all rows differ
        wins, losses = (pairs.rows + lead) / 2, (pairs.rows - lead) / 2
    return _of(pairs, max(0.0, wins), max(0.0, losses))


def _of(pairs: Pairs, wins: float, losses: float) -> Pairs:
    """Return the same rows with other wins and losses, of differences and blocks of the same sizes."""
    was, now = pairs.wins + pairs.losses, wins + losses
    share = now / was if was else 0.0
    lead = (wins - losses) * _block_size(pairs)
    return replace(
        pairs,
        wins=wins,
        losses=losses,
        squares=pairs.squares * share,
        blocks=pairs.blocks * share,
        mixed=lead,
    )


def _block_size(pairs: Pairs) -> float:
    """Rows in the group of a typical difference."""
    lead = pairs.wins - pairs.losses
    if pairs.alone:
        return 1.0
    seen = pairs.mixed / lead if lead else 0.0
    return seen if 1 <= seen <= pairs.rows / pairs.groups * pairs.typical else pairs.typical


def _one_more(pairs: Pairs) -> Pairs:
    """One whole group more that differs, as large as the group of a typical row; half of such groups gain."""
    more = min(pairs.typical, max(0.0, pairs.rows - pairs.wins - pairs.losses))
    return replace(
        pairs, wins=pairs.wins + more / 2, losses=pairs.losses + more / 2, squares=pairs.squares + more,
        blocks=pairs.blocks + more * pairs.typical,
    )  # fmt: skip


def _unchanged(pairs: Pairs) -> Pairs:
    """Return the pairs of an unchanged model: as many wins as losses."""
    more = _one_more(pairs)
    half = (more.wins + more.losses) / 2
    return replace(more, wins=half, losses=half, mixed=0.0, skewness=0.0)


def _gaining(pairs: Pairs, gain: float) -> Pairs:
    """An unchanged model with so many wins on top, up to every row."""
    same = _unchanged(pairs)
    wins = same.wins + gain * same.rows
    losses = min(same.losses, max(0.0, same.rows - wins))
    gaining = _of(same, min(wins, same.rows), losses)
    if pairs.exact:
        return gaining
    return replace(
        gaining,
        unseen=pairs.unseen.having_gained(
            2 * pairs.typical, min(gain * same.rows / pairs.typical, pairs.groups * (1 - 1e-9))
        ),
    )


def _times(pairs: Pairs, times: float) -> Pairs:
    """As many times these groups."""
    return replace(
        pairs, rows=pairs.rows * times, groups=pairs.groups * times, wins=pairs.wins * times,
        losses=pairs.losses * times, squares=pairs.squares * times, blocks=pairs.blocks * times,
        mixed=pairs.mixed * times, times=pairs.times * times,
    )  # fmt: skip
