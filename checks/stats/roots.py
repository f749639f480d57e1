"""Finds where a rising function of one number crosses 0."""

import functools
import sys
from collections.abc import Callable

_RTOL = 4 * sys.float_info.epsilon  # the smallest that brentq takes


def crossing(
    rising: Callable[[float], float],
    low: float,
    high: float,
    ends: tuple[float, float],
    xtol: float,
    rtol: float = _RTOL,
) -> float:
    """Return where ``rising`` is 0 between ``low`` and ``high``, by Brent's method.

    Returns the first of ``ends`` if it is 0 or more at ``low``, the second if it is 0 or less at ``high``.
    """
    from scipy.optimize import brentq

    known = functools.cache(rising)
    if known(low) >= 0:
        return ends[0]
    return ends[1] if known(high) <= 0 else float(brentq(known, low, high, xtol=xtol, rtol=rtol))
