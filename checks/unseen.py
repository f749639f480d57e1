"""What a sample of groups may not have shown: the chance that rare, whole losses were missed.

The rule of three (Hanley and Lippman-Hand, 1983) says that n rows without a fault are compatible with a fault in 3/n of
them. Here groups have sizes of their own, and some have lost a part already: each may still lose its ``room``. A
hypothesis asks for a mean that lies a ``surplus`` below what was seen. Let group i lose its room with probability q_i,
so that the expected losses make up the surplus. The probability that none of them is seen is the product of 1 - q_i. We
report its maximum over all q, which is the nonparametric likelihood ratio (Owen, 2001) with each group's worst outcome
added to what was seen. The maximum lowers the largest rooms to a common level c: 1 - q_i = min(1, c / room_i).
"""

import math

import numpy as np
from numpy.typing import NDArray


class Unseen:
    """Rooms of groups (0 or more, in rows), sorted once; ``chance`` is then a look-up."""

    def __init__(self, rooms: NDArray[np.float64]) -> None:
        self._rooms = np.sort(rooms)[::-1]
        self._sums = np.cumsum(self._rooms)
        self._logs = np.cumsum(np.log(np.maximum(self._rooms, 1e-300)))
        # What is lost where the k largest rooms are lowered to the size of the next one, or to 0 after the last.
        count = np.arange(1, len(rooms) + 1)
        self._lowered = self._sums - count * np.append(self._rooms[1:], 0.0)

    def chance(self, surplus: float, times: float = 1.0) -> float:
        """Largest probability that ``surplus`` rows of losses went unseen; ``times`` as many groups as there are."""
        wanted = surplus / times
        if wanted <= 0:
            return 1.0
        if wanted >= self._sums[-1]:
            return 0.0
        k = min(int(np.searchsorted(self._lowered, wanted)), len(self._rooms) - 1)
        level = (float(self._sums[k]) - wanted) / (k + 1)
        if level <= 0:
            return 0.0
        return math.exp(min(0.0, times * ((k + 1) * math.log(level) - float(self._logs[k]))))
