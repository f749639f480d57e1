"""Ctrl-C ends a run of the tests within seconds and leaves no process of it.

pytest-xdist alone waits up to 15 s for each worker and then kills it, and what the worker had started goes on. Here every
process of a run carries the run's name in its environment. An interrupted worker takes down its fixtures and ends. What
is left when all workers have ended, or after ``GRACE`` seconds, is killed.
"""

import contextlib
import gc
import os
import signal
import sys
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
_has_workers = _interrupted = False


def pytest_sessionstart(session: pytest.Session) -> None:
    """Note whether this process starts workers."""
    global _has_workers
    _has_workers = session.config.pluginmanager.has_plugin("dsession")


@pytest.hookimpl(tryfirst=True)
def pytest_keyboard_interrupt() -> None:
    """End the workers and all that they started."""
    global _interrupted
    _interrupted = True
    gc.disable()  # Pytest parses the sources of the traceback, and each collection goes over all libraries.
    if _has_workers:
        deadline = time.monotonic() + GRACE
        while any(_parent(process) == os.getpid() for process in others()) and time.monotonic() < deadline:
            time.sleep(0.05)
        kill_others()


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    """End what the fixtures left, and then this process, without the seconds in which libraries are taken apart."""
    if not _interrupted:
        return
    if _WORKER not in os.environ:
        kill_others()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(pytest.ExitCode.INTERRUPTED)


def kill_others() -> None:
    """Kill the other processes of this run until there is none."""
    for _ in range(100):
        processes = list(others())
        if not processes:
            break
        for process in processes:
            with contextlib.suppress(OSError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.05)


def others() -> Iterator[int]:
    """The other processes that carry this run's name. Processes that have ended have no environment."""
    name = f"{RUN}={os.environ[RUN]}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int(folder.name) != os.getpid() and name in (folder / "environ").read_bytes().split(b"\0"):
                yield int(folder.name)


def _parent(process: int) -> int:
    """The process that started this one; 0 if it has ended."""
    try:
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0
