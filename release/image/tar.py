"""Layers as streamed tar files: the size is known before a byte is read, and reading can start at any offset.

The format is POSIX.1-2001 pax (IEEE Std 1003.1, "pax Interchange Format"): ustar headers, and an extended header if a
name is long or not ASCII or a file has 8 GiB or more. It is written here and not by a library, so that no Python
version changes a layer's digest. Everything that could differ between machines is fixed: owner 0, no names, time 0,
mode 0644 of files, 0755 of folders, 0777 of links.
"""

import functools
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from checks.process.errors import EvidenceRefused
from checks.storage import digest
from release.adapters.registry.documents import checked

BLOCK = 1 << 20  # bytes read at once
_RECORD = 512
_NAME = 100  # bytes of a name in a ustar header
_OCTAL_LIMIT = 8**11  # the first size that a ustar header has no room for
_END = bytes(2 * _RECORD)
_FIX = "run `./lockstep run` to make it again, and change nothing while `lockstep build` runs"


class Member(NamedTuple):
    """One file of a layer: its path in the layer, the file on disk, and its digest (``sha256:<hex>``)."""

    name: str
    path: Path
    sha256: str
    size: int


class Link(NamedTuple):
    """A symbolic link of a layer: its path, and its target relative to its own folder."""

    name: str
    target: str


class _Part(NamedTuple):
    """Bytes at one place of the tar: a header, or the content of a member."""

    data: bytes
    member: Member | None
    size: int


class Tar:
    """A Blob: the members as given, each after the folders above it, then the link, then two zero blocks.

    Every member is hashed while it is read; its last block is given only if its digest is right.
    """

    def __init__(self, members: Sequence[Member], link: Link | None = None) -> None:
        self._parts = [*_parts(members, link)]
        self.size = sum(part.size for part in self._parts)

    def blocks(self) -> Iterator[bytes]:
        """All bytes. Raises EvidenceRefused if a member is missing, is a link, or has another digest."""
        for part in self._parts:
            if part.member is None:
                yield part.data
            else:
                yield from _read(part.member)


def archive(files: Mapping[str, bytes]) -> bytes:
    """Return a tar of these files, by path, in this order."""
    members = [
        Member(name, Path(name), digest.of_bytes(data), len(data)) for name, data in files.items()
    ]
    return b"".join(
        files[part.member.name] if part.member else part.data for part in _parts(members, None)
    )


def differs(blocks: Iterable[bytes], members: Sequence[Member], link: Link | None = None) -> str:
    """How bytes from elsewhere differ from the layer of these members, without reading their files; "" if they do not.

    Nothing is unpacked. ``blocks`` is read to its end unless it differs.
    """
    source, rest = iter(blocks), b""
    for part in _parts(members, link):
        hasher, left = hashlib.sha256(), part.size
        while left:
            rest = rest or next(source, b"")
            if not rest:
                return "it ends early"
            hasher.update(memoryview(rest)[:left])
            left, rest = left - min(left, len(rest)), rest[left:]
        wanted = (
            part.member.sha256 if part.member else f"sha256:{hashlib.sha256(part.data).hexdigest()}"
        )
        if f"sha256:{hasher.hexdigest()}" != wanted:
            return (
                f"{part.member.name} is another file" if part.member else "its entries are others"
            )
    return "something follows its end" if rest or any(source) else ""


def _parts(members: Sequence[Member], link: Link | None) -> Iterator[_Part]:
    folders: set[str] = set()

    def above(name: str) -> Iterator[_Part]:
        parts = name.split("/")[:-1]
        for depth in range(1, len(parts) + 1):
            folder = "/".join(parts[:depth]) + "/"
            if folder not in folders:
                folders.add(folder)
                yield _given(_header(folder, 0, kind=b"5", mode=0o755))

    for member in members:
        yield from above(member.name)
        yield _given(_header(member.name, member.size))
        if member.size:
            yield _Part(b"", member, member.size)
        if member.size % _RECORD:
            yield _given(bytes(-member.size % _RECORD))
    if link:
        yield from above(link.name)
        yield _given(_header(link.name, 0, kind=b"2", mode=0o777, target=link.target))
    yield _given(_END)


def _given(data: bytes) -> _Part:
    return _Part(data, None, len(data))


def _header(
    name: str, size: int, *, kind: bytes = b"0", mode: int = 0o644, target: str = ""
) -> bytes:
    """The header of one entry, preceded by an extended one if ustar's fields are too small."""
    records = {
        "path": name.encode() if _is_long(name) else None,
        "linkpath": target.encode() if _is_long(target) else None,
        "size": str(size).encode() if size >= _OCTAL_LIMIT else None,
    }
    body = b"".join(
        _record(key.encode(), value) for key, value in records.items() if value is not None
    )
    extended = b""
    if body:
        extended = (
            _ustar(b"././@PaxHeader", len(body), b"x", 0o644) + body + bytes(-len(body) % _RECORD)
        )
    return extended + _ustar(
        _short(name), size if size < _OCTAL_LIMIT else 0, kind, mode, _short(target)
    )


def _is_long(name: str) -> bool:
    return len(name.encode()) > _NAME or not name.isascii()


def _short(name: str) -> bytes:
    """The part of a name that fits ustar's field; pax readers use the extended header."""
    return name.encode("ascii", "replace")[:_NAME]


def _record(key: bytes, value: bytes) -> bytes:
    """``<length> <key>=<value>\\n``; the length includes its own digits."""
    bare = len(key) + len(value) + 3
    length = bare + len(str(bare))
    if len(str(length)) > len(str(bare)):
        length += 1
    return b"%d %s=%s\n" % (length, key, value)


def _ustar(name: bytes, size: int, kind: bytes, mode: int, target: bytes = b"") -> bytes:
    """One header block of 512 bytes."""
    before = b"".join(
        (
            name.ljust(_NAME, b"\0"),
            b"%07o\0" % mode,
            b"%07o\0" % 0,
            b"%07o\0" % 0,
            b"%011o\0" % size,
            b"%011o\0" % 0,
        )
    )
    after = b"".join(
        (
            kind,
            target.ljust(_NAME, b"\0"),
            b"ustar\0",
            b"00",
            bytes(64),
            b"%07o\0" % 0,
            b"%07o\0" % 0,
            bytes(155 + 12),
        )
    )
    return before + b"%06o\0 " % (sum(before) + 8 * ord(" ") + sum(after)) + after


def _read(member: Member) -> Iterator[bytes]:
    """Yield a file's bytes, checked against the member's digest."""

    def wrong(count: int, _: str) -> EvidenceRefused:
        what = "is not the file that the verdict is about"
        if count < member.size:
            what = f"ends {member.size - count} bytes early"
        return EvidenceRefused(f"{member.path}: {what}", _FIX)

    try:
        # Do not hang on a pipe, and do not follow a link.
        handle = os.open(member.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, "rb", buffering=0) as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                raise EvidenceRefused(
                    f"{member.path}: not a regular file",
                    "replace it with the file that it points to",
                )
            blocks = iter(functools.partial(stream.read, BLOCK), b"")
            yield from checked(blocks, member.sha256, member.size, wrong)
    except OSError as error:
        raise EvidenceRefused(f"{member.path}: {error.strerror or error}", _FIX) from error
