"""Two models on the same rows: is the one better, or no worse by a margin, and what could these rows have told?"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

POWER = 0.8

Scores = NDArray[np.float64]
Groups = NDArray[np.intp]


class Comparison(NamedTuple):
    """The mean of ``candidate - reference`` over ``n`` rows, and what it says about a margin.

    ``low`` and ``high`` each bound the true difference alone, one-sided, with the confidence asked for.
    ``p``: of the hypothesis that the true difference is ``margin`` or less. ``p_worse``: that it is 0 or more.
    ``detectable``: the true difference from the hypothesis' edge that is seen with 80 % power. ``method``: the test's name.
    """

    n: int
    effect: float
    low: float
    high: float
    p: float
    p_worse: float
    detectable: float
    method: str

    def rows_for(self, difference: float) -> int:
        """Rows like these with which ``difference`` (> 0) would be seen with 80 % power."""
        raise NotImplementedError


def compare(candidate: Scores, reference: Scores, groups: Groups, margin: float, confidence: float) -> Comparison:
    """Compare scores in [0, 1] of the same rows; ``groups[i]`` is the group of row i, from 0.

    ``margin`` is signed: 0 or more for "improves", below 0 for "non-inferior". ValueError for no rows, unequal
    lengths, a score outside [0, 1] or a confidence outside (0, 1).
    """
    raise NotImplementedError
