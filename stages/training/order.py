"""The order of rows in an epoch, so that a resumed training sees the same order as an uninterrupted one."""

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler


class Order(Sampler[int]):
    """The order of rows in an epoch, and the generator state that it was drawn from.

    A resumed trainer skips the rows of the epoch that it has seen, but draws their order again from a generator in
    another state. After ``again`` the order is drawn from the given state.
    """

    def __init__(self, sampler: Sampler[int]) -> None:
        self.state: torch.Tensor | None = None  # torch's generator of the CPU, when the epoch's order was drawn
        self._sampler = sampler
        self._again: torch.Tensor | None = None

    def again(self, state: torch.Tensor) -> None:
        """Draw the next epoch's order from this state."""
        self._again = state

    def __iter__(self) -> Iterator[int]:
        if self._again is not None:
            torch.set_rng_state(self._again)
            self._again = None
        self.state = torch.get_rng_state()
        return iter(self._sampler)

    def __len__(self) -> int:
        return len(self._sampler)  # type: ignore[arg-type] # torch's samplers have lengths, their base class has none
