"""The difference of the means of two independent samples, each in groups, with scores in [0, 1].

The bounds of each mean (``checks.stats.intervals``) are combined by the square-and-add method: Newcombe (1998),
"Interval estimation for the difference between independent proportions", and for any mean Zou and Donner (2008),
"Construction of confidence limits about effect measures". A p-value is the level at which a bound meets the number in
question.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from checks.stats.intervals import Mean
from checks.stats.planning import POWER
from checks.stats.roots import crossing

_LEAST = 1e-12


@dataclass(frozen=True)
class Difference:
    """Mean of ``one`` minus mean of ``two``."""

    one: Mean
    two: Mean

    @property
    def value(self) -> float:
        """The difference of the two means."""
        return self.one.value - self.two.value

    def low(self, level: float) -> float:
        """The lower bound at confidence 1 - ``level``, which is at most 1/2."""
        down, up = self.one.value - self.one.low(level), self.two.high(level) - self.two.value
        return self.value - math.hypot(max(0.0, down), max(0.0, up))

    def high(self, level: float) -> float:
        """The upper bound at confidence 1 - ``level``."""
        return -Difference(self.two, self.one).low(level)

    def p_above(self, bound: float) -> float:
        """P-value of the hypothesis that the true difference is ``bound`` or less; 1 where it is seen to be."""
        return _level(lambda level: self.low(level) - bound)

    def p_below(self, bound: float) -> float:
        """P-value of the hypothesis that the true difference is ``bound`` or more."""
        return Difference(self.two, self.one).p_above(-bound)

    def detectable(self, level: float) -> float:
        """The loss that is shown at ``level`` with at least 80 % power, were both samples to vary as they do."""
        return (self.high(level) - self.value) + (self.value - self.low(1 - POWER))


def _level(clears: Callable[[float], float]) -> float:
    """The level at which ``clears``, which rises with it, crosses 0."""
    # Asked first: what clears at no level proves nothing, even if it is 0 at all of them.
    if clears(0.5) <= 0:
        return 1.0
    low, high = math.log(_LEAST), math.log(0.5)
    size = crossing(lambda size: clears(math.exp(size)), low, high, ends=(low, 0.0), xtol=1e-3)
    return math.exp(size)
