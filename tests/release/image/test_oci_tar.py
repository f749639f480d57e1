"""Layers as tars: the same bytes everywhere and at every reading, of the files that they must be."""

import hashlib
import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from checks.process.errors import EvidenceRefused
from release.image import tar
from release.image.tar import Link, Member, Tar
from tests import spoil

SHARD = "models/name-0123456789ab/model.safetensors"


def _member(folder: Path, name: str, data: bytes) -> Member:
    path = folder / hashlib.sha256(name.encode()).hexdigest()
    path.write_bytes(data)
    return Member(name, path, f"sha256:{hashlib.sha256(data).hexdigest()}", len(data))


def _read(data: bytes) -> list[tuple[str, int, bytes]]:
    """Name, mode and content of every member, as Python's own reader sees them."""
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        found = []
        for member in archive:
            assert (member.uid, member.gid, member.uname, member.gname, member.mtime) == (0, 0, "", "", 0)
            content = archive.extractfile(member)
            found.append((member.name, member.mode, content.read() if content else b""))
        return found


def test_a_layer_has_the_folders_above_its_files_and_the_files_and_nothing_of_this_machine(tmp_path: Path) -> None:
    data = b"".join(Tar([_member(tmp_path, SHARD, b"weights")]).blocks())
    assert _read(data) == [("models", 0o755, b""), ("models/name-0123456789ab", 0o755, b""), (SHARD, 0o644, b"weights")]
    assert data.endswith(bytes(1024))
    assert len(data) == 6 * 512  # three headers, one block of content, two of zeros


def test_the_digest_of_a_layer_never_changes(tmp_path: Path) -> None:
    members = [_member(tmp_path, SHARD, b"weights"), _member(tmp_path, "models/name-0123456789ab/ü" + "x" * 90, b"")]
    for link, digest in (
        (None, "ae2445cf338647c45a261e296732e5650ae15e2e93b59e139d9cd2a013cf088f"),
        (Link("models/ü", "name-0123456789ab"), "af466ee1c5e70cd357339e0c6846e2ce002c6a9956b88938f13bf2a02d897ae0"),
    ):
        assert hashlib.sha256(b"".join(Tar(members, link).blocks())).hexdigest() == digest


@pytest.mark.parametrize("name", ["models/name-1", "other/ü", "models/" + "n" * 120])
@pytest.mark.parametrize("target", ["name-0123456789ab", "ü", "t" * 101])
def test_a_link_is_the_last_entry(tmp_path: Path, name: str, target: str) -> None:
    blob = Tar([_member(tmp_path, SHARD, b"weights")], Link(name, target))
    data = b"".join(blob.blocks())
    assert len(data) == blob.size
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        last = archive.getmembers()[-1]
    assert (last.name, last.linkname, last.issym(), last.mode, last.size) == (name, target, True, 0o777, 0)
    subprocess.run(["tar", "-xf", "-", "-C", tmp_path], input=data, check=True)
    assert (tmp_path / name).readlink() == Path(target)


@pytest.mark.parametrize("name", [SHARD, "models/ü/é.json", "m/" + "long" * 60, "a/b/c/d/e/f", "m/" + "ü" * 120, "top"])
@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, tar.BLOCK, tar.BLOCK + 1])
def test_other_tools_read_the_same_files_out_of_it(tmp_path: Path, name: str, size: int) -> None:
    blob = Tar([_member(tmp_path, name, b"w" * size)])
    data = b"".join(blob.blocks())
    assert len(data) == blob.size
    assert _read(data)[-1] == (name, 0o644, b"w" * size)
    out = tmp_path / "out"
    out.mkdir()
    subprocess.run(["tar", "-xf", "-", "-C", out], input=data, check=True)
    assert (out / name).read_bytes() == b"w" * size


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(sizes=st.lists(st.integers(0, 2000), min_size=1, max_size=4), broken_off=st.integers(0, 10))
def test_each_reading_gives_all_of_it(tmp_path: Path, sizes: list[int], broken_off: int) -> None:
    blob = Tar([_member(tmp_path, f"m/{i}", os.urandom(size)) for i, size in enumerate(sizes)])
    whole = b"".join(blob.blocks())
    assert len(whole) == blob.size
    for _ in zip(range(broken_off), blob.blocks(), strict=False):
        pass
    assert b"".join(blob.blocks()) == whole


def test_a_file_of_more_than_8_gib_says_its_size_in_an_extended_header(tmp_path: Path) -> None:
    path = tmp_path / "large"
    size = 8**11 + 5
    with path.open("wb") as stream:
        stream.truncate(size)  # holes: nothing is written
    blob = Tar([Member(SHARD, path, "sha256:" + "0" * 64, size)])
    head = b""
    for block in blob.blocks():
        head += block
        if len(head) > 4096:
            break
    with tarfile.open(fileobj=io.BytesIO(head + bytes(1024)), mode="r|") as archive:
        found = [archive.next() for _ in range(3)][-1]
    assert found is not None
    assert (found.name, found.size, found.mode) == (SHARD, size, 0o644)
    assert blob.size == found.offset_data + size + -size % 512 + 1024
    if shutil.which("bsdtar"):
        listed = subprocess.run(
            ["bsdtar", "-tvf", "-"], input=head, capture_output=True, text=False, check=False
        ).stdout
        assert str(size).encode() in listed


def _foldered(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (spoil.flip(), "is not the file that the verdict is about"),
        (spoil.cut(), "ends 1 bytes early"),
        (spoil.remove(), "No such file"),
        (spoil.link(), "symbolic link"),
        (spoil.pipe(), "not a regular file"),
        (_foldered, "Is a directory"),
    ],
    ids=["a bit", "cut", "gone", "a link", "a pipe", "a folder"],
)
@pytest.mark.parametrize("size", [700, 3 * tar.BLOCK])
def test_a_file_that_is_not_what_it_must_be_ends_the_layer_before_its_last_block(
    tmp_path: Path, damage: spoil.Spoil, word: str, size: int
) -> None:
    member = _member(tmp_path, SHARD, b"w" * size)
    blob = Tar([member])
    damage(member.path)
    got: list[bytes] = []
    with pytest.raises(EvidenceRefused, match=word):
        got.extend(blob.blocks())
    assert sum(map(len, got)) < blob.size - 1024


def test_a_file_that_changes_while_it_is_read_is_caught(tmp_path: Path) -> None:
    member = _member(tmp_path, SHARD, b"w" * 3 * tar.BLOCK)
    blocks = Tar([member]).blocks()
    for _ in range(4):  # three headers, one block
        next(blocks)
    with member.path.open("r+b") as stream:
        stream.seek(2 * tar.BLOCK + 17)
        stream.write(b"W")
    with pytest.raises(EvidenceRefused, match="is not the file"):
        list(blocks)


def test_a_file_that_changes_between_two_readings_is_caught(tmp_path: Path) -> None:
    member = _member(tmp_path, SHARD, b"w" * 1000)
    blob = Tar([member])
    list(blob.blocks())
    spoil.flip()(member.path)
    with pytest.raises(EvidenceRefused, match="is not the file"):
        list(blob.blocks())
