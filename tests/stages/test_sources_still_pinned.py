"""Local sources against their pins, before DVC starts: by the real digests."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from checks.process.errors import SourceRefused
from checks.storage import digest, layout
from stages import sources, still_pinned
from tests.conftest import as_params

ROWS = b'{"a": 1}\n'


@pytest.fixture
def document(document: dict, tmp_path: Path) -> dict[str, Any]:
    """Parameters of a local folder and a local file."""
    (tmp_path / "model/more").mkdir(parents=True)
    (tmp_path / "model/weights").write_bytes(b"weights")
    (tmp_path / "model/more/config").write_bytes(b"{}")
    (tmp_path / "rows.jsonl").write_bytes(ROWS)
    document["base"] |= {"uri": "model", "sha256": digest.of_tree(tmp_path / "model").digest.removeprefix("sha256:")}
    document["data"] |= {"uri": "rows.jsonl", "sha256": digest.of_bytes(ROWS).removeprefix("sha256:")}
    return document


def look(document: dict[str, Any], root: Path) -> str:
    return still_pinned.still_pinned(as_params(document), root)


def rewrite_at_the_same_times(path: Path, data: bytes) -> None:
    """Other bytes of the same size at the same mtime: only ctime tells."""
    before = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_sources_that_are_as_pinned_pass(document: dict, tmp_path: Path) -> None:
    assert look(document, tmp_path) == "local sources: base as pinned, data as pinned"


@pytest.mark.parametrize(
    ("section", "edit"),
    [
        ("data", lambda root: (root / "rows.jsonl").write_bytes(ROWS + ROWS)),
        ("data", lambda root: rewrite_at_the_same_times(root / "rows.jsonl", ROWS.replace(b"1", b"2"))),
        ("base", lambda root: rewrite_at_the_same_times(root / "model/more/config", b"[]")),
        ("base", lambda root: (root / "model/new").touch()),
        ("base", lambda root: (root / "model/weights").unlink()),
        ("base", lambda root: (root / "model/weights").rename(root / "model/heavy")),
    ],
    ids=["longer", "same size and mtime", "below a folder", "a file more", "a file less", "a file renamed"],
)
def test_an_edited_source_is_refused_in_the_words_of_fetch(
    document: dict, tmp_path: Path, section: str, edit: Callable[[Path], object]
) -> None:
    look(document, tmp_path)
    edit(tmp_path)
    with pytest.raises(SourceRefused) as refusal:
        look(document, tmp_path)
    with pytest.raises(SourceRefused) as of_fetch:
        sources.bring(getattr(as_params(document), section), section, tmp_path)
    assert str(refusal.value) == str(of_fetch.value)
    assert f"params.yaml: {section}.sha256: {document[section]['sha256']} is pinned, but" in str(refusal.value)


def test_an_edit_that_is_pinned_and_an_edit_taken_back_pass(document: dict, tmp_path: Path) -> None:
    look(document, tmp_path)
    (tmp_path / "rows.jsonl").write_bytes(b"other")
    old = document["data"]["sha256"]
    document["data"]["sha256"] = digest.of_bytes(b"other").removeprefix("sha256:")
    assert "data as pinned" in look(document, tmp_path)
    (tmp_path / "rows.jsonl").write_bytes(ROWS)
    document["data"]["sha256"] = old
    assert "data as pinned" in look(document, tmp_path)


def test_another_pin_and_no_pin_are_refused(document: dict, tmp_path: Path) -> None:
    look(document, tmp_path)
    document["data"]["sha256"] = "0" * 64
    with pytest.raises(SourceRefused, match=f"{'0' * 64} is pinned, but rows.jsonl is "):
        look(document, tmp_path)
    document["data"]["sha256"] = None
    with pytest.raises(SourceRefused, match=r"rows\.jsonl is not pinned; pin it: sha256: "):
        look(document, tmp_path)


@pytest.mark.parametrize("way", ["never there", "a link to nothing", "no folder"])
def test_a_source_that_is_absent_is_left_to_fetch(document: dict, tmp_path: Path, way: str) -> None:
    (tmp_path / "rows.jsonl").unlink()
    if way == "a link to nothing":
        (tmp_path / "rows.jsonl").symlink_to("nowhere")
    elif way == "no folder":
        document["data"]["uri"] = "model/weights/rows.jsonl"
    assert look(document, tmp_path) == "local sources: base as pinned, data not here"


def test_sources_that_are_downloaded_are_left_to_fetch(document: dict, tmp_path: Path) -> None:
    document["base"]["uri"], document["data"]["uri"] = "https://host/model", "hf://datasets/org/name@main"
    assert look(document, tmp_path) == "local sources: none"
    assert not (tmp_path / layout.STATE).exists()


@pytest.mark.parametrize("fault", ["a pipe", "a loop", "a link inside", "empty", "no permission"])
def test_a_source_that_cannot_be_read_is_refused(
    document: dict, tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    look(document, tmp_path)
    rows, model = tmp_path / "rows.jsonl", tmp_path / "model"
    if fault == "a pipe":
        rows.unlink()
        os.mkfifo(rows)
    elif fault == "a loop":
        rows.unlink()
        rows.symlink_to(rows)
    elif fault == "a link inside":
        (model / "link").symlink_to(model / "weights")
    elif fault == "empty":
        shutil.rmtree(model)
        model.mkdir()
    elif fault == "no permission":  # these tests may run as root, whom no mode stops
        opened = Path.open

        def denied(path: Path, *args: Any, **kwargs: Any) -> Any:
            if path == rows:
                raise PermissionError(13, "Permission denied", str(path))
            return opened(path, *args, **kwargs)

        monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(SourceRefused, match=r"^params.yaml: (base|data).uri: .*; name a readable file, or a folder"):
        look(document, tmp_path)
