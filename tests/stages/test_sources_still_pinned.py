"""Local sources against their pins, before DVC starts: by the real digests, and by what was remembered of them."""

import json
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
    """Parameters of a local folder and a local file, changed long enough ago to be remembered."""
    (tmp_path / "model/more").mkdir(parents=True)
    (tmp_path / "model/weights").write_bytes(b"weights")
    (tmp_path / "model/more/config").write_bytes(b"{}")
    (tmp_path / "rows.jsonl").write_bytes(ROWS)
    document["base"] |= {"uri": "model", "sha256": digest.of_tree(tmp_path / "model").digest.removeprefix("sha256:")}
    document["data"] |= {"uri": "rows.jsonl", "sha256": digest.of_bytes(ROWS).removeprefix("sha256:")}
    return document


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of what is hashed from now on; whatever lies there counts as settled."""
    names: list[str] = []
    measure = sources.measure

    def counted(path: Path, section: str) -> sources.Verified:
        names.append(path.name)
        return measure(path, section)

    monkeypatch.setattr(sources, "measure", counted)
    monkeypatch.setattr(still_pinned, "SETTLED", -(10**9))
    return names


def look(document: dict[str, Any], root: Path) -> str:
    return still_pinned.still_pinned(as_params(document), root)


def rewrite_at_the_same_times(path: Path, data: bytes) -> None:
    """Other bytes of the same size at the same mtime: only ctime tells."""
    before = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_sources_that_are_as_pinned_are_hashed_once(document: dict, tmp_path: Path, hashed: list[str]) -> None:
    assert look(document, tmp_path) == "local sources: base as pinned, data as pinned"
    assert look(document, tmp_path) == "local sources: base as pinned, data as pinned"
    assert hashed == ["model", "rows.jsonl"]


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
    document: dict, tmp_path: Path, hashed: list[str], section: str, edit: Callable[[Path], object]
) -> None:
    look(document, tmp_path)
    edit(tmp_path)
    with pytest.raises(SourceRefused) as refusal:
        look(document, tmp_path)
    with pytest.raises(SourceRefused) as of_fetch:
        sources.bring(getattr(as_params(document), section), section, tmp_path)
    assert str(refusal.value) == str(of_fetch.value)
    assert f"params.yaml: {section}.sha256: {document[section]['sha256']} is pinned, but" in str(refusal.value)


def test_an_edit_that_is_pinned_and_an_edit_taken_back_pass(document: dict, tmp_path: Path, hashed: list[str]) -> None:
    look(document, tmp_path)
    (tmp_path / "rows.jsonl").write_bytes(b"other")
    old = document["data"]["sha256"]
    document["data"]["sha256"] = digest.of_bytes(b"other").removeprefix("sha256:")
    assert "data as pinned" in look(document, tmp_path)
    (tmp_path / "rows.jsonl").write_bytes(ROWS)
    document["data"]["sha256"] = old
    assert "data as pinned" in look(document, tmp_path)


def test_what_was_remembered_is_a_digest_and_no_permission(document: dict, tmp_path: Path, hashed: list[str]) -> None:
    look(document, tmp_path)
    document["data"]["sha256"] = "0" * 64
    with pytest.raises(SourceRefused, match=f"{'0' * 64} is pinned, but rows.jsonl is "):
        look(document, tmp_path)
    assert hashed == ["model", "rows.jsonl"]
    document["data"]["sha256"] = None
    with pytest.raises(SourceRefused, match=r"rows\.jsonl is not pinned; pin it: sha256: "):
        look(document, tmp_path)


def test_a_refusal_does_not_forget_what_was_hashed(document: dict, tmp_path: Path, hashed: list[str]) -> None:
    (tmp_path / "rows.jsonl").write_bytes(b"other")
    for _ in range(2):
        with pytest.raises(SourceRefused):
            look(document, tmp_path)
    assert hashed == ["model", "rows.jsonl"]


def test_what_changed_just_now_is_hashed_again(
    document: dict, tmp_path: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two changes within one tick of the file system's clock look the same."""
    monkeypatch.setattr(still_pinned, "SETTLED", 3600 * 10**9)
    look(document, tmp_path)
    look(document, tmp_path)
    assert hashed == ["model", "rows.jsonl"] * 2


def test_what_changes_while_it_is_hashed_is_hashed_again(
    document: dict, tmp_path: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = sources.measure

    def touched(path: Path, section: str) -> sources.Verified:
        found = counted(path, section)
        os.utime(path)
        return found

    monkeypatch.setattr(sources, "measure", touched)
    look(document, tmp_path)
    look(document, tmp_path)
    assert hashed == ["model", "rows.jsonl"] * 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda memo: memo.write_bytes(b"\xff{"),
        lambda memo: memo.write_text("[]"),
        lambda memo: memo.write_text(json.dumps(json.loads(memo.read_text()) | {"schema_version": 2})),
        lambda memo: memo.write_text(memo.read_text().replace('"sha256:', '"')),
        lambda memo: memo.unlink(),
        lambda memo: memo.rename(memo.with_name("kept")) and memo.mkdir(),
        lambda memo: memo.parent.rename(memo.parent.with_name("kept")) and memo.parent.touch(),
    ],
    ids=["no JSON", "another shape", "another version", "no digests", "gone", "a folder", "no place for it"],
)
def test_a_damaged_memo_is_as_none(
    document: dict, tmp_path: Path, hashed: list[str], damage: Callable[[Path], object]
) -> None:
    look(document, tmp_path)
    damage(tmp_path / still_pinned.MEMO)
    assert look(document, tmp_path) == "local sources: base as pinned, data as pinned"
    assert hashed == ["model", "rows.jsonl"] * 2


def test_only_what_is_local_now_is_remembered(document: dict, tmp_path: Path, hashed: list[str]) -> None:
    look(document, tmp_path)
    (tmp_path / "rows.jsonl").rename(tmp_path / "other.jsonl")
    document["data"]["uri"] = (tmp_path / "other.jsonl").as_uri()
    look(document, tmp_path)
    assert len(json.loads((tmp_path / still_pinned.MEMO).read_text())["sha256"]) == 2


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
    document: dict, tmp_path: Path, hashed: list[str], fault: str, monkeypatch: pytest.MonkeyPatch
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
        lstat = Path.lstat

        def denied(path: Path) -> os.stat_result:
            if path == rows:
                raise PermissionError(13, "Permission denied", str(path))
            return lstat(path)

        monkeypatch.setattr(Path, "lstat", denied)
    with pytest.raises(SourceRefused, match=r"^params.yaml: (base|data).uri: .*; name a readable file, or a folder"):
        look(document, tmp_path)
