"""Threads for work on arrays: numpy lets go of Python's lock, so that two threads compute at the same time."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

_MOST = 4


def cores() -> int:
    """The number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def mapped(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """``function`` of each item, in the order of the items, by a thread for each core, up to four.

    The next items are worked on before their results are asked for.
    """
    count = min(cores(), _MOST)
    if count < 2:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(count) as pool:
        waiting = deque[Future[R]]()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
