"""Splits the variance of a mean over rows that were answered several times: the part of the rows, and of the draws.

The draws of a row are independent, so that their part is within / (n k): n rows, k draws, and ``within`` the mean
variance of a row's draws. The rest of the variance of the mean, rows of a group together, is the part of the rows.
"""

import math
from collections.abc import Sequence

import numpy as np

from checks.formats.evaluation_reports import Spread
from checks.stats.intervals import Groups, Mean


def spread(scores: Sequence[Sequence[float]], groups: Groups) -> Spread:
    """Split the variance of the mean of ``scores`` (rows, draws), each in [0, 1], with at least two draws."""
    of_draws = np.array(scores)
    rows, times = of_draws.shape
    mean = Mean.of(of_draws.mean(axis=1), groups)
    draws = float(of_draws.var(axis=1, ddof=1).mean()) / (rows * times)
    return Spread(rows=max(0.0, mean.between / rows**2 - draws), draws=draws)


def narrower(spread: Spread, rows: float = 1.0, draws: float = 1.0) -> float:
    """Return the share by which an interval gets narrower with ``rows`` and ``draws`` times as many."""
    total = spread.rows + spread.draws
    return 1 - math.sqrt((spread.rows + spread.draws / draws) / rows / total) if total else 0.0


def sentence(metric: str, spread: Spread, draws: int) -> str:
    """Say whether more draws or more rows would narrow the interval of ``metric``, and by how much."""
    share = spread.draws / total if (total := spread.rows + spread.draws) else 0.0
    twice, all_of_them = narrower(spread, draws=2), narrower(spread, draws=math.inf)
    return (
        f"{metric} is a mean over {draws} draws of each row; {share:.0%} of its variance is theirs. Twice the draws "
        f"would narrow its interval by {twice:.0%}, any number of draws by {all_of_them:.0%} at most, and twice the "
        f"rows by {narrower(spread, rows=2):.0%}."
    )
