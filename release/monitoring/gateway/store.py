"""Stores captured requests: a bounded queue, a thread that writes, files of an hour, and their way to an object store.

``offer`` never waits and never fails. What does not fit in the queue, cannot be made a row or cannot be written is
dropped and counted. So is what is too large, but apart: whoever sends that is no fault of the store. Files are always
written in a local folder. Where the captures belong to a URL, another thread moves files there once they are complete;
while it cannot, they stay, up to MOST_SPOOLED bytes.
"""

import fcntl
import os
import secrets
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path

from checks.formats.captures import CLOSED, OPEN
from checks.process.text import redact
from release.monitoring.gateway.metrics import CounterName
from release.monitoring.gateway.rows import Exchange, TooLarge, row

MOST_QUEUED = 64 << 20  # bytes of requests and answers that wait
MOST_FILE = 64 << 20  # bytes, then another file of the same hour begins
MOST_SPOOLED = 1 << 30
_BATCH, _PAUSE = 200, 0.2  # rows, and seconds between batches
_RETRY = 10.0  # seconds between looks for files to move

Count = Callable[[CounterName, int, str | None], None]


class CaptureWriter:
    """``folder``: where files are written. ``count``: called with numbers of rows by release, from any thread.

    ``secret``: see ``rows.row``.
    """

    def __init__(
        self,
        folder: Path,
        environment: str,
        share: float,
        count: Count,
        say: Callable[[str], None],
        url: str | None = None,
        secret: bytes | None = None,
    ) -> None:
        self._environment, self._share, self._secret = environment, share, secret
        self._count, self._say = count, say
        self._waiting: deque[Exchange] = deque()
        self._bytes = 0
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._files = _Files(folder, environment)
        self._mover = _Mover(folder, url, say) if url else None
        self._told = 0.0
        self._thread = threading.Thread(target=self._run, name="captures", daemon=True)

    def start(self) -> None:
        """Close the files that processes which were killed left open, and begin. Raises OSError."""
        self._files.recover()
        self._thread.start()
        if self._mover:
            self._mover.start()

    def offer(self, exchange: Exchange) -> None:
        """Queue a request that ended. Never waits, never raises."""
        if exchange.is_large:
            self._count("captures_too_large", 1, exchange.release)
            return
        with self._lock:
            fits = self._bytes + exchange.size <= MOST_QUEUED and not self._ending.is_set()
            if fits:
                self._waiting.append(exchange)
                self._bytes += exchange.size
        if not fits:
            self._count("captures_dropped", 1, exchange.release)

    def stop(self, seconds: float) -> None:
        """Write what waits, close the file, and move files for at most ``seconds``."""
        deadline = time.monotonic() + seconds
        self._ending.set()
        self._thread.join(seconds)
        with self._lock:
            left = list(self._waiting)
            self._waiting.clear()
        self._count_each("captures_dropped", left)
        if self._mover:
            self._mover.stop(max(0.0, deadline - time.monotonic()))

    def _run(self) -> None:
        while True:
            ending = self._ending.wait(_PAUSE)
            while batch := self._take():
                self._write(batch)
            try:
                self._files.close_if_over(always=ending)
            except OSError as error:
                self._tell(f"captures: {error.strerror or error}")
            if ending:
                return

    def _take(self) -> list[Exchange]:
        with self._lock:
            batch = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
            self._bytes -= sum(exchange.size for exchange in batch)
        return batch

    def _write(self, batch: list[Exchange]) -> None:
        lines, stored = list[bytes](), list[Exchange]()
        large, dropped = list[Exchange](), list[Exchange]()
        for exchange in batch:
            try:
                lines.append(
                    row(exchange, self._environment, self._share, self._secret)
                    .model_dump_json()
                    .encode()
                    + b"\n"
                )
                stored.append(exchange)
            except TooLarge:
                large.append(exchange)
            except Exception as error:  # noqa: BLE001 - a row that cannot be made must not end the thread
                dropped.append(exchange)
                self._tell(f"captures: a request could not be stored: {type(error).__name__}")
        try:
            if self._mover and self._mover.spooled() > MOST_SPOOLED:
                raise OSError(f"{MOST_SPOOLED} bytes wait to be moved")
            self._files.write(lines)
        except OSError as error:
            self._tell(f"captures: {error.strerror or error}")
            stored, dropped = [], [*dropped, *stored]
        self._count_each("captures", stored)
        self._count_each("captures_too_large", large)
        self._count_each("captures_dropped", dropped)

    def _count_each(self, name: CounterName, exchanges: Iterable[Exchange]) -> None:
        for release, number in Counter(exchange.release for exchange in exchanges).items():
            self._count(name, number, release)

    def _tell(self, what: str) -> None:
        """Say it at most once a minute."""
        if time.monotonic() - self._told > 60 or not self._told:
            self._told = time.monotonic()
            self._say(f"{redact(what)}: rows are dropped, answers are not touched")


