"""The mean of a paired difference of a measure without bounds, such as bits per byte, and what it says of a number.

Groups are the clusters, each with the same weight: the mean of a group is one observation. Student's t test would let
too much through where differences are skewed, as when few texts lose much: the sample then mostly lacks them, its mean
is too small, and so is its variance. So every p-value is the larger of that of the t test and that of the t test after
Hall's transformation (``checks.stats.hall``). ``python -m benchmarks.forgetting`` says how often both err.
"""

import math
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from checks.stats import hall

LUCK = 0.9  # This leaves at least 80 % power: a sample's variance and skewness are estimates.
LEAST_GROUPS = 20  # With fewer, the test passes too many: docs/measurements/forgetting.md.
_MOST_GROUPS = 100_000  # more are no advice


@dataclass(frozen=True)
class MeanDifference:
    """Of ``groups`` groups with ``n`` samples: mean, standard deviation and skewness of the group means."""

    n: int
    groups: int
    mean: float
    deviation: float
    skewness: float

    @classmethod
    def of(cls, differences: NDArray[np.float64], groups: NDArray[np.intp]) -> Self:
        """Of ``differences``, shape (samples,), in the groups ``groups``, numbered from 0."""
        sizes = np.bincount(groups)
        means = np.bincount(groups, differences)[sizes > 0] / sizes[sizes > 0]
        mean = math.fsum(means) / len(means)
        deviation = float(means.std(ddof=1)) if len(means) > 1 else 0.0
        skewness = float(((means - mean) ** 3).mean()) / deviation**3 if deviation else 0.0
        return cls(len(differences), len(means), mean, deviation, skewness)

    def p_at_least(self, bound: float) -> float:
        """P-value of the hypothesis that the true mean is ``bound`` or more."""
        if not self.deviation:
            return 0.0 if self.mean < bound else 1.0
        from scipy.special import stdtr

        apart = (self.mean - bound) / self._error
        return float(stdtr(self.groups - 1, max(apart, hall.transformed(apart, self._of_mean))))

    def p_at_most(self, bound: float) -> float:
        """P-value of the hypothesis that the true mean is ``bound`` or less."""
        return self._mirrored().p_at_least(-bound)

    def upper(self, level: float) -> float:
        """The number above the mean for which ``p_at_least`` is ``level``: the upper bound at confidence 1 - level."""
        if not self.deviation:
            return self.mean
        from scipy.special import stdtrit

        least = float(stdtrit(self.groups - 1, level))
        return self.mean - min(least, hall.apart_at(least, self._of_mean)) * self._error

    def lower(self, level: float) -> float:
        """The lower bound at confidence 1 - level."""
        return -self._mirrored().upper(level)

    def detectable(self, level: float) -> float:
        """How far below a number the true mean must lie for that to be shown with at least 80 % power.

        Differences are taken to vary, and to be skewed, as they were seen to. The bound of such a sample is as far from
        its mean as here, and in one sample of ten the mean lies higher than the true one by that much luck.
        """
        if not self.deviation:
            return 0.0
        from scipy.special import stdtrit

        luck = float(stdtrit(self.groups - 1, LUCK)) * self._error
        return self.upper(level) - self.mean + luck

    def groups_needed(self, bound: float, level: float) -> int | None:
        """Groups like these that show with at least 80 % power that the true mean is below ``bound``, if it is as seen.

        None where it is not below, or more than are worth an advice are needed.
        """
        low, high = LEAST_GROUPS, _MOST_GROUPS
        if replace(self, groups=high).detectable(level) > bound - self.mean:
            return None
        while low < high:
            middle = (low + high) // 2
            enough = replace(self, groups=middle).detectable(level) <= bound - self.mean
            low, high = (low, middle) if enough else (middle + 1, high)
        return low

    @property
    def _error(self) -> float:
        return self.deviation / math.sqrt(self.groups)

    @property
    def _of_mean(self) -> float:
        """The skewness of the mean."""
        return self.skewness / math.sqrt(self.groups)

    def _mirrored(self) -> Self:
        return replace(self, mean=-self.mean, skewness=-self.skewness)
