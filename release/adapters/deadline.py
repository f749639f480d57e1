"""One question that may never be answered, with a deadline that a slow trickle of bytes does not put off."""

from collections.abc import Callable
from multiprocessing import TimeoutError as PoolTimeoutError
from multiprocessing.pool import ThreadPool
from typing import TypeVar

T = TypeVar("T")


def within(seconds: float, ask: Callable[[], T]) -> T:
    """Return the result of ``ask``. Raises TimeoutError if it takes too long, and abandons its thread."""
    pool = ThreadPool(1)
    try:
        return pool.apply_async(ask).get(seconds)
    except PoolTimeoutError:
        raise TimeoutError from None
    finally:
        pool.terminate()
