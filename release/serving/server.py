"""The interface of a running server for `lockstep verify`, however it was started."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Literal, NamedTuple, NoReturn, Protocol

from checks.process.errors import ServingRefused
from release.serving import logs
from release.serving.progress import Progress

LAST_LINES = 20
_PAUSE = 0.2


class Ended(NamedTuple):
    """How a server ended: its exit code, and the seconds since SIGTERM."""

    code: int
    seconds: float


class Server(Protocol):
    """One server of one model. ``url`` has no final slash; ``model`` is the folder that it serves.

    ``isolated``: it has no way out of its network. ``sealed``: its root file system is read-only. None: unknown.
    """

    url: str
    model: str
    isolated: bool | None
    sealed: bool | None

    @property
    def how(self) -> Literal["container", "process", "url"]:
        """How it was started."""

    def gone(self) -> str | None:
        """None while it runs; else its exit code and the reason from its log."""

    def log(self) -> bytes:
        """The last megabytes of its log; empty if it cannot be read."""

    def terminate(self, deadline: float) -> Ended | None:
        """Send SIGTERM and wait. None if it still runs after ``deadline`` seconds, or cannot be stopped from here."""

    def close(self) -> None:
        """Stop it and remove its container, network, process and folder. Can be called twice."""


def wait_until(server: Server, ready: Callable[[], bool], deadline: float) -> float:
    """Wait until ``ready`` is true; return the seconds.

    Raises ServingRefused with the last lines of the log when the server has ended or after ``deadline`` seconds.
    """
    began = time.monotonic()
    with Progress("the server starts") as bar:
        while True:
            if gone := server.gone():
                raise ServingRefused(
                    f"the server ended before it was ready: {gone}",
                    "fix what its log says",
                    last(server),
                )
            if ready():
                return time.monotonic() - began
            if time.monotonic() - began > deadline:
                raise ServingRefused(
                    f"the server was not ready after {deadline:g} s",
                    "raise serve.verify.start_seconds, or fix what its log says",
                    last(server),
                )
            bar.tick()
            time.sleep(_PAUSE)


def last(server: Server) -> tuple[str, ...]:
    """The last lines of its log."""
    return tuple(logs.tail(server.log(), LAST_LINES).splitlines())


def ending(code: int, log: bytes) -> str:
    """The result of ``Server.gone`` on one line."""
    return f"exit code {code}{logs.why(log)}"


@contextmanager
def unwinding() -> Iterator[None]:
    """Make SIGINT, SIGTERM and SIGHUP raise KeyboardInterrupt in the main thread, so that everything is closed.

    Only the first signal does: CI runners send several, and a second one must not interrupt the closing. Signals that
    this process ignores (SIGHUP under nohup) stay ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    known = {
        number: signal.getsignal(number)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    before = {number: handler for number, handler in known.items() if handler is not signal.SIG_IGN}

    def interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
        for number in before:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in before:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
