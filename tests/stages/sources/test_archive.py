"""Unpacking a part of a zip archive that cannot be trusted."""

import shutil
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from checks.process.errors import MachineRefused, SourceRefused
from stages.sources import archive


def zipped(path: Path, entries: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as target:
        for name, body in entries.items():
            target.writestr(name, body)
    return path


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "target"
    folder.mkdir()
    return folder


def unpacked(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_only_the_folder_that_was_asked_for_is_unpacked_by_its_own_paths(tmp_path: Path, target: Path) -> None:
    source = zipped(tmp_path / "a.zip", {"a/b/x": b"1", "a/b/c/ü 😀": b"2", "a/bc": b"3", "z": b"4", "a/b/d/": b""})
    assert archive.extract(source, "a/b", target) == target
    assert unpacked(target) == {"x": b"1", "c/ü 😀": b"2"}


def test_a_single_file_is_unpacked_by_its_name(tmp_path: Path, target: Path) -> None:
    source = zipped(tmp_path / "a.zip", {"a/model.gguf": b"1", "a/model.gguf.txt": b"2"})
    assert archive.extract(source, "a/model.gguf", target) == target / "model.gguf"
    assert unpacked(target) == {"model.gguf": b"1"}


@pytest.mark.parametrize("name", ["a/../../evil", "a/./b", "a//etc/evil", "a/..\\evil", "a/x\ny"])
def test_a_name_that_leaves_its_folder_is_refused(tmp_path: Path, target: Path, name: str) -> None:
    with pytest.raises(SourceRefused, match="leaves its folder"):
        archive.extract(zipped(tmp_path / "a.zip", {name: b"1"}), "a", target)
    assert unpacked(target) == {}
    assert not (tmp_path / "evil").exists()


def linked(path: Path) -> None:
    link = zipfile.ZipInfo("a/link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "w") as source:
        source.writestr(link, "/etc/passwd")


def doubled(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as source:
        source.writestr("a/x", "1")
        with pytest.warns(UserWarning, match="Duplicate"):
            source.writestr("a/x", "2")


def damaged(path: Path) -> None:
    body = zipped(path, {"a/x": b"some words to store"}, zipfile.ZIP_STORED).read_bytes()
    path.write_bytes(body.replace(b"some words", b"same words"))


def encrypted(path: Path) -> None:
    body = bytearray(zipped(path, {"a/x": b"1"}, zipfile.ZIP_STORED).read_bytes())
    for header, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        body[body.index(header) + offset] |= 1  # the flag of encryption
    path.write_bytes(body)


NEAR = {"azure/cli/command_modules/x": b"1"}
REFUSED: dict[str, tuple[Callable[[Path], object], str, str]] = {  # what is made, what is asked for, what is said
    "a path with a near one": (lambda path: zipped(path, NEAR), "azure/cli/comand_modules", r"holds no 'azure/cli/comand_modules'.*azure/cli/command_modules"),
    "a path with none near": (lambda path: zipped(path, NEAR), "q", r"holds no 'q'; name a path that it has, such as azure"),
    "a symbolic link": (linked, "a", "is a link"),
    "a name that is there twice": (doubled, "a", "'a/x' is there twice"),
    "an absurd size": (lambda path: zipped(path, {"a/zeros": bytes(120_000_000)}), "a", r"120,000,000 bytes, over 100 times its own size"),
    "no archive": (lambda path: path.write_bytes(b"not a zip"), "a", "cannot be unpacked"),
    "a damaged file": (damaged, "a", "cannot be unpacked"),
    "an encrypted file": (encrypted, "a", "cannot be unpacked"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_an_archive_that_cannot_be_trusted_is_refused(tmp_path: Path, target: Path, what: str) -> None:
    make, path, says = REFUSED[what]
    make(tmp_path / "a.zip")
    with pytest.raises(SourceRefused, match=says):
        archive.extract(tmp_path / "a.zip", path, target)
    if what != "a damaged file":  # it is found to be so as it is read
        assert unpacked(target) == {}


def test_a_disk_that_is_too_small_is_refused(tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = zipped(tmp_path / "a.zip", {"a/x": b"12345"})
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 5, 4))
    with pytest.raises(MachineRefused, match="5 bytes to unpack, 4 free; free disk space"):
        archive.extract(source, "a", target)
