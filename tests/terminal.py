"""A real terminal of a given width: a pseudo-terminal, as tmux and ssh use it."""

import fcntl
import os
import pty
import struct
import subprocess
import termios
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tests.conftest import REPOSITORY


def on_terminal(command: Sequence[str], width: int, cwd: Path = REPOSITORY, **env: str) -> str:
    """What ``command`` writes to a terminal ``width`` characters wide; it has ended then."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
    kept = {k: v for k, v in os.environ.items() if k not in ("CI", "COLUMNS", "LINES", "NO_COLOR")}
    given = kept | {"TERM": "xterm-256color", "PYTHONPATH": str(REPOSITORY)} | env
    with subprocess.Popen(command, cwd=cwd, env=given, stdin=theirs, stdout=theirs, stderr=theirs):
        os.close(theirs)
        seen = b""
        with suppress(OSError):  # EIO: nobody has the other end open any more
            while more := os.read(ours, 1 << 16):
                seen += more
    os.close(ours)
    return seen.decode().replace("\r\n", "\n")
