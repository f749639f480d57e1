"""Content digests of files, directories and JSON values.

A digest is written ``sha256:<64 hex>``. A directory's digest is the SHA-256 of its manifest: one line ``<sha256 hex>
<size in bytes> <path>\\n`` per regular file, with relative paths, ``/`` as separator, sorted by their UTF-8 bytes.
Names, sizes and contents count; times, modes and owners do not. Symbolic links are refused, because their target is
outside the directory. Names that a line cannot represent (``is_name``) are refused, because two directories could
otherwise have the same manifest.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from checks.process.errors import EvidenceRefused

_BLOCK = 1 << 20
# These characters end a line, are no text, or separate folders.
_NO_NAME = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\\\\]")


class FileDigest(NamedTuple):
    """SHA-256 (``sha256:<hex>``) and size in bytes of one file."""

    sha256: str
    size: int


class Tree(NamedTuple):
    """A directory's manifest: relative POSIX path to file digest, and the digest of the whole."""

    files: dict[str, FileDigest]
    digest: str

    @property
    def size(self) -> int:
        """Total bytes of all files."""
        return sum(f.size for f in self.files.values())


def of_bytes(data: bytes) -> str:
    """Digest of bytes in memory."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def canonical_json(value: Any) -> bytes:
    """Write a JSON value in its only form: sorted keys, no spaces, UTF-8. Raises ValueError for NaN and infinity."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def of_json(value: Any) -> str:
    """Digest of a JSON value in canonical form."""
    return of_bytes(canonical_json(value))


def of_file(path: Path, seen: Callable[[int], object] = lambda _: None) -> FileDigest:
    """Digest of a file, read once in blocks; ``seen`` gets the number of bytes of each block (for a progress bar).

    Raises EvidenceRefused if the file is missing, unreadable or not a regular file.
    """
    try:
        if path.is_symlink() or not path.is_file():
            raise EvidenceRefused(
                f"{path}: not a regular file", "run `./lockstep run` to make it again"
            )
        hasher, size = hashlib.sha256(), 0
        with path.open("rb", buffering=0) as stream:
            while block := stream.read(_BLOCK):
                hasher.update(block)
                size += len(block)
                seen(len(block))
    except OSError as error:
        raise EvidenceRefused(
            f"{path}: {error.strerror or error}", "make it readable, or run `./lockstep run`"
        ) from error
    return FileDigest(f"sha256:{hasher.hexdigest()}", size)


def is_name(path: str) -> bool:
    """Whether a manifest can represent this relative path: one line of text with one meaning, inside its folder."""
    return not _NO_NAME.search(path) and all(
        part not in ("", ".", "..") for part in path.split("/")
    )


def of_manifest(files: Mapping[str, FileDigest]) -> str:
    """Digest of a manifest, as the module's docstring defines it. Raises EvidenceRefused for an invalid path."""
    if bad := [path for path in files if not is_name(path)]:
        raise EvidenceRefused(
            f"{bad[0]!r}: cannot be written in a manifest", "rename it: printable text, no `\\`"
        )
    ordered = sorted(files.items(), key=lambda item: item[0].encode())
    lines = (
        f"{digest.sha256.removeprefix('sha256:')}  {digest.size}  {path}\n"
        for path, digest in ordered
    )
    return of_bytes("".join(lines).encode())


def of_tree(folder: Path, seen: Callable[[int], object] = lambda _: None) -> Tree:
    """Digest of every regular file below ``folder``.

    Raises EvidenceRefused if the folder is missing or empty, or contains a link, an unreadable file or an invalid path.
    """
    if folder.is_symlink() or not folder.is_dir():
        raise EvidenceRefused(f"{folder}: not a directory", "run `./lockstep run` to make it again")
    files = {name: of_file(folder / name, seen) for name in sorted(_names(folder))}
    if not files:
        raise EvidenceRefused(f"{folder}: is empty", "run `./lockstep run` to make it again")
    return Tree(files, of_manifest(files))


def _names(folder: Path, below: str = "") -> Iterator[str]:
    """Yield the files of a folder by their paths from it, without reading them. Raises as ``of_tree``."""
    try:
        entries = [*os.scandir(folder / below)]
    except OSError as error:
        raise EvidenceRefused(
            f"{folder / below}: {error.strerror}", "make it readable, or run `./lockstep run`"
        ) from error
    for entry in entries:
        name = f"{below}{entry.name}"
        if not is_name(name):  # before a message has it as it is
            raise EvidenceRefused(
                f"{folder}: holds the name {name!r}", "rename it: printable text, no `\\`"
            )
        if entry.is_symlink():
            raise EvidenceRefused(
                f"{folder / name}: is a symbolic link", "replace it with the file it points at"
            )
        if entry.is_dir():
            yield from _names(folder, f"{name}/")
        else:
            yield name
