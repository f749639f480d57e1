"""People's labels of some rows, assisted by a judge's labels of all of them: PPI++ for a paired difference.

The judge says of each row how much better the one model's answer is; people say so of rows that were drawn at random.
The estimate is the mean of people's differences, less ``weight`` times the judge's on those rows, plus ``weight`` times
the judge's on all others. It has no bias, however biased the judge is: what the judge says wrongly of the labelled rows
is taken off. A good judge makes it vary less, and the weight is the one that makes it vary least (Angelopoulos, Duchi
and Zrnic, 2023, "PPI++: Efficient Prediction-Powered Inference", https://arxiv.org/abs/2311.01453), within [0, 1]. It
is 0 where the judge makes the error that the test uses less than a twentieth smaller, as where rows come in large
groups. There the estimate with the judge varies much less than the test supposes, and so seldom exceeds its bound.

Groups of rows are the clusters, and the error is that of their totals. Two things keep the test honest where few rows
differ, as ``python -m benchmarks.judges`` shows:

* One whole group more than was seen differs, and the judge is wrong about it, in the weight and in the error.
* The p-value is the larger of Student's and of Student's after Hall's transformation, as in
  ``checks.stats.paired_mean``.

A loss that is so rare that the labels may show nothing of it is another matter: ``unseen`` says how likely that is.
"""

import math
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Self

import numpy as np
from numpy.typing import NDArray

from checks.stats import hall

LEAST_LABELS = 100  # With fewer, the test passes too many: docs/measurements/judges.md.
_WORTH = 0.95  # A judge counts only if it makes the error smaller than this share of the error without it.
_LUCK = NormalDist().inv_cdf(0.8)  # This leaves at least 80 % power.

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Assisted:
    """The estimate over ``n`` labelled rows and ``others`` that the judge alone saw.

    ``weight`` is that of the judge, lambda in the paper. ``of_labels`` and ``of_others`` are the two parts of the
    squared standard error, ``alone`` is what it would be without the judge. ``skewness`` is that of the estimate.
    """

    n: int
    others: int
    effect: float
    weight: float
    of_labels: float
    of_others: float
    alone: float
    skewness: float
    freedom: float

    @classmethod
    def of(
        cls, people: Values, judge: Values, groups: NDArray[np.intp], further: float = 1.0
    ) -> Self:
        """Of differences in [-1, 1], shape (rows,); ``people`` is NaN where nobody labelled. ``groups`` are from 0.

        ``further``: groups more that differ; with 0 it is the estimate of the paper, whatever it gains. ValueError for
        fewer than two labelled groups.
        """
        known = ~np.isnan(people)
        labelled = _Part(people[known], judge[known], groups[known])
        others = _Part(judge[~known], None, groups[~known])
        if labelled.groups < 2:
            raise ValueError(f"{labelled.groups} labelled groups of rows: need 2")
        n, rest = labelled.n, others.n
        # The judge's variance on one row.
        spread = _Part(judge, None, groups).squares() * len(judge)
        weight, more = 0.0, further * (labelled.typical / n) ** 2
        if rest and spread > 0:
            weight = min(
                max((labelled.covariance() - more) / (spread * (1 / n + 1 / rest)), 0.0), 1.0
            )
        estimate = cls._with(weight, labelled, others, more)
        worth = estimate.error <= _WORTH * math.sqrt(estimate.alone) or not further
        return estimate if worth else cls._with(0.0, labelled, others, more)

    @classmethod
    def _with(cls, weight: float, labelled: "_Part", others: "_Part", more: float) -> Self:
        residual = labelled.minus(weight)
        third = residual.cubes() - (-weight) ** 3 * others.cubes()
        of_labels = residual.squares() + (1 + weight) ** 2 * more
        of_others = weight**2 * others.squares()
        return cls(
            n=labelled.n, others=others.n, effect=residual.mean + weight * others.mean, weight=weight,
            of_labels=of_labels, of_others=of_others, alone=labelled.squares() + more,
            skewness=third / (of_labels + of_others) ** 1.5, freedom=labelled.n / labelled.typical - 1,
        )  # fmt: skip

    @property
    def error(self) -> float:
        """The standard error."""
        return math.sqrt(self.of_labels + self.of_others)

    def p_above(self, bound: float) -> float:
        """P-value of the hypothesis that the true difference is ``bound`` or less."""
        from scipy.special import stdtr

        apart = (self.effect - bound) / self.error
        return float(stdtr(self.freedom, -min(apart, hall.transformed(apart, self.skewness))))

    def p_below(self, bound: float) -> float:
        """P-value of the hypothesis that the true difference is ``bound`` or more."""
        return self._mirrored().p_above(-bound)

    def lower(self, level: float) -> float:
        """The difference for which ``p_above`` is ``level``: the lower bound at confidence 1 - level."""
        from scipy.special import stdtrit

        plain = float(stdtrit(self.freedom, 1 - level))
        return max(-1.0, self.effect - max(plain, hall.apart_at(plain, self.skewness)) * self.error)

    def upper(self, level: float) -> float:
        """The upper bound at confidence 1 - level."""
        return -self._mirrored().lower(level)

    def detectable(self, level: float) -> float:
        """How far beyond a bound the true difference must lie to be shown with at least 80 % power by such labels."""
        return self.effect - self.lower(level) + _LUCK * self.error

    def rows_needed(self, bound: float, level: float) -> int | None:
        """Labelled rows that show a true difference as seen to lie above ``bound``, with at least 80 % power.

        Up to the rows that the judge has seen, others stay with the judge alone; beyond, more test rows are needed, and
        people label all. None where the difference does not lie above.
        """
        gap, total = self.effect - bound, self.n + self.others
        if gap <= 0:
            return None
        most = (gap * self.error / self.detectable(level)) ** 2
        counts = np.arange(max(LEAST_LABELS, self.n), total)
        errors = self.of_labels * self.n / counts + self.of_others * self.others / (total - counts)
        enough = counts[errors <= most]
        return int(enough[0]) if len(enough) else max(total, math.ceil(self.n * self.alone / most))

    def _mirrored(self) -> Self:
        return replace(self, effect=-self.effect, skewness=-self.skewness)


