"""git's objects as bytes: what a tree holds, and a pack of new objects. So one process of git reads or writes many.

The formats are those of git's own documentation (gitformat-pack). Names are SHA-1: ``release.ledger`` takes no other.
"""

import hashlib
import struct
import zlib
from collections.abc import Iterable, Mapping
from typing import NamedTuple

REGULAR = ("100644", "100755")  # modes of files that are no links
_KINDS = {"040000": "tree", "160000": "commit"}
_PACKED = {"tree": 2, "blob": 3}


class Entry(NamedTuple):
    """What a tree holds at a path. ``name`` is the hash of the object."""

    mode: str
    kind: str
    name: str

    @property
    def regular(self) -> bool:
        """Whether it is a file, and no link."""
        return self.mode in REGULAR


class Object(NamedTuple):
    """An object. ``name`` is its hash."""

    kind: str
    name: str
    data: bytes


def made(kind: str, data: bytes) -> Object:
    """A new object."""
    return Object(
        kind, hashlib.sha1(b"%s %d\0" % (kind.encode(), len(data)) + data, usedforsecurity=False).hexdigest(), data
    )


def entries(tree: bytes) -> dict[str, Entry]:
    """The entries of a tree, as ``git ls-tree`` lists them."""
    found, start = dict[str, Entry](), 0
    while start < len(tree):
        end = tree.index(b"\0", start)
        number, _, name = tree[start:end].partition(b" ")
        start = end + 21
        mode = number.decode().zfill(6)
        if mode.startswith("100"):  # old versions of git wrote other permissions, and new ones read two
            mode = REGULAR[bool(int(mode, 8) & 0o100)]
        found[name.decode(errors="surrogateescape")] = Entry(
            mode, _KINDS.get(mode, "blob"), tree[end + 1 : start].hex()
        )
    return found


def tree(held: Mapping[str, Entry]) -> Object:
    """The tree with these entries, in git's order: a folder's name counts as if it ended with a slash."""
    rows = sorted(
        (name.encode(errors="surrogateescape") + b"/" * (entry.kind == "tree"), entry) for name, entry in held.items()
    )
    data = (
        b"%s %s\0%s" % (entry.mode.lstrip("0").encode(), name.removesuffix(b"/"), bytes.fromhex(entry.name))
        for name, entry in rows
    )
    return made("tree", b"".join(data))


def pack(objects: Iterable[Object]) -> bytes:
    """A pack of blobs and trees, for ``git unpack-objects``."""
    wanted = {each.name: each for each in objects}
    parts = [b"PACK", struct.pack(">II", 2, len(wanted))]
    for each in wanted.values():
        size, head = len(each.data) >> 4, bytearray([_PACKED[each.kind] << 4 | len(each.data) & 0xF])
        while size:
            head[-1] |= 0x80
            head.append(size & 0x7F)
            size >>= 7
        parts += [bytes(head), zlib.compress(each.data)]
    whole = b"".join(parts)
    return whole + hashlib.sha1(whole, usedforsecurity=False).digest()
