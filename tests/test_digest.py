"""Content digests: what counts, what does not, what is refused."""

import os
from pathlib import Path

import pytest

from checks import digest
from checks.errors import EvidenceRefused


def _folder(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def test_a_directory_digest_is_the_sha256_of_its_manifest(tmp_path: Path) -> None:
    folder = _folder(tmp_path, {"b/ü.txt": b"two", "a.txt": b""})
    manifest = (
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855  0  a.txt\n"
        "3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3  3  b/ü.txt\n"
    )
    assert digest.of_tree(folder).digest == digest.of_bytes(manifest.encode())


def test_times_and_modes_do_not_count_but_names_and_bytes_do(tmp_path: Path) -> None:
    one = _folder(tmp_path / "one", {"a": b"x", "b": b"y"})
    two = _folder(tmp_path / "two", {"b": b"y", "a": b"x"})
    os.utime(two / "a", (0, 0))
    (two / "b").chmod(0o600)
    assert digest.of_tree(one) == digest.of_tree(two)
    assert digest.of_tree(_folder(tmp_path / "three", {"a": b"y", "b": b"x"})).digest != digest.of_tree(one).digest


@pytest.mark.parametrize("fault", ["absent", "empty", "a file", "a link inside", "a link to a folder"])
def test_what_is_not_a_directory_of_regular_files_is_refused(tmp_path: Path, fault: str) -> None:
    folder = tmp_path / "folder"
    if fault == "empty":
        folder.mkdir()
    elif fault == "a file":
        folder.write_text("x")
    elif fault == "a link inside":
        _folder(folder, {"a": b"x"})
        (folder / "link").symlink_to(folder / "a")
    elif fault == "a link to a folder":
        folder.symlink_to(_folder(tmp_path / "real", {"a": b"x"}))
    with pytest.raises(EvidenceRefused, match="folder"):
        digest.of_tree(folder)


def test_key_order_does_not_change_a_json_digest() -> None:
    assert digest.of_json({"a": 1, "b": [2.5, "ü"]}) == digest.of_json({"b": [2.5, "ü"], "a": 1})


def test_not_a_number_has_no_digest() -> None:
    with pytest.raises(ValueError, match="JSON"):
        digest.of_json({"loss": float("nan")})
