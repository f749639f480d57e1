"""Confidence intervals of a mean score over rows that come in groups.

One form serves every scorer: the interval of Clopper and Pearson (1934) at the *effective sample size* that the
clustered variance implies (Korn and Graubard, 1998; compared with its rivals by Franco, Little, Louis and Slud, 2019).
Nothing is resampled, so there is no seed, and the same rows give the same interval anywhere.

* For right/wrong scores, one row a group, it is the exact interval: its error is never above the nominal one.
* Rows of a group are near-duplicates: the variance is that of the group totals (Taylor linearisation of the ratio
  total score / rows). One typical group more than was seen, all of it wrong, is in that variance, so that what is
  rare in these rows is not taken for impossible.
* The normal quantile is replaced by Student's, with as many degrees of freedom as groups of equal size would have
  that are as even as these (Kish, 1965), less 1: one group of 200 rows beside 300 of one row counts as 6.
* Except where it is exact, the chance that whole groups would have been lost unseen is added (``checks.stats.unseen``).
* Graded scores vary less than right/wrong scores of the same mean, which the effective size expresses (it may
  then exceed the rows).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from checks.formats.evaluation_reports import Interval
from checks.stats.roots import crossing
from checks.stats.unseen import Unseen

Scores = Sequence[float] | NDArray[np.float64]
Groups = Sequence[str] | NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Mean:
    """A mean score and what its tests use. ``mirrored`` is the same of 1 - score.

    ``typical`` is the size of the group that a typical row lies in, ``largest`` that of the largest. ``between`` is the
    sum of the squared group totals about the mean with the factor G / (G - 1). ``times`` is above 1 only in a plan: as
    many times these rows.
    """

    value: float
    rows: float
    groups: float
    typical: float
    largest: float
    between: float
    unsure: float  # relative standard error of ``between``
    binary: bool
    alone: bool  # each row its own group
    unseen: Unseen  # About what is right.
    unseen_right: Unseen  # About what is wrong.
    times: float = 1.0

    @classmethod
    def of(cls, scores: Scores, groups: Groups) -> Self:
        """Take what the tests use of ``scores``, each in [0, 1]; ``groups[i]`` is the group of row i."""
        values, codes = _rows(scores, groups)
        n, mean, sizes = (
            len(values),
            min(1.0, math.fsum(values) / len(values)),
            np.bincount(codes).astype(np.float64),
        )
        totals = np.bincount(codes, values).astype(np.float64, copy=False)
        about = (totals - mean * sizes) ** 2
        return cls(
            value=mean, rows=float(n), groups=float(len(sizes)), typical=float((sizes**2).sum()) / n,
            largest=float(sizes.max()), between=_squares(values, codes, mean) if len(sizes) > 1 else 0.0,
            unsure=math.sqrt(math.fsum(about**2)) / max(math.fsum(about), 1e-12),
            binary=bool(((values == 0) | (values == 1)).all()), alone=len(sizes) == n,
            unseen=Unseen(totals), unseen_right=Unseen(np.maximum(sizes - totals, 0.0)),
        )  # fmt: skip

    @property
    def exact(self) -> bool:
        """Whether nothing about these rows has to be estimated but their share."""
        return self.binary and self.alone

    @property
    def freedom(self) -> float | None:
        """Degrees of freedom of the variance; None: it was not estimated."""
        return None if self.exact else self.rows / self.typical - 1

    @property
    def size(self) -> float:
        """Right/wrong rows, one a group, that would leave as much uncertainty as these rows do."""
        if self.exact:
            return self.rows
        within = self.rows * self.value * (1 - self.value)
        size = self.rows * (within + self.typical) / (self.between + self.typical**2)
        return min(self.rows, size) if self.binary else size

    def p_above(self, bound: float) -> float:
        """Of the hypothesis that the true mean is ``bound`` or less."""
        if bound <= 0:
            return 0.0  # no mean lies below
        if bound >= 1:
            return 1.0
        return self._p(self.value, bound, self.unseen)

    def p_below(self, bound: float) -> float:
        """Of the hypothesis that the true mean is ``bound`` or more."""
        if bound >= 1:
            return 0.0
        if bound <= 0:
            return 1.0
        return self._p(1 - self.value, 1 - bound, self.unseen_right)

    def _p(self, value: float, bound: float, unseen: Unseen) -> float:
        from scipy.special import betainc, ndtri, stdtr

        size, freedom = self.size, self.freedom
        right = size * value
        if right <= 0 or (freedom is not None and freedom <= 0):
            return 1.0
        tail = float(betainc(right, size - right + 1, bound))
        if freedom is None:
            return tail
        missed = unseen.chance(self.rows * (value - bound), self.times)
        return min(1.0, float(stdtr(freedom, ndtri(tail))) + missed)

    def low(self, level: float) -> float:
        """Return the mean whose ``p_above`` is ``level``."""
        return _crossing(self.p_above, level)

    def high(self, level: float) -> float:
        """Return the mean whose ``p_below`` is ``level``."""
        return 1 - _crossing(lambda bound: self.p_below(1 - bound), level)


def _crossing(p: Callable[[float], float], level: float) -> float:
    """Return where ``p``, which rises from 0 to 1 between 0 and 1, is ``level``."""
    return crossing(lambda bound: p(bound) - level, 1e-15, 1 - 1e-15, ends=(0.0, 1.0), xtol=1e-12)


def mean_interval(scores: Scores, groups: Groups, confidence: float) -> Interval:
    """Mean of ``scores`` (each in [0, 1]) with its two-sided interval; ``groups[i]`` is the group of row i.

    Raises ValueError for no scores, unequal lengths, a score outside [0, 1], or a confidence outside (0, 1).
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence {confidence} is not between 0 and 1")
    return interval_of(Mean.of(scores, groups), confidence, sided=2)


def interval_of(mean: Mean, confidence: float, sided: Literal[1, 2]) -> Interval:
    """``sided=2``: the interval holds the mean with ``confidence``. ``sided=1``: each end alone is a bound with it."""
    tail = (1 - confidence) / sided
    # Rounding must not put the mean outside its own interval; a one-sided bound below 1/2 is the mean itself.
    low, high = min(mean.low(tail), mean.value), max(mean.high(tail), mean.value)
    return Interval(value=mean.value, low=low, high=high, n=int(mean.rows))


def _rows(scores: Scores, groups: Groups) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Scores and group numbers from 0, held to what they must be."""
    n = len(scores)
    if not n or n != len(groups):
        raise ValueError(
            f"{n} scores and {len(groups)} groups: need as many of one as of the other, and at least one"
        )
    values = np.asarray(scores, np.float64)
    if not (values.min() >= 0 and values.max() <= 1):  # NaN fails this, too
        raise ValueError("a score lies outside [0, 1]")
    return values, np.unique(np.asarray(groups), return_inverse=True)[1]


def _squares(values: NDArray[np.float64], codes: NDArray[np.intp], mean: float) -> float:
    """n² times the variance of the mean: squared group totals of the residuals, with the factor G / (G - 1)."""
    totals = np.bincount(codes, values - mean)
    return len(totals) / (len(totals) - 1) * math.fsum(totals**2)
