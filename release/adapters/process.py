"""One run of a program, with a deadline that its helpers do not outlive either: it has a process group of its own."""

import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

_GRACE = 2.0  # seconds between the two signals that end it


def run(
    command: Sequence[str], given: bytes = b"", deadline: float | None = None, **options: Any
) -> "subprocess.CompletedProcess[bytes]":
    """Return what it printed and its exit code, with ``given`` on standard input; ``options`` are those of Popen.

    Raises OSError when it does not start, TimeoutExpired after ``deadline`` seconds.
    """
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True, **options
    )
    try:
        out, err = process.communicate(given, deadline)
    except BaseException:  # an interrupt by the user did not reach it
        end(process)
        raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def end(process: "subprocess.Popen[bytes]") -> None:
    """SIGTERM first: it then takes away its lock files, and what it has half made."""
    for ending in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, ending)
        with suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=_GRACE)
            return
