"""Progress bars on standard error."""

from collections.abc import Iterable
from typing import Never, TypeVar

from tqdm import tqdm

T = TypeVar("T")


def of_bytes(what: str, total: int | None = None, done: int = 0) -> "tqdm[Never]":
    """A progress bar of ``total`` bytes (None: unknown), of which ``done`` are complete; a context manager.

    It appears after one second, so that short work shows no bar.
    """
    return tqdm(
        desc=what,
        total=total,
        initial=done,
        unit="B",
        unit_scale=True,
        mininterval=1,
        delay=1,
        leave=False,
    )


def of_rows(
    what: str, rows: Iterable[T], total: int | None = None, unit: str = " rows"
) -> "tqdm[T]":
    """``rows`` with a progress bar, which appears after a second too."""
    return tqdm(
        rows,
        desc=what,
        total=total,
        unit=unit,
        unit_scale=True,
        mininterval=1,
        delay=1,
        leave=False,
    )
