"""The objects of a repository, from one ``git cat-file --batch`` that stays: a promotion reads some hundred of them.

An object is its bytes by its hash, so that it matters little when the process was started. A process is kept for the
last few folders that were asked about, and is not shared with what this process forks.
"""

import atexit
import os
import re
import select
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

_KEPT = 4  # processes: a command reads its work tree's repository, and that of its remote if it is a folder
_AT_ONCE = 8  # names: as many long ones as a pipe holds, or both sides would wait for each other
_FOUND = re.compile(rb"([0-9a-f]{40,64}) (commit|tree|blob|tag) ([0-9]+)")  # otherwise: missing, ambiguous and others
_Key = tuple[Path, tuple[str, ...], tuple[tuple[str, str], ...]]


class Object(NamedTuple):
    """An object of git. ``name`` is its hash, ``kind`` commit, tree, blob or tag."""

    name: str
    kind: str
    data: bytes


class EndedError(Exception):
    """git ended before its answer did."""


class _Reader:
    """One process. It answers one name after another."""

    def __init__(self, command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
        pipe = subprocess.PIPE
        self._git = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, bufsize=0, start_new_session=True,
            cwd=folder, env=environment,
        )  # fmt: skip
        assert self._git.stdin is not None
        assert self._git.stdout is not None
        self._asks, self._says = self._git.stdin.fileno(), self._git.stdout.fileno()
        self._begun = b""  # what came after the line that was read last
        self.lock = threading.Lock()

    def read(self, names: Sequence[str], until: float | None) -> Iterator[Object | None]:
        for start in range(0, len(names), _AT_ONCE):
            some = names[start : start + _AT_ONCE]
            try:
                os.write(self._asks, "".join(f"{name}\n" for name in some).encode(errors="surrogateescape"))
            except BrokenPipeError as error:
                raise EndedError from error
            for _ in some:
                yield self._answer(until)

    def _answer(self, until: float | None) -> Object | None:
        while b"\n" not in self._begun:
            self._begun += self._more(until)
        head, _, self._begun = self._begun.partition(b"\n")
        if not (found := _FOUND.fullmatch(head)):
            return None
        data, size = bytearray(self._begun), int(found[3])
        while len(data) <= size:  # a line break follows
            data += self._more(until)
        self._begun = bytes(data[size + 1 :])
        return Object(found[1].decode(), found[2].decode(), bytes(data[:size]))

    def _more(self, until: float | None) -> bytes:
        if until is not None:
            ready = select.poll()
            ready.register(self._says, select.POLLIN)
            if not ready.poll(max(0.0, until - time.monotonic()) * 1000):
                raise TimeoutError
        if not (some := os.read(self._says, 1 << 20)):
            raise EndedError
        return some

    def close(self) -> None:
        """End it."""
        self._git.kill()  # it only reads
        self._git.communicate()

    def leave(self) -> None:
        """Let go of a process that the parent of this one started."""
        for pipe in (self._git.stdin, self._git.stdout):
            if pipe:
                pipe.close()
        self._git.returncode = 0  # it is not ours to wait for


_readers = dict[_Key, _Reader]()  # the one that was used last is the last
_choosing = threading.Lock()


def read(
    command: Sequence[str], folder: Path, environment: Mapping[str, str], names: Sequence[str], deadline: float | None
) -> list[Object | None]:
    """What each name means, such as a hash or COMMIT^{tree}; None for what is not here, or not one object.

    ``command`` is cat-file with its options. No name may hold a line break. Raises OSError when it does not start,
    EndedError when it ends too early, TimeoutError after ``deadline`` seconds.
    """
    key = (folder, tuple(command), tuple(sorted(environment.items())))
    with _choosing:
        reader = _readers.pop(key, None) or _Reader(command, folder, environment)
        _readers[key] = reader
        while len(_readers) > _KEPT:
            _readers.pop(next(iter(_readers))).close()
    until = None if deadline is None else time.monotonic() + deadline
    try:
        with reader.lock:
            return list(reader.read(names, until))
    except BaseException:  # its next answer would be to this question
        with _choosing:
            if _readers.get(key) is reader:
                del _readers[key]
        reader.close()
        raise


@atexit.register
def close() -> None:
    """End all of them."""
    while _readers:
        with suppress(KeyError):
            _readers.popitem()[1].close()


def _after_fork() -> None:
    global _choosing
    _choosing = threading.Lock()  # another thread may have held it
    for reader in _readers.values():
        reader.leave()
    _readers.clear()


os.register_at_fork(after_in_child=_after_fork)
