"""Two models on the same rows: is the one better, or no worse by a margin, and what could these rows have told?

docs/explanation/statistics.md says which test answers which question, and why.

* Right/wrong scores, each row its own group, margin 0: McNemar's exact test; where a gate asks for it, his mid-p test.
* Everything else: Tango's score test (1998) with a continuity correction of half a row, at the effective sample size
  that the clustered variance implies (Korn and Graubard, 1998). Graded scores are counted in units of a typical
  difference, and few rows may lose much: the p-value is at least that of Student's test after Hall's transformation
  (``checks.stats.hall``). Where rows come in groups, or scores are graded, what is rare may not have been seen: the
  chance of that (``checks.stats.unseen``) is added to the p-value.

Nothing is resampled: the same rows give the same finding. ``checks.stats.planning`` says what these rows could have
told.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from checks.formats.evaluation_reports import Interval
from checks.formats.report import Count
from checks.records.record import problems
from checks.stats import hall
from checks.stats.roots import crossing
from checks.stats.score_test import ScoreTest
from checks.stats.unseen import Unseen

Scores = NDArray[np.float64]
Groups = NDArray[np.intp]
EDGE = 1 - 1e-12  # bounds of a difference lie strictly between -1 and 1


@dataclass(frozen=True)
class Pairs:
    """The figures of a paired sample that the tests use; sums are over rows unless they say otherwise.

    ``typical`` is the size of the group that a typical row lies in; ``kish`` the number of equal groups that would be
    as even (Kish, 1965). ``blocks`` is the sum of squared group totals, ``mixed`` that of totals times sizes.
    ``skewness`` is that of the group totals about the mean. ``times`` is above 1 only in a plan: as many times these
    rows. ``mid_p``: which of McNemar's tests is used.
    """

    rows: float
    groups: float
    typical: float
    wins: float
    losses: float
    squares: float
    blocks: float
    mixed: float
    skewness: float
    binary: bool
    alone: bool  # each row its own group
    unseen: Unseen = field(compare=False)  # About losses.
    unseen_gains: Unseen = field(compare=False)
    times: float = 1.0
    mid_p: bool = False

    @property
    def effect(self) -> float:
        """Return the mean difference."""
        return (self.wins - self.losses) / self.rows

    @property
    def kish(self) -> float:
        """Rows over the size of a typical row's group."""
        return self.rows / self.typical

    @property
    def exact(self) -> bool:
        """Whether nothing about these rows has to be estimated but shares of right/wrong rows."""
        return self.binary and self.alone

    def unit(self, margin: float) -> float:
        """Return the size of differences that would come as often and vary as much; 1 for right/wrong scores.

        One whole row more than was seen, so that a difference of 1 counts as the size of one until seen otherwise.
        """
        if self.binary:
            return 1.0
        apart = self.wins + self.losses
        return min(
            1.0, max((self.squares + 1) / (apart + 1), 2 * abs(self.effect), 2 * abs(margin))
        )

    @property
    def between(self) -> float:
        """Squared group totals about the mean, with the factor G / (G - 1): the variance of the sum of differences."""
        about = (
            self.blocks - 2 * self.effect * self.mixed + self.effect**2 * self.typical * self.rows
        )
        return max(0.0, about) * self.groups / max(self.groups - 1, 1e-9)

    def score_test(self, margin: float) -> ScoreTest:
        """Count wins and losses in units, and rows in effective rows.

        One difference of a whole typical group more than was seen is in the design effect, so that what is rare in
        these rows is not taken for impossible.
        """
        unit, design = self.unit(margin), 1.0
        if not self.alone and self.kish > 1:
            within = max(0.0, self.squares - self.rows * self.effect**2)
            design = (self.between + (self.typical * unit) ** 2) / (within + self.typical * unit**2)
            design = max(1.0, design)
        scale = unit * design
        freedom = None if self.exact else (self.groups if self.alone else self.kish) - 1
        return ScoreTest(self.wins / scale, self.losses / scale, self.rows / design, unit, freedom)

    def mirrored(self) -> Self:
        """Return the same seen from the reference's side."""
        return replace(
            self, wins=self.losses, losses=self.wins, mixed=-self.mixed, skewness=-self.skewness,
            unseen=self.unseen_gains, unseen_gains=self.unseen,
        )  # fmt: skip

    def p(self, bound: float, margin: float) -> float:
        """Of the hypothesis that the true difference is ``bound`` or less; ``margin`` sets the unit of grades."""
        if self.exact and margin == bound == 0:
            return _mcnemar(self.wins, self.losses, self.mid_p)
        return self._p(self.score_test(margin), bound)

    def _p(self, test: ScoreTest, bound: float) -> float:
        if self.exact:
            return test.p(bound)
        surplus = self.wins - self.losses - self.rows * bound
        p = test.p(bound) if self.binary else max(test.p(bound), self._skewed(surplus, test))
        return min(1.0, p + self.unseen.chance(surplus, self.times))

    def _skewed(self, surplus: float, test: ScoreTest) -> float:
        """P-value of Student's test of the group totals after Hall's transformation."""
        from scipy.special import stdtr

        if not self.between or test.freedom is None or test.freedom <= 0:
            return 0.0  # Tango's test says 1 of a single group
        apart = surplus / math.sqrt(self.between)
        return float(
            stdtr(test.freedom, -hall.transformed(apart, self.skewness / math.sqrt(self.groups)))
        )

    def lower(self, level: float, margin: float) -> float:
        """Return the difference whose p-value is ``level``: the lower bound at confidence 1 - level."""
        test = self.score_test(margin)
        bound = crossing(
            lambda bound: self._p(test, bound) - level, -EDGE, EDGE, ends=(-1.0, 1.0), xtol=1e-10
        )
        if not self.exact or abs(bound) == 1:
            return bound
        # McNemar's test decides about 0, and the bound agrees with it.
        p = _mcnemar(self.wins, self.losses, self.mid_p)
        return max(bound, 0.0) if p <= level else min(bound, 0.0)


