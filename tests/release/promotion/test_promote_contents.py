"""A layer that comes from a store is held to the files that it must be of, byte for byte, and nothing is unpacked."""

import io
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from checks.storage import digest
from release.image import tar
from release.image.tar import Link, Member, Tar

FILES = {"models/m/a.safetensors": b"a" * 5000, "models/m/empty": b"", "models/m/" + "long" * 30: b"u" * 300}
LINK = Link("models/m-123456789abc", "m")


@pytest.fixture
def members(tmp_path: Path) -> tuple[Member, ...]:
    found = []
    for number, (name, data) in enumerate(FILES.items()):
        path = tmp_path / str(number)
        path.write_bytes(data)
        found.append(Member(name, path, digest.of_bytes(data), len(data)))
    return tuple(found)


def blocks(data: bytes, size: int) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


@pytest.mark.parametrize("size", [1, 7, 512, 1 << 20])
def test_the_layer_that_a_build_makes_is_the_one(members: tuple[Member, ...], size: int) -> None:
    made = b"".join(Tar(members, LINK).blocks())
    for member in members:
        member.path.unlink()  # they are not read
    assert tar.differs(blocks(made, size), members, LINK) == ""


def flipped(at: int) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        found = bytearray(data)
        found[at] ^= 1
        return bytes(found)

    return change


def by_another_tool(data: bytes) -> bytes:
    """The same files in a tar as Python makes it."""
    out = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(data)) as source, tarfile.open(fileobj=out, mode="w") as target:
        for member in source:
            target.addfile(member, source.extractfile(member) if member.isreg() else None)
    return out.getvalue()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda _: b"", "it ends early"),
        (lambda data: data[:-1], "it ends early"),
        (lambda data: data + b"\0", "something follows its end"),
        (flipped(3 * 512 + 9), "models/m/a.safetensors is another file"),
        (flipped(100), "its entries are others"),  # the mode of a folder
        (flipped(-1), "its entries are others"),
        (by_another_tool, "its entries are others"),
    ],
)
def test_any_other_bytes_are_told(members: tuple[Member, ...], change: Callable[[bytes], bytes], why: str) -> None:
    made = b"".join(Tar(members, LINK).blocks())
    assert tar.differs(blocks(change(made), 4096), members, LINK) == why