def unseen(loss: float, rows: int) -> float:
    """The chance that ``rows`` rows show nothing of a loss that whole rows make up: the rule of three."""
    return (1 - loss) ** rows


def rows_to_see(loss: float, level: float) -> int:
    """The fewest rows for which ``unseen`` is at most ``level``."""
    return math.ceil(math.log(level) / math.log(1 - loss))


class _Part:
    """Rows of one kind in groups: the mean, and sums of powers of the totals about it over the rows' number."""

    def __init__(self, values: Values, beside: Values | None, groups: NDArray[np.intp]) -> None:
        self.n = len(values)
        _, self._codes, sizes = np.unique(groups, return_inverse=True, return_counts=True)
        self.groups = len(sizes)
        # The size of a typical row's group.
        self.typical = float((sizes.astype(np.float64) ** 2).sum()) / max(self.n, 1)
        self._values, self._beside = values, beside
        self.mean = math.fsum(values) / self.n if self.n else 0.0

    def minus(self, weight: float) -> "_Part":
        """The values less ``weight`` times those beside them."""
        assert self._beside is not None  # Labelled rows have it.
        return _Part(self._values - weight * self._beside, None, self._codes)

    def squares(self) -> float:
        """The variance of the mean, groups being the clusters."""
        return self._factor() * math.fsum(self._totals(self._values) ** 2) / max(self.n, 1) ** 2

    def cubes(self) -> float:
        """The third central moment of the mean."""
        return math.fsum(self._totals(self._values) ** 3) / max(self.n, 1) ** 3

    def covariance(self) -> float:
        """The covariance of the mean with that of the values beside."""
        assert self._beside is not None  # Labelled rows have it.
        return (
            self._factor()
            * math.fsum(self._totals(self._values) * self._totals(self._beside))
            / self.n**2
        )

    def _totals(self, values: Values) -> Values:
        if not self.n:
            return values
        return np.bincount(self._codes, values - math.fsum(values) / self.n).astype(
            np.float64, copy=False
        )

    def _factor(self) -> float:
        return self.groups / max(self.groups - 1, 1)