@dataclass(frozen=True)
class Comparison:
    """The mean of ``candidate - reference`` over ``n`` rows, and what it says about a margin.

    ``low`` and ``high`` each bound the true difference alone, one-sided, with ``confidence``.
    ``p``: of the hypothesis that the true difference is ``margin`` or less. ``p_worse``: that it is 0 or more.
    ``method``: the test. ``pairs``: what ``checks.stats.planning`` needs.
    """

    n: int
    effect: float
    p: float
    p_worse: float
    method: str
    pairs: Pairs
    margin: float
    confidence: float

    def lower(self, level: float) -> float:
        """Return the lower bound at confidence 1 - ``level``."""
        return max(-1.0, min(self.pairs.lower(level, self.margin), self.effect))

    def upper(self, level: float) -> float:
        """Return the upper bound at confidence 1 - ``level``."""
        return min(1.0, max(-self.pairs.mirrored().lower(level, self.margin), self.effect))

    @cached_property
    def low(self) -> float:
        """Return the lower bound."""
        return self.lower(1 - self.confidence)

    @cached_property
    def high(self) -> float:
        """Return the upper bound."""
        return self.upper(1 - self.confidence)


class Difference(Interval):
    """The mean of new - old over ``n`` rows with its two-sided interval; on how many rows new is better, and worse.

    ``p``: two-sided, twice the smaller of the two one-sided p-values; ``p_holm``: the same, corrected by Holm's method
    over the differences that are shown together. ``method``: the test. ``less_is_better``: as of a loss.
    """

    wins: Count
    losses: Count
    p: float
    p_holm: float
    method: str
    less_is_better: bool = False


