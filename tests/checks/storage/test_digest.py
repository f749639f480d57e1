"""Content digests: what counts, what does not, what is refused."""

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from checks.formats.serving import Layer
from checks.formats.training_reports import ParityReport
from checks.process.errors import EvidenceRefused, SourceRefused
from checks.storage import digest
from checks.storage.digest import FileDigest
from stages import sources


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


def test_a_json_value_has_one_form_whose_digest_it_has() -> None:
    value = {"b": [2.5, "ü", None, True, 1e22], "a": {"\n": "\u2028"}}
    data = '{"a":{"\\n":"\u2028"},"b":[2.5,"ü",null,true,1e+22]}'.encode()
    assert digest.canonical_json(value) == data
    assert digest.of_json(value) == digest.of_bytes(data)


def test_not_a_number_has_no_digest() -> None:
    with pytest.raises(ValueError, match="JSON"):
        digest.of_json({"loss": float("nan")})


ZERO = f"sha256:{'0' * 64}"
# Names that one line of a manifest cannot hold, or that are read in more than one way.
NO_NAMES = {
    "a line break": "a\nb",
    "a carriage return": "a\rb",
    "a tab": "a\tb",
    "an escape": "a\x1b[2Jb",
    "a delete": "a\x7fb",
    "a next line": "a\x85b",
    "a line separator": "a\u2028b",
    "a paragraph separator": "a\u2029b",
    "bytes that are no UTF-8": os.fsdecode(b"a\xffb"),
    "a backslash": "a\\b",
}
NO_PATHS = NO_NAMES | {
    "nothing": "", "an absolute path": "/a", "a way up": "../a", "a way up and back": "b/../a", "itself": "./a",
    "a double slash": "a//b", "a folder": "a/",
}  # fmt: skip


def test_two_different_trees_had_one_manifest() -> None:
    """One file whose name has a line break, and two files: the same lines."""
    a, b = FileDigest(f"sha256:{'a' * 64}", 1), FileDigest(f"sha256:{'b' * 64}", 2)
    two = digest.of_manifest({"x": a, "y": b})
    forged = f"x\n{'b' * 64}  2  y"
    assert two == digest.of_bytes(f"{'a' * 64}  1  {forged}\n".encode())
    with pytest.raises(EvidenceRefused, match="cannot be written in a manifest"):
        digest.of_manifest({forged: a})


@pytest.mark.parametrize("what", NO_PATHS)
def test_a_path_that_no_manifest_can_hold_is_refused_wherever_it_is_named(what: str) -> None:
    path = NO_PATHS[what]
    with pytest.raises(EvidenceRefused, match="cannot be written") as refused:
        digest.of_manifest({path: FileDigest(ZERO, 0)})
    assert str(refused.value).isprintable()
    parity = {
        "base": ZERO, "adapter": ZERO, "merged": ZERO, "prompts": 1, "positions": 1, "max_logprob_diff": 0.0,
        "mean_logprob_diff": 0.0, "top1": 1.0,
    }  # fmt: skip
    ParityReport.model_validate({**parity, "files": {"a/ü b.json": {"sha256": ZERO, "size": 0}}})
    with pytest.raises(ValidationError, match=r"files"):
        ParityReport.model_validate({**parity, "files": {path: {"sha256": ZERO, "size": 0}}})
    with pytest.raises(ValidationError, match=r"files"):
        Layer(digest=ZERO, size=0, files={path: ZERO})


@pytest.mark.parametrize("folder", [False, True])
@pytest.mark.parametrize("what", NO_NAMES)
def test_a_file_or_folder_of_such_a_name_is_refused_in_every_tree(tmp_path: Path, what: str, folder: bool) -> None:
    name = f"{NO_NAMES[what]}/file" if folder else NO_NAMES[what]
    tree = _folder(tmp_path / "tree", {"fine": b"x", name: b"y"})
    for measure in (digest.of_tree, lambda path: sources.measure(path, "data")):
        with pytest.raises((EvidenceRefused, SourceRefused), match="holds the name") as refused:
            measure(tree)
        assert str(refused.value).isprintable()


def test_a_folder_that_cannot_be_listed_is_not_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = _folder(tmp_path / "tree", {"a/b/file": b"x", "fine": b"y"})
    scandir = os.scandir

    def closed(path: Path) -> object:
        if path.name == "b":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)  # root may list every folder
    with pytest.raises(EvidenceRefused, match=r"tree/a/b: Permission denied"):
        digest.of_tree(tree)


@pytest.mark.parametrize("name", ["a b", "ü", "名前", ".hidden", "a#b", "weights (1).bin", "…"])
def test_other_names_are_as_good_as_ever(tmp_path: Path, name: str) -> None:
    assert digest.of_tree(_folder(tmp_path / "tree", {name: b"x"})).files == {
        name: digest.of_file(tmp_path / "tree" / name)
    }
