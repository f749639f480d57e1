"""Identifies the process that started a server, so that leftovers of killed runs, and nothing else, are removed."""

import os
import socket
import subprocess
from pathlib import Path


def of(pid: int) -> str:
    """A process by host, name space, number and start time, which is unique. Empty if it does not exist."""
    started = _started(pid)
    return f"{socket.gethostname()} {_space()} {pid} {started}" if started else ""


def lives(owner: str) -> bool:
    """Whether the process still runs. For a process on another host, or an unreadable name, True is assumed."""
    host, space, pid, started = [*owner.split(" ", 3), "", "", "", ""][:4]
    if (host, space) != (socket.gethostname(), _space()) or not pid.isdecimal():
        return True
    return _started(int(pid)) == started


def _started(pid: int) -> str:
    """Its start time: in ticks of this boot from /proc, else from ``ps``. Empty if it does not exist or is a zombie."""
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
    """The name space of process numbers: each container has its own."""
    try:
        return str(Path("/proc/self/ns/pid").readlink()) or "-"
    except OSError:
        return "-"


def self() -> str:
    """This process."""
    return of(os.getpid())
