"""What a process took: seconds, the most memory, and what it printed."""

import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


class Took(NamedTuple):
    """Seconds from start to end, peak bytes of memory, standard output."""

    seconds: float
    peak: int
    output: str


def run(command: Sequence[str], memory: str = "VmHWM") -> Took:
    """Run a process and sample its memory every 20 ms.

    ``memory`` is a field of /proc/PID/status, summed over the process and its descendants. ``RssAnon`` leaves out the
    page cache that a mapped file uses, since the kernel takes it back at will.
    """
    os.sync()  # The last run's writes must not slow this one.
    peak = 0
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=errors)
        try:
            while process.poll() is None:
                peak = max(peak, _bytes(process.pid, memory))
                time.sleep(0.02)
        except BaseException:
            process.kill()
            raise
        seconds = time.perf_counter() - started
        output.seek(0)
        errors.seek(0)
        if process.returncode:
            raise SystemExit(
                f"{' '.join(command[:6])} … ended with {process.returncode}: {errors.read()[-2000:]}"
            )
        return Took(seconds, peak, output.read())


def _bytes(pid: int, field: str) -> int:
    """Return the memory of a process and its descendants; 0 for one that has ended."""
    total = 0
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                total = int(line.split()[1]) * 1024
        for task in Path(f"/proc/{pid}/task").iterdir():
            total += sum(
                _bytes(int(child), field) for child in (task / "children").read_text().split()
            )
    except OSError:
        pass
    return total
