"""Copies blobs to a store, several at once: existing blobs are skipped, and the first failure ends the rest."""

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

from tqdm import tqdm

from release.adapters.registry.types import Store

WORKERS = 4

Job = Callable[[Callable[[int], object]], object]  # is told how to report bytes


class _Stopped(Exception):  # noqa: N818 - no error: another blob failed
    """Ends a transfer from within."""


class Borrowed:
    """A Blob in another store, which checks its digest at each reading."""

    def __init__(self, store: Store, digest: str, size: int) -> None:
        self._store = store
        self._digest = digest
        self.size = size

    def blocks(self) -> Iterator[bytes]:
        """All bytes."""
        return self._store.blob(self._digest, self.size)


def copy(source: Store, target: Store, digest: str, size: int) -> Job:
    """Copy one blob between stores: mounted within one registry, else streamed."""

    def job(seen: Callable[[int], object]) -> None:
        if target.borrow(digest, size, source):
            seen(size)
        else:
            target.add(Borrowed(source, digest, size), digest, seen)

    return job


def run(jobs: Iterable[Job], total: int, name: str) -> None:
    """Run all jobs, ``WORKERS`` at a time, with one progress bar of ``total`` bytes.

    The first failure or interrupt ends the others at their next block, and is raised.
    """
    stop, lock = threading.Event(), threading.Lock()
    with tqdm(total=total, desc=name, unit="B", unit_scale=True, disable=None) as bar:

        def seen(count: int) -> None:
            if stop.is_set():
                raise _Stopped
            with lock:
                bar.update(count)

        with ThreadPoolExecutor(WORKERS) as pool:
            pending = {pool.submit(job, seen) for job in jobs}
            try:
                done, _ = wait(pending, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
            except BaseException:
                stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