def compare(
    candidate: Scores,
    reference: Scores,
    groups: Groups,
    margin: float,
    confidence: float,
    mid_p: bool = False,
) -> Comparison:
    """Compare scores in [0, 1] of the same rows; ``groups[i]`` is the group of row i, from 0.

    ``margin`` is signed: 0 or more for "improves", below 0 for "non-inferior". ``mid_p``: where McNemar's exact test
    would decide, his mid-p test does. ValueError for no rows, unequal lengths, a score outside [0, 1], a margin outside
    (-1, 1) or a confidence outside (0, 1).
    """
    n = len(candidate)
    if not n or not n == len(reference) == len(groups):
        raise ValueError(
            f"{n} and {len(reference)} scores and {len(groups)} groups: need the same number, and at least one"
        )
    scores = np.concatenate([candidate, reference])
    for problem in problems(
        (not (scores.min() >= 0 and scores.max() <= 1), "a score lies outside [0, 1]"),  # NaN, too
        (not 0 < confidence < 1, f"confidence {confidence} is not between 0 and 1"),
        (not -1 < margin < 1, f"margin {margin} is not between -1 and 1"),
    ):
        raise ValueError(problem)
    pairs = replace(_pairs(candidate, reference, groups), mid_p=mid_p)
    if pairs.exact and margin == 0:
        method = "McNemar's mid-p test" if mid_p else "exact McNemar test"
    else:
        method = (
            "Tango's score test" if pairs.binary else "Tango's score test in units of a difference"
        )
    if not pairs.alone:
        method += f", {pairs.groups:g} group{'s' if pairs.groups > 1 else ''}"
    return Comparison(
        n=n, effect=math.fsum(candidate - reference) / n, p=pairs.p(margin, margin),
        p_worse=pairs.mirrored().p(0, 0 if pairs.exact else margin), method=method, pairs=pairs, margin=margin,
        confidence=confidence,
    )  # fmt: skip


def two_sided(
    old: Sequence[float] | NDArray[np.float64],
    new: Sequence[float] | NDArray[np.float64],
    groups: NDArray[np.intp],
    confidence: float,
) -> Difference | None:
    """Compare ``new`` with ``old`` on the same rows. None for no rows, or for scores outside [0, 1]."""
    one, two = np.asarray(old, np.float64), np.asarray(new, np.float64)
    if not len(one) or not all(scores.min() >= 0 and scores.max() <= 1 for scores in (one, two)):
        return None
    # Each bound alone; both together have ``confidence``.
    test = compare(two, one, groups, 0.0, (1 + confidence) / 2)
    p = min(1.0, 2 * min(test.p, test.p_worse))
    return Difference(
        value=test.effect, low=test.low, high=test.high, n=test.n, wins=int((two > one).sum()),
        losses=int((two < one).sum()), p=p, p_holm=p, method=test.method,
    )  # fmt: skip


def _pairs(candidate: Scores, reference: Scores, groups: Groups) -> Pairs:
    differences, rows = candidate - reference, np.bincount(groups)
    totals = np.bincount(groups, differences)[rows > 0]
    sizes = rows[rows > 0].astype(np.float64)
    squared = float((sizes**2).sum())
    about = totals - sizes * (totals.sum() / len(candidate))
    spread = math.sqrt(float((about**2).sum()) / max(len(sizes) - 1, 1))
    return Pairs(
        rows=float(len(candidate)), groups=float(len(sizes)), typical=squared / len(candidate),
        wins=float(differences[differences > 0].sum()), losses=-float(differences[differences < 0].sum()),
        squares=float((differences**2).sum()), blocks=float((totals**2).sum()), mixed=float(totals @ sizes),
        skewness=float((about**3).mean()) / spread**3 if spread else 0.0,
        binary=all(bool(((scores == 0) | (scores == 1)).all()) for scores in (candidate, reference)),
        alone=len(sizes) == len(candidate), unseen=Unseen(sizes + totals), unseen_gains=Unseen(sizes - totals),
    )  # fmt: skip


def _mcnemar(wins: float, losses: float, mid_p: bool) -> float:
    """P-value of as many wins or more where a win is as likely as a loss; between whole numbers, the beta function.

    With ``mid_p`` as many wins count by half of their chance (Fagerland, Lydersen and Laake, 2013).
    """
    from scipy.special import betainc

    if wins <= 0:
        return 1.0
    as_many = float(betainc(wins, losses + 1, 0.5))
    more = float(betainc(wins + 1, losses, 0.5)) if losses > 0 else 0.0
    return (as_many + more) / 2 if mid_p else as_many
