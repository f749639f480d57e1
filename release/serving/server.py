"""A running server for `lockstep verify`, however it was started."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Literal, NamedTuple, NoReturn

from checks.process.errors import ServingRefused
from release.adapters.children import handling
from release.adapters.registry import addresses
from release.serving import logs
from release.serving.progress import Progress

LAST_LINES = 20
_PAUSE = 0.05
_TICK = 0.2


class Ended(NamedTuple):
    """How a server ended: its exit code, and the seconds since SIGTERM."""

    code: int
    seconds: float


class Server:
    """One server of one model: one that was started elsewhere, which gets requests and is never stopped.

    ``url`` has no final slash; ``model`` is the folder that it serves. ``isolated``: it has no way out of its network.
    ``sealed``: its root file system is read-only. None: unknown. ``how``: how it was started.
    """

    how: Literal["container", "process", "url"] = "url"
    isolated: bool | None = None
    sealed: bool | None = None

    def __init__(self, url: str, model: str) -> None:
        self.url, self.model = url, model

    def code(self) -> int | None:
        """Return its exit code; None while it runs, or if its state is unknown."""
        return None

    def log(self) -> bytes:
        """Return the last megabytes of its log; empty if it cannot be read."""
        return b""

    def stop(self) -> None:
        """Send SIGTERM."""

    def close(self) -> None:
        """Stop it and remove its container, network, process and folder. Can be called twice."""

    def gone(self) -> str | None:
        """Return None while it runs; else its exit code and the reason from its log."""
        code = self.code()
        return None if code is None else ending(code, self.log())

    def terminate(self, deadline: float) -> Ended | None:
        """Send SIGTERM and wait. None if it still runs after ``deadline`` seconds, or cannot be stopped from here."""
        began = time.monotonic()
        self.stop()
        while (code := self.code()) is None:
            if time.monotonic() - began > deadline:
                return None
            time.sleep(_PAUSE)
        return Ended(code, time.monotonic() - began)


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
            time.sleep(_TICK)


def last(server: Server) -> tuple[str, ...]:
    """The last lines of its log."""
    return tuple(logs.tail(server.log(), LAST_LINES).splitlines())


def ending(code: int, log: bytes) -> str:
    """Say on one line how a server ended."""
    return f"exit code {code}{logs.why(log)}"


@contextmanager
def unwinding() -> Iterator[None]:
    """Make SIGINT, SIGTERM and SIGHUP raise KeyboardInterrupt in the main thread, so that everything is closed.

    Only the first signal does: CI runners send several, and a second one must not interrupt the closing. Signals that
    this process ignores (SIGHUP under nohup) stay ignored.
    """
    numbers = [
        number
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is not signal.SIG_IGN
    ]

    def interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    with handling(numbers, interrupt):
        yield


def attach(url: str, model: str) -> Server:
    """Return the server at ``url`` (http or https; a path is kept). ``model``: the folder, as the server sees it.

    Raises ServingRefused if the URL is invalid or contains a password, which would end up in reports.
    """
    parts = addresses.http_parts(url)
    if parts is None or parts.query or parts.fragment:
        raise ServingRefused(
            f"{url!r:.200}: is not an address of a server", "write it as http://HOST:PORT"
        )
    if "@" in parts.netloc:
        raise ServingRefused(
            f"{parts.scheme}://…@{parts.hostname}: holds a password", "write it without one"
        )
    return Server(url.rstrip("/"), model)
