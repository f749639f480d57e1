"""What this machine keeps of what it read: which files were hashed, and what stood for their bytes then."""

import contextlib
import json
import stat
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from checks import files

State = list[int]  # inode, time of the last change of the file or its metadata in ns, size in bytes


class Memory:
    """A JSON object in one file. Damaged or unreadable it is empty; ``path`` None: nothing is kept."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lock = threading.Lock()

    def _read(self) -> dict[str, Any]:
        try:
            found = json.loads(self._path.read_bytes()) if self._path else {}
        except (OSError, ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    def _write(self, value: Mapping[str, Any]) -> None:
        """What cannot be written is found out again the next time."""
        if self._path is not None:
            with contextlib.suppress(OSError):
                files.write_text(self._path, json.dumps(value, indent=1) + "\n")  # in ASCII: paths are any bytes


class Known(Memory):
    """Paths to the state of their inodes. Every write to a file changes its state; so does a new file in its place."""

    def has(self, file: Path) -> bool:
        """Whether ``file`` is in the state that was noted."""
        now = state(file)
        return now is not None and self._read().get(str(file.absolute())) == now

    def note(self, file: Path, then: State | None) -> None:
        """Keep that ``file`` was hashed in the state ``then``. Files that are gone are forgotten."""
        with self._lock, contextlib.suppress(OSError):
            kept = {name: value for name, value in self._read().items() if Path(name).exists()}
            self._write(kept | {str(file.absolute()): then})


def state(file: Path) -> State | None:
    """What stands for a file's bytes; None when there is no regular file."""
    try:
        found = file.lstat()
    except OSError:
        return None
    return [found.st_ino, found.st_ctime_ns, found.st_size] if stat.S_ISREG(found.st_mode) else None