class _Files:
    """The file of this hour below ``folder``. A failed write leaves no part of a line."""

    def __init__(self, folder: Path, environment: str) -> None:
        self._folder = folder / environment
        # Of this process alone: processes with one folder never write one file.
        self._writer = f"{socket.gethostname().split('.')[0][:60]}-{secrets.token_hex(3)}"
        self._stream: FileIO | None = None
        self._path = folder
        self._hour = ""
        self._size = self._number = 0

    def recover(self) -> None:
        """Make the folder, and close files whose writer is gone: it held a lock. A part of a last line is cut off."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for path in self._folder.rglob(f"*{OPEN}"):
            with path.open("r+b") as stream, suppress(BlockingIOError):
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                stream.truncate(stream.read().rfind(b"\n") + 1)
                path.replace(_closed(path))

    def write(self, lines: list[bytes]) -> None:
        """Append lines to the file of this hour. Raises OSError; then none of them is stored."""
        if not lines:
            return
        self.close_if_over(always=False)
        data = b"".join(lines)
        stream = self._stream or self._open()
        try:
            at = 0
            while at < len(data):  # a disk that fills up takes a part
                at += stream.write(memoryview(data)[at:])
        except OSError:
            self._stream = None
            self._cut(stream)
            raise
        self._size += len(data)

    def close_if_over(self, *, always: bool) -> None:
        """Give the file its final name if its hour is over or it is large. Raises OSError."""
        if self._stream is None or not (always or self._hour != _hour() or self._size >= MOST_FILE):
            return
        stream, self._stream = self._stream, None
        with stream:
            os.fsync(stream.fileno())
        self._path.replace(_closed(self._path))

    def _open(self) -> FileIO:
        self._hour, self._size, self._number = _hour(), 0, self._number + 1
        day, _, hour = self._hour.partition("T")
        self._path = self._folder / day / f"{hour}-{self._writer}-{self._number}{OPEN}"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._stream = self._path.open("xb", buffering=0)
        fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return self._stream

    def _cut(self, stream: FileIO) -> None:
        """Close a file that could not be written, with the lines that were stored before."""
        with stream:
            stream.truncate(self._size)
        if self._size:
            self._path.replace(_closed(self._path))
        else:
            self._path.unlink()


class _Mover:
    """Moves complete files from ``folder`` to ``url``, oldest first; each is removed here once it is there."""

    def __init__(self, folder: Path, url: str, say: Callable[[str], None]) -> None:
        self._folder, self._url, self._say = folder, url.rstrip("/"), say
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="captures-move", daemon=True)
        self._failed = False

    def start(self) -> None:
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """Move what is complete now, for at most ``seconds``; the rest stays in the folder for the next start."""
        self._ending.set()
        self._thread.join(seconds)

    def spooled(self) -> int:
        """Bytes that wait."""
        size = 0
        for path in self._folder.rglob(f"*{CLOSED}"):
            with suppress(FileNotFoundError):  # moved meanwhile
                size += path.stat().st_size
        return size

    def _run(self) -> None:
        ending = False
        while not ending:
            ending = self._ending.wait(_RETRY)
            for path in sorted(self._folder.rglob(f"*{CLOSED}")):
                try:
                    self._move(path)
                    self._failed = False
                except Exception as error:  # noqa: BLE001 - each file system of fsspec has errors of its own
                    if not self._failed:
                        why = getattr(error, "strerror", None) or type(error).__name__
                        self._say(
                            f"captures: cannot be moved: {redact(str(why))}: they stay in {self._folder}"
                        )
                    self._failed = True
                    break

    def _move(self, path: Path) -> None:
        from fsspec.core import url_to_fs

        system, root = url_to_fs(self._url)
        target = f"{root}/{path.relative_to(self._folder).as_posix()}"
        system.makedirs(target.rpartition("/")[0], exist_ok=True)
        system.put_file(str(path), target)
        if system.size(target) != path.stat().st_size:
            raise OSError("has another size there")
        path.unlink()


def _closed(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(OPEN) + CLOSED)


def _hour() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H")
