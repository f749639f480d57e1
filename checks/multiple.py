"""Several tests in one verdict."""

from collections.abc import Sequence


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values, in the given order (Holm, 1979): each may be held against its own level."""
    raise NotImplementedError
