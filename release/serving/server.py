"""What `lockstep verify` needs of a running server, however it was started."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Literal, NamedTuple, NoReturn, Protocol

from checks.errors import ServingRefused
from release.serving import logs
from release.serving.progress import Progress

LAST_LINES = 20
_PAUSE = 0.2


class Ended(NamedTuple):
    """How a server ended: its exit code, and the seconds from SIGTERM to the end."""

    code: int
    seconds: float


class Server(Protocol):
    """One server of one model. ``url`` has no final slash; ``model`` is the folder it serves from.

    ``isolated``: it was started without a way out (None: not known). ``sealed``: on a root file system that cannot be
    written (None: not known).
    """

    url: str
    model: str
    isolated: bool | None
    sealed: bool | None

    @property
    def how(self) -> Literal["container", "process", "url"]:
        """How it was started."""
        ...

    def gone(self) -> str | None:
        """None while it runs; else its exit code and why, as far as its log says."""
        ...

    def log(self) -> bytes:
        """Its log, or the last megabytes of it; empty where it has none that can be read."""
        ...

    def terminate(self, deadline: float) -> Ended | None:
        """SIGTERM, then wait. None when it still ran after ``deadline`` seconds, or cannot be ended from here."""
        ...

    def close(self) -> None:
        """End it now and leave nothing: no container, network, process or folder. May be called twice."""
        ...


def wait_until(server: Server, ready: Callable[[], bool], deadline: float) -> float:
    """Ask ``ready`` until it says yes; return the seconds that took.

    Raises ServingRefused, with the last lines of the log, as soon as the server is gone or ``deadline`` seconds passed.
    """
    began = time.monotonic()
    with Progress("the server starts") as bar:
        while True:
            if gone := server.gone():
                raise ServingRefused(
                    f"the server ended before it was ready: {gone}", "fix what its log says", last(server)
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
    """How ``Server.gone`` says it, on one line."""
    return f"exit code {code}{logs.why(log)}"


@contextmanager
def unwinding() -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP raise KeyboardInterrupt, so that whatever was started is closed. In the main thread.

    Only the first of them does: a job's runner sends several, and a second one must not break the closing. What this
    process was started to ignore (SIGHUP under nohup) stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    known = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
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
