"""Two models on the same rows: is the one better, or no worse by a margin, and what could these rows have told?

docs/statistics.md says which test answers which question, and why.

* Right/wrong scores, margin 0: McNemar's exact test. Where rows come in groups it is its generalisation, the exact
  sign-flip test of the group totals: with groups of one row the two are the same.
* Right/wrong scores, another margin: Tango's score test (1998) with a continuity correction of half a row, at the
  effective sample size that the clustered variance implies (Korn and Graubard, 1998).
* Graded scores: BCa bootstrap over groups (Efron and Tibshirani, 1993), inverted to a p-value; what was never seen
  cannot be resampled, so Tango's test, scaled to the size of a difference, must agree.

Every seed is fixed: the same rows give the same finding.
"""

import math
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

POWER = 0.8
RESAMPLES = 4999
MOST_BLOCKS = 1000  # of a bootstrap; more say no more, and cost memory and time
SEED = 1979

Scores = NDArray[np.float64]
Groups = NDArray[np.intp]


class Comparison(NamedTuple):
    """The mean of ``candidate - reference`` over ``n`` rows, and what it says about a margin.

    ``low`` and ``high`` each bound the true difference alone, one-sided, with the confidence asked for.
    ``p``: of the hypothesis that the true difference is ``margin`` or less. ``p_worse``: that it is 0 or more.
    ``detectable``: the true difference from the hypothesis' edge that is seen with 80 % power. ``method``: the test.
    """

    n: int
    effect: float
    low: float
    high: float
    p: float
    p_worse: float
    detectable: float
    method: str

    def may_miss(self, loss: float) -> bool:
        """Whether these rows promise too little to see ``loss``, and do not show the candidate to be better."""
        return self.detectable > loss and self.low <= 0

    def rows_for(self, difference: float) -> int:
        """Rows like these with which ``difference`` (> 0) would be seen with 80 % power."""
        if not difference > 0:
            raise ValueError(f"difference {difference} is not above 0")
        return math.ceil(self.n * (self.detectable / difference) ** 2)


def compare(candidate: Scores, reference: Scores, groups: Groups, margin: float, confidence: float) -> Comparison:
    """Compare scores in [0, 1] of the same rows; ``groups[i]`` is the group of row i, from 0.

    ``margin`` is signed: 0 or more for "improves", below 0 for "non-inferior". ValueError for no rows, unequal
    lengths, a score outside [0, 1], a margin outside (-1, 1) or a confidence outside (0, 1).
    """
    n = len(candidate)
    if not n or not n == len(reference) == len(groups):
        raise ValueError(
            f"{n} and {len(reference)} scores and {len(groups)} groups: need the same number, and at least one"
        )
    for scores in (candidate, reference):
        if not (scores.min() >= 0 and scores.max() <= 1):  # NaN fails this, too
            raise ValueError("a score lies outside [0, 1]")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence {confidence} is not between 0 and 1")
    if not -1 < margin < 1:
        raise ValueError(f"margin {margin} is not between -1 and 1")
    binary = all(bool(((scores == 0) | (scores == 1)).all()) for scores in (candidate, reference))
    differences = candidate - reference
    rows = np.bincount(groups)
    totals = _sums(groups, differences)[rows > 0]
    sizes = rows[rows > 0].astype(np.float64)
    effect = math.fsum(totals) / n

    test = _score_test(differences, totals, sizes, effect, margin, binary)
    level = 1 - confidence
    low, high = test.lower(level), -test.mirrored().lower(level)
    p, p_worse, method = test.p(margin), test.mirrored().p(0), "Tango's score test"
    if binary:
        p_worse = _sign_flip(-totals)
        if margin == 0:
            p, method = _sign_flip(totals), "exact McNemar test" if len(totals) == n else "exact sign-flip test"
    else:
        method = "paired bootstrap (BCa)"
        if np.ptp(totals / sizes) > 0:  # else every resample is the same
            found = _bootstrap(_blocks(totals, sizes), confidence)
            p, p_worse = max(p, found.p(margin)), max(p_worse, found.p_worse(0))
            low, high = min(low, found.low), max(high, found.high)
    if len(totals) < n:
        method += f", {len(totals)} group{'s' if len(totals) > 1 else ''}"
    return Comparison(
        n=n, effect=effect, low=max(-1.0, min(low, effect)), high=min(1.0, max(high, effect)), p=p, p_worse=p_worse,
        detectable=test.detectable(level, margin), method=method,
    )  # fmt: skip


