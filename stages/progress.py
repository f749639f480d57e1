"""Progress bars on standard error, counted in bytes."""

from typing import Never

from tqdm import tqdm


def of_bytes(what: str, total: int | None = None, done: int = 0) -> "tqdm[Never]":
    """A progress bar of ``total`` bytes (None: unknown), of which ``done`` are complete; a context manager.

    It appears after one second, so that short work shows no bar.
    """
    return tqdm(desc=what, total=total, initial=done, unit="B", unit_scale=True, mininterval=1, delay=1, leave=False)
