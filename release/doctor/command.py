"""Other programs of this machine, asked with a deadline."""

import subprocess
from pathlib import Path

from release.adapters import process

DEADLINE = 5  # seconds for anything that answers over a network


def ask(command: list[str], deadline: float = DEADLINE, folder: Path | None = None) -> str | None:
    """Standard output of a command, stripped; None when it fails, hangs or is not there."""
    try:
        done = process.run(command, deadline=deadline, cwd=folder)
        return done.stdout.decode().strip() if done.returncode == 0 else None
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return None
