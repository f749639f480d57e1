"""The order of rows in an epoch, so that a resumed training sees the same order as an uninterrupted one."""

from collections.abc import Callable, Iterator

import torch
from torch.utils.data import Sampler


class Order(Sampler[int]):
    """The order of rows in an epoch, and the generator state that it was drawn from.

    A resumed trainer skips the rows of the epoch that it has seen, but draws their order again from a generator in
    another state. After ``again`` the order is drawn from the given state.

    ``shared``: on several ranks, returns rank 0's state when every rank hands its own over. All ranks then draw one
    order, of which each takes its part; their own generators, which differ, are left as they were.
    """

    def __init__(
        self,
        sampler: Sampler[int],
        shared: Callable[[torch.Tensor], torch.Tensor] | None = None,
        first: bool = True,
    ) -> None:
        # The state of torch's generator of the CPU when the epoch's order was drawn.
        self.state: torch.Tensor | None = None
        self._sampler, self._shared, self._first = sampler, shared, first
        self._again: torch.Tensor | None = None

    def again(self, state: torch.Tensor) -> None:
        """Draw the next epoch's order from this state."""
        self._again = state

    def __iter__(self) -> Iterator[int]:
        if self._again is not None:
            torch.set_rng_state(self._again)
            self._again = None
        self.state = own = torch.get_rng_state()
        if self._shared is None:
            return iter(self._sampler)
        self.state = self._shared(own)
        torch.set_rng_state(self.state)
        rows = list(self._sampler)
        if not self._first:
            torch.set_rng_state(own)
        return iter(rows)

    def __len__(self) -> int:
        return len(self._sampler)  # type: ignore[arg-type] # torch's samplers have lengths, their base class has none
