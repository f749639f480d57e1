"""Hall's transformation: Student's statistic of a skewed mean, without its skewness.

Where few observations are far off, most samples lack them: the mean and the error of such a sample are both wrong in
the same direction, and Student's test passes too many. The transformation takes the skewness away (Hall, 1992, "On the
removal of skewness by transformation", Journal of the Royal Statistical Society B 54, 221-228).
"""

import math

_NONE = 1e-9  # a skewness that changes nothing


def transformed(apart: float, skewness: float) -> float:
    """The statistic of an estimate that lies ``apart`` standard errors from a number; ``skewness``: of the estimate.

    It rises with ``apart``.
    """
    return apart + skewness * apart**2 / 3 + skewness**2 * apart**3 / 27 + skewness / 6


def apart_at(statistic: float, skewness: float) -> float:
    """Standard errors from a number at which ``transformed`` gives ``statistic``."""
    if abs(skewness) < _NONE:
        return statistic
    return 3 / skewness * (math.cbrt(1 + skewness * (statistic - skewness / 6)) - 1)
