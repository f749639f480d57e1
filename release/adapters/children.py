"""Handlers of signals. With them this process, when it is told to end, also ends those that it started."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

_GRACE = 5.0  # seconds that they have to end by themselves


@contextmanager
def handling(
    signals: Iterable[int], handler: Callable[[int, FrameType | None], Any]
) -> Iterator[None]:
    """Give these signals to ``handler`` within the block. In a thread, which may set no handler, nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in signals}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


@contextmanager
def ended_with_this_process() -> Iterator[None]:
    """Within the block SIGTERM ends every process that this one started, and then this one, with exit code 143.

    Ctrl-C reaches a terminal's whole process group, but SIGTERM one process alone: without this, what stops
    `lockstep run` (a service manager, a CI runner, ``kill``) would leave a stage of DVC training for hours.
    """
    with handling((signal.SIGTERM,), _end):
        yield


def end_started_by(process: int) -> None:
    """End every process that ``process`` started, and what those started."""
    import psutil  # beside DVC alone, which needs it too

    try:
        children = psutil.Process(process).children(recursive=True)
    except psutil.NoSuchProcess:
        return
    for child in children:
        with suppress(psutil.Error):
            child.terminate()
    for child in psutil.wait_procs(children, _GRACE)[1]:
        with suppress(psutil.Error):
            child.kill()


def _end(number: int, _: FrameType | None) -> None:
    # A second signal would end the wait and leave the children that ignored the first.
    signal.signal(number, signal.SIG_IGN)
    end_started_by(os.getpid())
    sys.exit(128 + number)
