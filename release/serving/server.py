"""What `lockstep verify` needs of a running server, however it was started."""

import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Literal, NamedTuple, NoReturn, Protocol

from tqdm import tqdm

from checks.errors import ServingRefused

LAST_LINES = 20
_WIDTH = 300  # characters of a line of a log
_PAUSE = 0.2
_COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


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
        """None while it runs; else its exit code and the last lines of its log."""
        ...

    def log(self, lines: int = 40) -> str:
        """The last lines of its log; empty where it has none that can be read."""
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
    with tqdm(desc="the server starts", bar_format="{desc} {elapsed}", disable=None) as bar:
        while True:
            if gone := server.gone():
                raise ServingRefused(
                    f"the server ended before it was ready: {gone}", "mend what its log says", last(server)
                )
            if ready():
                return time.monotonic() - began
            if time.monotonic() - began > deadline:
                raise ServingRefused(
                    f"the server was not ready after {deadline:g} s",
                    "raise serve.verify.start_seconds, or mend what its log says",
                    last(server),
                )
            bar.update()
            time.sleep(_PAUSE)


def last(server: Server) -> tuple[str, ...]:
    """The last lines of its log."""
    return tuple(server.log(LAST_LINES).splitlines())


def tail(log: bytes, lines: int) -> str:
    """The last lines of a log: printable, without colours and empty lines, none longer than a person reads."""
    text = _COLOURS.sub("", log.decode(errors="replace"))
    found = [line.rstrip() for line in re.split(r"[\r\n]+", text) if line.strip()][-lines:]
    return "\n".join("".join(c if c.isprintable() else "·" for c in line[:_WIDTH]) for line in found)


def ending(code: int, log: str) -> str:
    """How ``Server.gone`` says it, on one line."""
    lines = " / ".join(log.splitlines()[-5:])
    return f"exit code {code}" + (f"; its log ends: {lines}" if lines else "; its log is empty")


@contextmanager
def unwinding() -> Iterator[None]:
    """SIGTERM and SIGHUP interrupt as Ctrl-C does, so that whatever was started is closed. In the main thread alone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
