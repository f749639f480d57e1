"""One thread, for work whose order of sums decides its bytes, or whose pieces are too small for a second one."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

_LANES = 4


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch computes with one thread inside."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def lanes(model: Any) -> Iterator[ThreadPoolExecutor]:
    """Threads that ask ``model`` at the same time: on a CPU up to four, each of which computes alone; else one."""
    import torch

    count = min(torch.get_num_threads(), _LANES) if model.device.type == "cpu" else 1
    with one_thread(), ThreadPoolExecutor(count) as pool:
        yield pool
