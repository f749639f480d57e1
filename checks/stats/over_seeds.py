"""The difference of two recipes (parameters of training), each trained with several seeds and scored on the same rows.

A recipe's score is the mean over its seeds. Two things make the difference of two recipes uncertain, and both are in
its interval: another seed gives another model (the variance of the means of seeds, as in Welch, 1947, "The
generalization of Student's problem when several different population variances are involved"), and other rows suit
another recipe (the variance of the rows' differences, by groups, as in ``checks.stats.intervals``). The degrees of
freedom of the sum are Satterthwaite's (1946, "An approximate distribution of estimates of variance components").

Without the rows, recipes that are no better pass in up to 18 % of cases where 5 % is promised, and more seeds make it
worse: docs/measurements/series.md. What a seed adds to a row is in both variances, so the test is somewhat stricter
than it says.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from checks.formats.evaluation_reports import Figures
from checks.stats.planning import POWER

ABOUT = (
    "Differences of the means over seeds (Welch's t, with the variance of rows): what another seed and other rows "
    "would change is in each interval."
)


class Difference(Figures):
    """Mean of one recipe minus mean of another, with its two-sided interval at ``confidence``.

    ``detectable``: the true difference that so many seeds and rows, varying as these do, show in four cases of five.
    """

    confidence: float
    freedom: float  # degrees of freedom
    detectable: float

    def said(self) -> str:
        """The difference and what it shows, on one line."""
        shown = "better" if self.low > 0 else "worse" if self.high < 0 else "too close to tell"
        return (
            f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}], {self.freedom:.1f} degrees of freedom: {shown}; a "
            f"true difference of {self.detectable:.3f} would be seen in four cases of five"
        )

    def mirrored(self) -> "Difference":
        """The other recipe minus this one."""
        return self.model_copy(update={"value": -self.value, "low": -self.high, "high": -self.low})


def least(spread: float, seeds: int, confidence: float) -> float:
    """The smallest true difference of two recipes that both have this spread (standard deviation) over as many seeds.

    It would be shown in four cases of five, if rows added no uncertainty of their own. ``seeds``: at least 2.
    """
    return _difference(0.0, spread * math.sqrt(2 / seeds), 2.0 * (seeds - 1), confidence).detectable


def difference(
    one: NDArray[np.float64], two: NDArray[np.float64], groups: Sequence[str], confidence: float
) -> Difference | None:
    """Compare two recipes; each array has a row a seed and a column a row of the split; ``groups`` has a row's group.

    None if there is no interval: one recipe has a single seed, all rows are of one group, or no score differs.
    """
    if min(len(one), len(two)) < 2:
        return None
    gaps = one.mean(axis=0) - two.mean(axis=0)
    codes, sizes = np.unique(groups, return_inverse=True, return_counts=True)[1:]
    rows, value = len(gaps), float(gaps.mean())
    between = rows**2 / float((sizes**2).sum()) - 1  # degrees of freedom, as those of stats.Mean
    if between <= 0:
        return None
    parts = [
        (float(scores.mean(axis=1).var(ddof=1)) / len(scores), len(scores) - 1.0)
        for scores in (one, two)
    ]
    totals = np.bincount(codes, gaps - value)
    parts.append((len(totals) / (len(totals) - 1) * math.fsum(totals**2) / rows**2, between))
    variance = math.fsum(part for part, _ in parts)
    if variance <= 1e-15:  # rounding
        return None
    freedom = variance**2 / math.fsum(part**2 / degrees for part, degrees in parts)
    return _difference(value, math.sqrt(variance), freedom, confidence)


def said_of_one(mean: float, spread: float, seeds: int, confidence: float) -> str:
    """Say on one line what is known of one recipe."""
    if spread < 1e-9:
        return f"{mean:.3f} over {seeds} seeds, which score alike: so few seeds and rows show no spread"
    seen = least(spread, seeds, confidence)
    return (
        f"{mean:.3f} over {seeds} seeds, spread (standard deviation) {spread:.3f}: another recipe with the same spread "
        f"over as many seeds must differ by {seen:.3f} to be told apart in four cases of five, however many rows there "
        "are"
    )


def _difference(value: float, error: float, freedom: float, confidence: float) -> Difference:
    from scipy.special import nctdtrinc, stdtrit

    quantile = float(stdtrit(freedom, (1 + confidence) / 2))
    return Difference(
        value=value,
        low=value - quantile * error,
        high=value + quantile * error,
        confidence=confidence,
        freedom=freedom,
        detectable=float(nctdtrinc(freedom, 1 - POWER, quantile)) * error,
    )
