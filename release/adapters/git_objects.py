"""The objects of a repository, from one ``git cat-file --batch`` that stays: a promotion reads some hundred of them.

A process is kept for each of the last few repositories. One question is asked at a time. A process that did not finish
an answer, as after Ctrl-C, is ended. A forked process starts processes of its own.
"""

import atexit
import os
import re
import select
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from release.adapters import process

_KEPT = 4  # processes: a command reads its work tree's repository, and that of its remote if it is a folder
# Git's other answers are missing, ambiguous and the like.
_FOUND = re.compile(rb"([0-9a-f]{40}|[0-9a-f]{64}) (commit|tree|blob|tag) ([0-9]+)")
_LAST_WORDS = 4096  # bytes
_PATIENCE = 5.0  # seconds that a question may take at the end


class Object(NamedTuple):
    """An object of git. ``name`` is its hash, ``kind`` commit, tree, blob or tag."""

    name: str
    kind: str
    data: bytes


class EndedError(Exception):
    """git ended before it had answered. ``said``: what it printed on standard error."""

    def __init__(self, said: str) -> None:
        super().__init__(said)
        self.said = said


def _unnamed() -> IO[bytes]:
    """A file for what git says on standard error: in memory where that is possible, since no disk is needed to read."""
    if sys.platform == "linux":
        return os.fdopen(os.memfd_create("git"), "w+b")
    return tempfile.TemporaryFile()


class _Reader:
    """One process. It answers one name after another."""

    def __init__(
        self, command: Sequence[str], folder: Path, environment: Mapping[str, str]
    ) -> None:
        self._errors = _unnamed()
        pipe = subprocess.PIPE
        self._git = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=self._errors, bufsize=0, start_new_session=True,
            cwd=folder, env=environment,
        )  # fmt: skip
        assert self._git.stdin is not None
        assert self._git.stdout is not None
        self._asks, self._says = self._git.stdin.fileno(), self._git.stdout.fileno()
        self._begun = bytearray()  # Bytes that came after the answer that was read last.

    def read(self, names: Sequence[str], until: float | None) -> Iterator[Object | None]:
        """Give an answer for each name. Some names are written together: git then seldom waits for this process."""
        questions = [name.encode(errors="surrogateescape") + b"\n" for name in names]
        # No more than a pipe always takes: git may be waiting until its answers are read.
        count = max(1, select.PIPE_BUF // max(map(len, questions), default=1))
        for start in range(0, len(questions), count):
            together = questions[start : start + count]
            asked = memoryview(b"".join(together))
            try:
                while asked:
                    asked = asked[os.write(self._asks, asked) :]
            except BrokenPipeError as error:
                raise self._ended() from error
            for _ in together:
                yield self._answer(until)

    def _answer(self, until: float | None) -> Object | None:
        begun = self._begun
        while (line := begun.find(b"\n") + 1) == 0:
            begun += self._more(until)
        header = _FOUND.fullmatch(bytes(begun[: line - 1]))
        del begun[:line]
        if not header:
            return None
        size = int(header[3])
        while len(begun) <= size:  # a line break follows
            begun += self._more(until)
        data = bytes(begun[:size])
        del begun[: size + 1]
        return Object(header[1].decode(), header[2].decode(), data)

    def _more(self, until: float | None) -> bytes:
        if until is not None:
            ready = select.poll()
            ready.register(self._says, select.POLLIN)
            if not ready.poll(max(0.0, until - time.monotonic()) * 1000):
                raise TimeoutError
        if not (some := os.read(self._says, 1 << 20)):
            raise self._ended()
        return some

    def _ended(self) -> EndedError:
        self._errors.seek(0)
        return EndedError(self._errors.read(_LAST_WORDS).decode(errors="replace"))

    def close(self) -> None:
        """End it, and the fetch that it may have started."""
        process.end(self._git)
        self._errors.close()

    def leave(self) -> None:
        """Let go of a process that the parent of this one started."""
        for stream in (self._git.stdin, self._git.stdout, self._errors):
            if stream:
                stream.close()
        self._git.returncode = 0  # it is not ours to wait for


_readers: dict[object, _Reader] = {}  # the one that was used last is the last
_asking = threading.Lock()


def read(
    command: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    names: Sequence[str],
    deadline: float | None,
) -> list[Object | None]:
    """Return what each name means, such as a hash or COMMIT^{tree}; None for what is not here, or not one object.

    ``command`` is cat-file with its options. No name may hold a line break. Raises OSError when it does not start,
    EndedError when it ends too early, TimeoutError after ``deadline`` seconds.
    """
    until = None if deadline is None else time.monotonic() + deadline
    if not _asking.acquire(timeout=-1 if deadline is None else deadline):
        raise TimeoutError
    try:
        key = (*_identity(folder), *command, *sorted(environment.items()))
        if kept := _readers.pop(key, None):
            try:
                return _answers(key, kept, names, until)
            except EndedError:  # somebody ended it since it was asked last
                pass
        return _answers(key, _Reader(command, folder, environment), names, until)
    finally:
        _asking.release()


def repository(folder: Path) -> Path | None:
    """The nearest ``.git`` at or above ``folder``; None where there is none, as in a bare repository."""
    if (here := folder / ".git").exists():
        return here
    return next(
        (above / ".git" for above in folder.resolve().parents if (above / ".git").exists()), None
    )


def _identity(folder: Path) -> tuple[object, ...]:
    """Return what tells a repository from another that is, or was, asked about by the same path."""
    status = (repository(folder) or folder).stat()
    return folder.absolute(), status.st_dev, status.st_ino


def _answers(
    key: object, reader: _Reader, names: Sequence[str], until: float | None
) -> list[Object | None]:
    """The answers of a process that is not kept, which then is: if it gave them all."""
    try:
        answers = list(reader.read(names, until))
    except BaseException:
        reader.close()
        raise
    _readers[key] = reader
    while len(_readers) > _KEPT:
        _readers.pop(next(iter(_readers))).close()
    return answers


@atexit.register
def close() -> None:
    """End all of them."""
    if _asking.acquire(timeout=_PATIENCE):  # otherwise they end with this process
        while _readers:
            _readers.popitem()[1].close()
        _asking.release()


def _after_fork() -> None:
    global _asking
    _asking = threading.Lock()  # another thread may have held it
    while _readers:
        _readers.popitem()[1].leave()


os.register_at_fork(after_in_child=_after_fork)
