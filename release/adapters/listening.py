"""Runs a program and hands on what it prints while it runs."""

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import IO, Any, Protocol

from release.adapters import children

_TICK = 0.2  # seconds after which a listener hears that nothing was printed
_GRACE = 5.0  # seconds that a program has to end after an interrupt
_WIDTH = 200  # characters: no bar is cut


class Listener(Protocol):
    """Hears what programs print. ``terminal``: whether they are to print as for a terminal, with bars."""

    terminal: bool

    def step(self, name: str) -> None:
        """The next program begins; ``name`` is one word for what it does."""

    def hear(self, output: bytes) -> None:
        """The program printed this; empty at least every ``_TICK`` seconds in which it printed nothing."""

    def ended(self, code: int) -> None:
        """The program ended with this exit code; 130 after an interrupt."""


def listen(
    command: Sequence[str], listener: Listener, stdout: IO[bytes] | None = None, **options: Any
) -> int:
    """Run ``command`` with its output given to ``listener``; its exit code. ``options`` are those of Popen.

    ``stdout``: gets its standard output; the listener then gets standard error alone.

    An interrupt (Ctrl-C) reaches the program too; it has a few seconds to say so. Then, and if ``listener`` raises, the
    program and all that it started are ended. Raises OSError if it does not start.
    """
    reads, writes = pty.openpty() if listener.terminal else os.pipe()
    if listener.terminal:
        fcntl.ioctl(writes, termios.TIOCSWINSZ, struct.pack("HHHH", 50, _WIDTH, 0, 0))
    try:
        try:
            process = subprocess.Popen(command, stdout=stdout or writes, stderr=writes, **options)
        finally:
            os.close(writes)
        code = 130
        try:
            _hear_all(process, reads, listener)
            code = process.wait()
        except BaseException as error:
            with suppress(KeyboardInterrupt):
                if isinstance(error, KeyboardInterrupt):
                    _hear_all(process, reads, listener, time.monotonic() + _GRACE)
            children.end_started_by(process.pid)  # without DVC a stage of it would go on
            raise
        finally:
            process.kill()
            listener.ended(code)
    finally:
        os.close(reads)
    return code


def _hear_all(
    process: "subprocess.Popen[bytes]",
    reads: int,
    listener: Listener,
    deadline: float = float("inf"),
) -> None:
    """Until the program has ended, even if one that it left behind still holds its output open."""
    while time.monotonic() < deadline:
        more = b""
        if select.select([reads], [], [], _TICK)[0]:
            with suppress(OSError):  # EIO: nobody has the terminal open any more
                more = os.read(reads, 1 << 16)
            if not more:
                return
        elif process.poll() is not None:
            return
        listener.hear(more)
