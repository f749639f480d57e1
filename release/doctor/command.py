"""Runs other programs of this machine with a time limit."""

import subprocess
from pathlib import Path

DEADLINE = 5  # seconds for anything that answers over a network


def ask(command: list[str], deadline: float = DEADLINE, folder: Path | None = None) -> str | None:
    """The stripped standard output of a command; None if it fails, hangs or does not exist."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=deadline, check=False, cwd=folder
        )
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
