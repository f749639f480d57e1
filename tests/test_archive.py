"""Unpacking a part of a zip archive that cannot be trusted."""

import shutil
import stat
import zipfile
from pathlib import Path

import pytest

from checks.errors import MachineRefused, SourceRefused
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


def test_a_path_that_is_absent_is_refused_and_a_near_one_is_named(tmp_path: Path, target: Path) -> None:
    source = zipped(tmp_path / "a.zip", {"azure/cli/command_modules/x": b"1"})
    with pytest.raises(SourceRefused, match=r"holds no 'azure/cli/comand_modules'.*azure/cli/command_modules"):
        archive.extract(source, "azure/cli/comand_modules", target)
    with pytest.raises(SourceRefused, match=r"holds no 'q'; name a path that it has, such as azure"):
        archive.extract(source, "q", target)


@pytest.mark.parametrize("name", ["a/../../evil", "a/./b", "a//etc/evil", "a/..\\evil", "a/x\ny"])
def test_a_name_that_leaves_its_folder_is_refused(tmp_path: Path, target: Path, name: str) -> None:
    with pytest.raises(SourceRefused, match="leaves its folder"):
        archive.extract(zipped(tmp_path / "a.zip", {name: b"1"}), "a", target)
    assert unpacked(target) == {}
    assert not (tmp_path / "evil").exists()


def test_a_symbolic_link_is_refused(tmp_path: Path, target: Path) -> None:
    link = zipfile.ZipInfo("a/link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as source:
        source.writestr(link, "/etc/passwd")
    with pytest.raises(SourceRefused, match="is a link"):
        archive.extract(tmp_path / "a.zip", "a", target)


def test_a_name_that_is_there_twice_is_refused(tmp_path: Path, target: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as source:
        source.writestr("a/x", "1")
        with pytest.warns(UserWarning, match="Duplicate"):
            source.writestr("a/x", "2")
    with pytest.raises(SourceRefused, match="'a/x' is there twice"):
        archive.extract(tmp_path / "a.zip", "a", target)


def test_an_absurd_size_is_refused_before_a_byte_is_written(tmp_path: Path, target: Path) -> None:
    source = zipped(tmp_path / "a.zip", {"a/zeros": bytes(120_000_000)})
    with pytest.raises(SourceRefused, match=r"120,000,000 bytes, over 100 times its own size"):
        archive.extract(source, "a", target)
    assert unpacked(target) == {}


def test_a_disk_that_is_too_small_is_refused(tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = zipped(tmp_path / "a.zip", {"a/x": b"12345"})
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 5, 4))
    with pytest.raises(MachineRefused, match="5 bytes to unpack, 4 free; free disk space"):
        archive.extract(source, "a", target)


def test_what_is_no_archive_is_refused(tmp_path: Path, target: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"not a zip")
    with pytest.raises(SourceRefused, match="cannot be unpacked"):
        archive.extract(tmp_path / "a.zip", "a", target)


def test_a_damaged_file_in_an_archive_is_refused(tmp_path: Path, target: Path) -> None:
    source = zipped(tmp_path / "a.zip", {"a/x": b"some words to store"}, zipfile.ZIP_STORED)
    source.write_bytes(source.read_bytes().replace(b"some words", b"same words"))
    with pytest.raises(SourceRefused, match="cannot be unpacked"):
        archive.extract(source, "a", target)


def test_an_encrypted_file_is_refused(tmp_path: Path, target: Path) -> None:
    source = zipped(tmp_path / "a.zip", {"a/x": b"1"}, zipfile.ZIP_STORED)
    body = bytearray(source.read_bytes())
    for header, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        body[body.index(header) + offset] |= 1  # the flag of encryption
    source.write_bytes(body)
    with pytest.raises(SourceRefused, match="cannot be unpacked"):
        archive.extract(source, "a", target)
