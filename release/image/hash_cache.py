"""Remembers which files were hashed on this machine, so that unchanged files are not hashed again."""

import contextlib
import json
import stat
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from checks.storage import files

State = list[int]  # inode, time of the last change of the file or its metadata in ns, size in bytes


class Memory:
    """A JSON object stored in ``path``; None: nothing is stored. A damaged or unreadable store is empty."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lock = threading.Lock()

    def _read(self) -> dict[str, Any]:
        try:
            document = json.loads(self._path.read_bytes()) if self._path else {}
        except (OSError, ValueError, RecursionError):
            return {}
        return document if isinstance(document, dict) else {}

    def _write(self, value: Mapping[str, Any]) -> None:
        """A value that cannot be stored is computed again the next time."""
        if self._path is not None:
            with contextlib.suppress(OSError):
                # The file is ASCII, because paths are any bytes.
                files.write_text(self._path, json.dumps(value, indent=1) + "\n")


class Known(Memory):
    """Paths with the state of their inodes, which every write to a file and every replacement changes."""

    def has(self, file: Path) -> bool:
        """Whether ``file`` still has the recorded state."""
        now = state(file)
        return now is not None and self._read().get(str(file.absolute())) == now

    def note(self, file: Path, then: State | None) -> None:
        """Record that ``file`` was hashed in the state ``then``. Deleted files are forgotten."""
        with self._lock, contextlib.suppress(OSError):
            kept = {name: value for name, value in self._read().items() if Path(name).exists()}
            self._write(kept | {str(file.absolute()): then})


def state(file: Path) -> State | None:
    """The state of a file that changes with its bytes; None if it is not a regular file."""
    try:
        status = file.lstat()
    except OSError:
        return None
    return (
        [status.st_ino, status.st_ctime_ns, status.st_size]
        if stat.S_ISREG(status.st_mode)
        else None
    )
