"""Which process started a server, so that what killed runs left behind is found and removed, and nothing else."""

import os
import socket
import subprocess
from pathlib import Path


def of(pid: int) -> str:
    """A process by host, name space, number and start, which no other process ever shares. Empty: it is gone."""
    started = _started(pid)
    return f"{socket.gethostname()} {_space()} {pid} {started}" if started else ""


def lives(owner: str) -> bool:
    """Whether the process still runs. Of a process elsewhere, or of words that are none, it is taken for granted."""
    host, space, pid, started = [*owner.split(" ", 3), "", "", "", ""][:4]
    if (host, space) != (socket.gethostname(), _space()) or not pid.isdecimal():
        return True
    return _started(int(pid)) == started


def _started(pid: int) -> str:
    """When it started: in ticks of this boot where there is /proc, by ``ps`` elsewhere. Empty for none or a zombie."""
    try:
        if Path("/proc/self/stat").exists():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
            return "" if fields[0] in "ZX" else f"{boot} {fields[19]}"
        command = ["ps", "-o", "lstart=", "-p", str(pid)]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


def _space() -> str:
    """Where process numbers count: a container has its own."""
    try:
        return str(Path("/proc/self/ns/pid").readlink()) or "-"
    except OSError:
        return "-"


def self() -> str:
    """This process."""
    return of(os.getpid())
