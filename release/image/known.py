"""Remembers which files were hashed on this machine, so that unchanged files are not hashed again."""

import contextlib
import json
import stat
import threading
from pathlib import Path

from checks import files

State = list[int]  # inode, time of the last change of the file or its metadata in ns, size in bytes


class Known:
    """Paths with the state of their inodes, stored in ``path``; None: nothing is stored.

    Every write to a file changes the state, and so does a new file in its place. A damaged or unreadable store is
    empty.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lock = threading.Lock()

    def has(self, file: Path) -> bool:
        """Whether ``file`` still has the recorded state."""
        now = state(file)
        return now is not None and self._read().get(str(file.absolute())) == now

    def note(self, file: Path, then: State | None) -> None:
        """Record that ``file`` was hashed in the state ``then``. Deleted files are forgotten.

        If the store cannot be written, the file is hashed again the next time.
        """
        if self._path is None:
            return
        with self._lock, contextlib.suppress(OSError):
            kept = {name: value for name, value in self._read().items() if Path(name).exists()}
            # In ASCII: paths are any bytes.
            files.write_text(self._path, json.dumps(kept | {str(file.absolute()): then}, indent=1) + "\n")

    def _read(self) -> dict[str, State]:
        if self._path is None:
            return {}
        try:
            found = json.loads(self._path.read_bytes())
        except (OSError, ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}


def state(file: Path) -> State | None:
    """The state of a file that changes with its bytes; None if it is not a regular file."""
    try:
        found = file.lstat()
    except OSError:
        return None
    return [found.st_ino, found.st_ctime_ns, found.st_size] if stat.S_ISREG(found.st_mode) else None
