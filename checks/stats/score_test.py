"""Tango's score test (1998) of a difference of paired shares, at an effective number of rows."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class ScoreTest:
    """Tango's test on ``rows`` effective rows, with wins and losses counted in units of a typical difference.

    ``unit`` is 1 for right/wrong scores. ``freedom`` is of Student's t, None for the normal distribution.
    """

    wins: float
    losses: float
    rows: float
    unit: float
    freedom: float | None

    def p(self, bound: float) -> float:
        """Of the hypothesis that the true difference is ``bound`` or less."""
        from scipy.special import ndtr, stdtr

        if self.freedom is not None and self.freedom <= 0:
            return 1.0  # a single group shows nothing
        z = -self.z(bound / self.unit)
        return float(ndtr(z) if self.freedom is None else stdtr(self.freedom, z))

    def z(self, bound: float, correction: float = 0.5) -> float:
        """Tango's statistic with the losses' share at its likeliest under a difference of ``bound``."""
        n, wins, losses = self.rows, self.wins, self.losses
        linear = (2 * n - wins + losses) * bound - wins - losses
        # Rounding may take the discriminant below 0 where every row differs one way.
        root = math.sqrt(max(0.0, linear**2 + 8 * n * losses * bound * (1 - bound)))
        share = (root - linear) / (4 * n)
        variance = n * (2 * share + bound * (1 - bound))
        return (wins - losses - correction - n * bound) / math.sqrt(max(variance, 1e-300))