def _sign_flip(totals: Scores) -> float:
    """P-value of "no better" from whole group totals, each of which may as well have had the other sign.

    Exact: the distribution of the sum of ``±totals`` is read off its characteristic function, a product of cosines.
    Totals of one size leave a binomial distribution, McNemar's.
    """
    sizes, counts = np.unique(np.abs(totals[totals != 0]).astype(np.intp), return_counts=True)
    if not len(sizes):
        return 1.0
    if len(sizes) == 1:
        from scipy.special import bdtrc  # as scipy.stats.binomtest does, which takes a quarter of a second to import

        return float(bdtrc(int((totals > 0).sum()) - 1, int(counts[0]), 0.5))
    most = int(sizes @ counts)
    length = 1 << (2 * most + 1).bit_length()
    turns = 2 * np.pi / length * np.arange(length // 2 + 1)
    wave = np.ones(len(turns))
    for size, count in zip(sizes, counts, strict=True):
        wave *= np.cos(turns * size) ** count
    chances = np.fft.irfft(wave, length)  # chances[s] of the sum s; the distribution is symmetric
    seen = round(float(totals.sum()))
    tail = float(chances[abs(seen) : most + 1].sum())
    # The transform is good to about 1e-15, below which no p-value is claimed.
    return min(1.0, max(1e-15, tail if seen >= 0 else 1 - float(chances[abs(seen) + 1 : most + 1].sum())))


@dataclass(frozen=True)
class _ScoreTest:
    """Tango's test on ``rows`` effective rows, with wins and losses counted in units of a typical difference.

    ``unit`` is 1 for right/wrong scores. ``freedom`` is of Student's t, None for the normal distribution.
    """

    wins: float
    losses: float
    rows: float
    unit: float
    freedom: int | None

    def mirrored(self) -> "_ScoreTest":
        """The same seen from the reference's side."""
        return replace(self, wins=self.losses, losses=self.wins)

    def p(self, bound: float) -> float:
        """Of the hypothesis that the true difference is ``bound`` or less."""
        from scipy.special import ndtr, stdtr

        z = -self.z(bound / self.unit)
        return float(ndtr(z) if self.freedom is None else stdtr(self.freedom, z))

    def lower(self, level: float, correction: float = 0.5) -> float:
        """The difference whose p-value is ``level``: the lower bound at confidence 1 - level."""
        from scipy.optimize import brentq

        quantile, edge = self._quantile(level), 1 - 1e-12
        if self.z(-edge, correction) <= quantile:
            return -1.0
        return self.unit * float(brentq(lambda bound: self.z(bound, correction) - quantile, -edge, edge, xtol=1e-10))

    def z(self, bound: float, correction: float = 0.5) -> float:
        """Tango's statistic (1998) with the losses' share at its likeliest under a difference of ``bound``."""
        n, wins, losses = self.rows, self.wins, self.losses
        linear = (2 * n - wins + losses) * bound - wins - losses
        share = (math.sqrt(linear**2 + 8 * n * losses * bound * (1 - bound)) - linear) / (4 * n)
        variance = n * (2 * share + bound * (1 - bound))
        return (wins - losses - correction - n * bound) / math.sqrt(max(variance, 1e-300))

    def detectable(self, level: float, margin: float) -> float:
        """The distance from ``margin`` that is seen at ``level`` with ``POWER``, of one more difference than was seen.

        For a loss to be ruled out: minus the lower bound of a model that is no different, and unlucky. For a gain to be
        shown, which comes on top of what differs anyway: both quantiles times the standard error with it.
        """
        n, luck = self.rows, NormalDist().inv_cdf(POWER)
        differ = min(n, self.wins + self.losses + 1)
        if margin < 0:
            same = replace(self, wins=differ / 2, losses=differ / 2)
            return -same.lower(level, 0.5 + luck * math.sqrt(differ))
        k = (self._quantile(level) + luck) ** 2 / n
        linear = k + 1 / n
        return self.unit * (linear + math.sqrt(linear**2 - (1 / n) ** 2 + 4 * k * differ / n)) / 2

    def _quantile(self, level: float) -> float:
        from scipy.special import ndtri, stdtrit

        return max(0.0, float(ndtri(1 - level) if self.freedom is None else stdtrit(self.freedom, 1 - level)))


def _score_test(
    differences: Scores, totals: Scores, sizes: Scores, effect: float, margin: float, binary: bool
) -> _ScoreTest:
    """Count wins and losses in units, and rows in effective rows.

    Both estimates take in one difference more than was seen, of a whole row or a whole group, so that what is rare
    in these rows is not taken for impossible: three rows that agree do not say that all do.
    """
    n, clusters = len(differences), len(totals)
    absolute = np.abs(differences)
    squares = float((differences**2).sum())
    # The size of events that would come as often and vary as much; of 1, the most there is, until seen otherwise.
    unit = min(1.0, max((squares + 1) / (float(absolute.sum()) + 1), 2 * abs(effect), 2 * abs(margin)))
    together = float((sizes**2).sum()) / n  # rows in the group of a typical row
    if clusters == n:
        design = 1.0
    elif clusters == 1:
        design = float(n)
    else:
        between = float(((totals - effect * sizes) ** 2).sum()) * clusters / (clusters - 1)
        within = squares - n * effect**2
        design = max(1.0, (between + (together * unit) ** 2) / (within + together * unit**2))
    scale = unit * design
    wins, losses = float(differences[differences > 0].sum()), -float(differences[differences < 0].sum())
    freedom = None if binary and clusters == n else max(1, clusters - 1)
    return _ScoreTest(wins / scale, losses / scale, n / design, unit, freedom)


class _Bootstrap(NamedTuple):
    """Bounds by BCa, and what its inversion needs: the distribution, the bias ``z0`` and the ``acceleration``."""

    low: float
    high: float
    distribution: Scores
    z0: float
    acceleration: float

    def p(self, bound: float) -> float:
        """Of the hypothesis that the true difference is ``bound`` or less: the level whose lower bound is ``bound``."""
        return self._level(float((self.distribution <= bound).mean()), self.z0, self.acceleration)

    def p_worse(self, bound: float) -> float:
        """Of the hypothesis that the true difference is ``bound`` or more."""
        return self._level(float((self.distribution >= bound).mean()), -self.z0, -self.acceleration)

    @staticmethod
    def _level(share: float, z0: float, acceleration: float) -> float:
        """Solve share = Φ(z0 + w / (1 - acceleration w)), w = z0 + Φ⁻¹(level), for the level."""
        from scipy.special import ndtr, ndtri

        ahead = float(ndtri(_known(share))) - z0
        scale = 1 + acceleration * ahead
        # Beyond the pole the interval's end is the distribution's own.
        return _known(float(ndtr(ahead / scale - z0))) if scale > 0 else _known(float(ahead > 0))


def _bootstrap(values: Scores, confidence: float) -> _Bootstrap:
    """Resample the mean of ``values``. The two-sided interval at 2c - 1 holds the one-sided bounds at c."""
    from scipy.special import ndtri
    from scipy.stats import bootstrap

    result = bootstrap(
        (values,), np.mean, vectorized=True, n_resamples=RESAMPLES, batch=50, method="BCa",
        confidence_level=max(2 * confidence - 1, 1e-6), rng=np.random.default_rng(SEED),
    )  # fmt: skip
    distribution: Scores = result.bootstrap_distribution
    mean = values.mean()
    below, ties = float((distribution < mean).mean()), float((distribution == mean).mean())
    residuals = values - mean
    return _Bootstrap(
        low=float(result.confidence_interval.low), high=float(result.confidence_interval.high),
        distribution=distribution, z0=float(ndtri(_known(below + ties / 2))),
        acceleration=float((residuals**3).sum() / (6 * (residuals**2).sum() ** 1.5)),
    )  # fmt: skip


def _known(share: float) -> float:
    """A share of resamples, no finer than their number can tell."""
    return min(max(share, 1 / (RESAMPLES + 1)), 1 - 1 / (RESAMPLES + 1))


def _blocks(totals: Scores, sizes: Scores) -> Scores:
    """One value a group, whose mean is the total over the rows (to first order, where sizes differ: Taylor).

    More than ``MOST_BLOCKS`` groups are dealt out, each in turn to the next block.
    """
    if len(totals) > MOST_BLOCKS:
        block = np.arange(len(totals)) % MOST_BLOCKS
        totals, sizes = _sums(block, totals), _sums(block, sizes)
    effect = totals.sum() / sizes.sum()
    return np.asarray(effect + (totals - effect * sizes) / sizes.mean(), np.float64)


def _sums(codes: Groups, values: Scores) -> Scores:
    return np.bincount(codes, values).astype(np.float64, copy=False)
