"""Computes the chance that a sample of groups missed rare, whole losses.

The rule of three (Hanley and Lippman-Hand, 1983) says that n rows without a fault are compatible with a fault in 3/n of
them. Here groups have sizes of their own, and some have lost a part already: each may still lose its ``room``. A
hypothesis asks for a mean that lies a ``surplus`` below what was seen. Let group i lose its room with probability q_i,
so that the expected losses make up the surplus. The probability that none of them is seen is the product of 1 - q_i. We
report its maximum over all q, which is the nonparametric likelihood ratio (Owen, 2001) with each group's worst outcome
added to what was seen. The maximum lowers the largest rooms to a common level c: 1 - q_i = min(1, c / room_i).
"""

import math
from copy import copy
from typing import Self

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Unseen:
    """Rooms of groups (0 or more, in rows), sorted once; ``chance`` is then a look-up. ``weights``: groups of each."""

    def __init__(self, rooms: Array, weights: Array | None = None) -> None:
        order = np.argsort(-rooms, kind="stable")
        self._set(rooms[order], np.ones(len(rooms)) if weights is None else weights[order])

    def _set(self, rooms: Array, weights: Array) -> None:
        self._rooms, self._weights = rooms, weights
        self._counts, self._sums = np.cumsum(weights), np.cumsum(rooms * weights)
        self._logs = np.cumsum(weights * np.log(np.maximum(rooms, 1e-300)))
        # What is lost where the largest rooms are lowered to the size of the next one, or to 0 after the last.
        self._lowered = self._sums - self._counts * np.append(rooms[1:], 0.0)

    def chance(self, surplus: float, times: float = 1.0) -> float:
        """Largest probability that ``surplus`` rows of losses went unseen; ``times`` as many groups as there are."""
        wanted = surplus / times
        if wanted <= 0:
            return 1.0
        if wanted >= self._sums[-1]:
            return 0.0
        k = min(int(np.searchsorted(self._lowered, wanted)), len(self._rooms) - 1)
        count = float(self._counts[k])
        level = (float(self._sums[k]) - wanted) / count
        if level <= 0:
            return 0.0
        return math.exp(min(0.0, times * (count * math.log(level) - float(self._logs[k]))))

    def having_gained(self, room: float, groups: float) -> Self:
        """The same where so many groups (fewer than there are), taken from all alike, have ``room`` instead."""
        place = int(np.searchsorted(-self._rooms, -room))
        rest = self._weights * (1 - groups / float(self._counts[-1]))
        gained = copy(self)
        gained._set(np.insert(self._rooms, place, room), np.insert(rest, place, groups))
        return gained
