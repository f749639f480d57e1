"""One question that may never be answered, with a deadline that a slow trickle of bytes does not put off."""

from collections.abc import Callable
from multiprocessing import TimeoutError as PoolTimeoutError
from multiprocessing.pool import ThreadPool
from typing import TypeVar

T = TypeVar("T")


def within(seconds: float, ask: Callable[[], T]) -> T:
    """Return the result of ``ask``.

    Raises TimeoutError, which says so, if it takes too long; its thread is abandoned then.
    """
    pool = ThreadPool(1)
    try:
        return pool.apply_async(ask).get(seconds)
    except PoolTimeoutError:
        raise TimeoutError(f"no answer within {seconds:g} s") from None
    finally:
        pool.terminate()
