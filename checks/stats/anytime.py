"""A test of a mean that may be looked at any number of times: an e-process by betting.

Each observation x in [-1, 1] is a bet that the mean lies above ``bound``. A bet b in [0, 1) multiplies the wealth by
1 + b (x - bound) / (1 + bound), which is never negative. While the mean of each observation, given those before it, is
at most ``bound``, the expected wealth does not grow from 1. By Ville's inequality (1939), the chance that it ever
reaches 1 / alpha is then at most alpha. Wealth is split evenly over the fixed fractions ``BETS`` of the largest bet:
the diversified Kelly bets of Waudby-Smith and Ramdas, Estimating means of bounded random variables by betting (Journal
of the Royal Statistical Society B 86, 2024).

Bets that adapt to what came before would find a loss with somewhat fewer observations. Fixed bets are used because
their wealth does not depend on the order of the observations. So it can be computed again from all that is known at a
look, and observations may become known in any order that does not depend on their value, such as labels that come late.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from checks.stats.roots import crossing

BETS = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
_EDGE = 1 - 1e-9  # bounds lie strictly between -1 and 1


@dataclass(frozen=True)
class Stream:
    """Observations in [-1, 1], as the different ``values`` (V) and how often each came, ``counts`` (..., V).

    Several rows of counts are several streams, or one stream at several looks.
    """

    values: NDArray[np.float64]
    counts: NDArray[np.float64]

    @classmethod
    def of(cls, observations: Sequence[float] | NDArray[np.float64]) -> Self:
        """Count observations. Raises ValueError for one outside [-1, 1]."""
        given = np.asarray(observations, np.float64)
        if given.size and not (given.min() >= -1 and given.max() <= 1):  # NaN fails this, too
            raise ValueError("an observation lies outside [-1, 1]")
        values, counts = np.unique(given, return_counts=True)
        return cls(values, counts.astype(np.float64))

    def log_e_above(self, bound: float) -> NDArray[np.float64]:
        """Return the logarithm of the wealth against a mean of ``bound`` or less, for each row of counts.

        Raises ValueError if ``bound`` is not between -1 and 1.
        """
        if not -1 < bound < 1:
            raise ValueError(f"bound {bound} is not between -1 and 1")
        gains = np.log1p(np.multiply.outer((self.values - bound) / (1 + bound), BETS))  # (V, bets)
        wealth: NDArray[np.float64] = np.logaddexp.reduce(self.counts @ gains, axis=-1) - math.log(
            len(BETS)
        )
        return wealth

    def mirrored(self) -> Self:
        """Every observation with the other sign."""
        return replace(self, values=-self.values)

    def p_above(self, bound: float) -> float:
        """Of the hypothesis that the mean is ``bound`` or less.

        If that is true, the chance that the value is alpha or less at any of all looks is at most alpha.
        """
        return math.exp(-max(0.0, float(self.log_e_above(bound))))

    def p_below(self, bound: float) -> float:
        """Return the same of the hypothesis that the mean is ``bound`` or more."""
        return self.mirrored().p_above(-bound)

    def low(self, alpha: float) -> float:
        """A bound that the mean lies above. The chance that this is false at any of all looks is at most ``alpha``."""
        return crossing(
            lambda bound: self.p_above(bound) - alpha, -_EDGE, _EDGE, ends=(-1.0, 1.0), xtol=1e-9
        )

    def high(self, alpha: float) -> float:
        """A bound that the mean lies below, as ``low``."""
        return -self.mirrored().low(alpha)


def running(observations: NDArray[np.float64], bound: float) -> NDArray[np.float64]:
    """``Stream.log_e_above`` after each observation of a stream: (..., observations) to the same shape."""
    gains = (observations - bound) / (1 + bound)
    wealth = np.full(observations.shape, -np.inf)
    for bet in BETS:
        np.logaddexp(wealth, np.log1p(bet * gains).cumsum(axis=-1), out=wealth)
    return wealth - math.log(len(BETS))
