"""Several tests in one verdict."""

from collections.abc import Sequence

import numpy as np


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values, in the given order (Holm, 1979): each may be held against its own level.

    Equal to statsmodels' ``multipletests`` (the tests hold it), which collects all garbage at each call: a second,
    where 100,000 predictions are in memory.
    """
    if not p_values:
        return []
    values = np.asarray(p_values, np.float64)
    order = np.argsort(values, kind="stable")
    adjusted = np.empty(len(values))
    adjusted[order] = np.minimum(
        1.0, np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    )
    return [float(p) for p in adjusted]
