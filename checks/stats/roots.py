"""Finds where a rising function of one number crosses 0."""

from collections.abc import Callable


def crossing(
    rising: Callable[[float], float],
    low: float,
    high: float,
    ends: tuple[float, float],
    xtol: float,
) -> float:
    """Return where ``rising`` is 0 between ``low`` and ``high``, to within ``xtol``, by halving what lies between them.

    Returns the first of ``ends`` if it is 0 or more at ``low``, the second if it is 0 or less at ``high``.

    Importing SciPy's root finders takes longer than all the halving of a verdict.
    """
    if rising(low) >= 0:
        return ends[0]
    if rising(high) <= 0:
        return ends[1]
    while high - low > xtol:
        middle = (low + high) / 2
        if middle in (low, high):  # No number lies between them.
            break
        if rising(middle) < 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2
