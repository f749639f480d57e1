"""Ctrl-C ends a run of the tests within seconds and leaves no process of it.

pytest-xdist alone waits up to 15 s for each worker and then kills it, and what the worker had started goes on. Here every
process of a run carries the run's name in its environment. A worker that is interrupted takes down its fixtures and ends.
After ``GRACE`` seconds whatever still carries the name is killed.
"""

import contextlib
import os
import signal
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

RUN = "LOCKSTEP_TESTS_RUN"
GRACE = 5.0  # seconds; a worker removes its containers in less
_WORKER = "PYTEST_XDIST_WORKER"

if _WORKER not in os.environ:  # A worker has the name of the run that started it.
    os.environ[RUN] = uuid.uuid4().hex
_interrupted = False


@pytest.hookimpl(tryfirst=True)
def pytest_keyboard_interrupt() -> None:
    """Note it in a worker. In the process that the user sees, end all others."""
    global _interrupted
    _interrupted = True
    if _WORKER not in os.environ:
        end_others()


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    """End an interrupted worker after its fixtures. Without workers, end what the fixtures left."""
    if _interrupted and _WORKER in os.environ:
        os._exit(pytest.ExitCode.INTERRUPTED)
    if _interrupted:
        end_others(grace=0)


def end_others(grace: float = GRACE) -> None:
    """Wait ``grace`` seconds for the other processes of this run, then kill them."""
    deadline = time.monotonic() + grace
    while list(others()) and time.monotonic() < deadline + 5:
        if time.monotonic() > deadline:
            kill(others())
        time.sleep(0.05)


def kill(processes: Iterator[int]) -> None:
    """Kill processes, some of which may have ended already."""
    for process in processes:
        with contextlib.suppress(OSError):
            os.kill(process, signal.SIGKILL)


def others() -> Iterator[int]:
    """The other processes that carry this run's name. Processes that have ended have no environment."""
    name = f"{RUN}={os.environ[RUN]}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int(folder.name) != os.getpid() and name in (folder / "environ").read_bytes().split(b"\0"):
                yield int(folder.name)
