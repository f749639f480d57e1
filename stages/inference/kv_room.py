"""The key-value cache of batched generation: tensors as long as they will ever be, filled in place.

transformers' own layers grow by copying all keys and values at every token, and take a batch as a whole; here a
batch is filled block by block, as its prompts are read.
"""

from typing import Any

import torch
from transformers.cache_utils import DynamicLayer


class Room(DynamicLayer):
    """Keys and values of one layer, (rows, heads, columns, head width), in tensors as long as they will ever be."""

    def __init__(self, rows: int, capacity: int) -> None:
        super().__init__()
        self.rows, self.capacity, self.used = rows, capacity, 0

    def write(self, keys: torch.Tensor, values: torch.Tensor, row: int, column: int) -> None:
        """Write a block whose upper left corner is (row, column)."""
        if not self.is_initialized:
            self.lazy_initialization(keys, values)
            # Zeros: a masked column counts for nothing, but nothing times NaN is NaN.
            self.all_keys, self.all_values = (
                new.new_zeros((self.rows, new.shape[1], self.capacity, new.shape[3])) for new in (keys, values)
            )
        rows, columns = slice(row, row + keys.shape[0]), slice(column, column + keys.shape[2])
        self.all_keys[rows, :, columns] = keys
        self.all_values[rows, :, columns] = values

    def show(self, used: int) -> None:
        """Let attention see the first ``used`` columns."""
        self.used = used
        self.keys, self.values = self.all_keys[:, :, :used], self.all_values[:, :, :used]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write new columns, return all columns so far (called by the model)."""
        self.write(key_states, value_states, 0, self.used)
        self.show(self.used + key_states.shape[2])
        return self.keys, self.values

    def get_seq_length(self) -> int:
        """Columns so far."""
        return self.used

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep these rows."""
        self.all_keys, self.all_values = self.all_keys[indices], self.all_values[indices]
        self.show(self.used)
