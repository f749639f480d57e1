"""Runs other programs of this machine with a time limit."""

import subprocess
from pathlib import Path

from release.adapters import process

DEADLINE = 5  # seconds for anything that answers over a network


def ask(command: list[str], deadline: float = DEADLINE, folder: Path | None = None) -> str | None:
    """Return the stripped standard output of a command; None if it fails, hangs or does not exist."""
    try:
        done = process.run(command, deadline=deadline, cwd=folder)
        return done.stdout.decode().strip() if done.returncode == 0 else None
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return None
