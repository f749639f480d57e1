"""The OCI layout as a store: whole or not at all, one builder at a time, and what ``has`` promises."""

import hashlib
import json
import multiprocessing
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from checks.process.errors import BuildRefused, Refusal, RegistryRefused
from checks.storage.digest import canonical_json
from release.adapters.registry import documents
from release.adapters.registry.documents import CONFIG, INDEX, MANIFEST, Document
from release.image.layout import Bytes, Layout

DATA = b"some bytes" * 1000
DIGEST = f"sha256:{hashlib.sha256(DATA).hexdigest()}"


def _nothing(_: int) -> None:
    return None


@pytest.fixture
def layout(tmp_path: Path) -> Iterator[Layout]:
    """A new layout, held."""
    store = Layout(tmp_path / "layout", tmp_path / "known.json")
    with store.held():
        yield store


def _blob(layout: Layout, digest: str = DIGEST) -> Path:
    return layout.folder / "blobs" / "sha256" / digest.removeprefix("sha256:")


def _image(layout: Layout, tag: str | None, layer: bytes, **more: object) -> str:
    """Put an image of one layer."""
    digest = layout.add(Bytes(layer), None, _nothing)
    config = layout.add(Bytes(b"{}"), None, _nothing)
    value = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": config, "size": 2},
        "layers": [{"mediaType": "x", "digest": digest, "size": len(layer)}],
    } | more
    return layout.put(canonical_json(value), MANIFEST, tag)


def test_a_blob_is_named_by_what_it_is_and_read_back(layout: Layout) -> None:
    seen: list[int] = []
    assert layout.add(Bytes(DATA), None, seen.append) == DIGEST
    assert sum(seen) == len(DATA)
    assert layout.has(DIGEST, len(DATA))
    assert b"".join(layout.blob(DIGEST, len(DATA))) == DATA
    assert not layout.has(DIGEST, len(DATA) + 1)
    assert not layout.has("sha256:" + "0" * 64, 1)


def test_other_bytes_than_were_named_are_not_stored_and_leave_nothing(layout: Layout) -> None:
    with pytest.raises(RegistryRefused):
        layout.add(Bytes(DATA + b"!"), DIGEST, _nothing)
    assert not list(layout.folder.rglob("*.partial*"))
    assert not list((layout.folder / "blobs" / "sha256").iterdir())


class Lying(Bytes):
    """A stand-in for a source that ends early."""

    def blocks(self) -> Iterator[bytes]:
        yield self._data[:-1]


class Failing(Bytes):
    """A stand-in for a source that breaks."""

    def blocks(self) -> Iterator[bytes]:
        yield self._data[:10]
        raise RegistryRefused("the source broke", "try again")


@pytest.mark.parametrize("kind", [Lying, Failing])
def test_a_source_that_breaks_leaves_nothing(layout: Layout, kind: type[Bytes]) -> None:
    with pytest.raises(RegistryRefused):
        layout.add(kind(DATA), None, _nothing)
    assert {path.name for path in layout.folder.rglob("*")} == {"oci-layout", "blobs", "sha256"}


DAMAGE: dict[str, Callable[[Path], object]] = {
    "cut": lambda path: os.truncate(path, 5),
    "longer": lambda path: path.write_bytes(DATA + b"!"),
    "same size": lambda path: path.write_bytes(DATA[:-1] + b"!"),
    "replaced": lambda path: path.write_bytes(path.rename(path.with_suffix(".x")).read_bytes()[::-1]),
    "gone": Path.unlink,
    "linked": lambda path: path.symlink_to(path.rename(path.with_suffix(".x"))),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("remembered", [True, False])
def test_a_damaged_blob_is_not_there_is_not_read_and_is_written_anew(
    tmp_path: Path, damage: Callable[[Path], object], remembered: bool
) -> None:
    layout = Layout(tmp_path / "layout", tmp_path / "known.json" if remembered else None)
    with layout.held():
        layout.add(Bytes(DATA), None, _nothing)
        assert layout.has(DIGEST, len(DATA))
        before = _blob(layout).stat()
        damage(_blob(layout))
        if _blob(layout).exists():  # the time of a write can be set back, that of the change cannot
            os.utime(_blob(layout), ns=(before.st_atime_ns, before.st_mtime_ns))
        assert not layout.has(DIGEST, len(DATA))
        if damage is not DAMAGE["linked"]:
            with pytest.raises(RegistryRefused):
                list(layout.blob(DIGEST, len(DATA)))
        layout.add(Bytes(DATA), None, _nothing)
        assert layout.has(DIGEST, len(DATA))
        assert _blob(layout).read_bytes() == DATA


def test_an_unchanged_blob_is_hashed_once(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    _blob(layout).write_bytes(DATA)
    assert layout.has(DIGEST, len(DATA))
    monkeypatch.setattr(Layout, "blob", lambda *_: pytest.fail("was read again"))
    assert layout.has(DIGEST, len(DATA))


@pytest.mark.parametrize("memory", [b"", b"[]", b"nonsense", b'{"x": 1', b"\xff", b"[" * 100_000, b'{"PATH": "x"}'])
def test_a_damaged_memory_is_none(layout: Layout, memory: bytes) -> None:
    layout.add(Bytes(DATA), None, _nothing)
    (layout.folder.parent / "known.json").write_bytes(memory.replace(b"PATH", str(_blob(layout)).encode()))
    assert layout.has(DIGEST, len(DATA))
    _blob(layout).write_bytes(b"!" * len(DATA))
    assert not layout.has(DIGEST, len(DATA))


def test_a_manifest_is_found_by_tag_and_by_digest(layout: Layout) -> None:
    one, two = _image(layout, "one", b"1"), _image(layout, "two", b"2")
    assert layout.document("one").digest == one
    assert layout.document(two).media_type == MANIFEST
    for absent in ("three", "", "sha256:" + "0" * 64):
        with pytest.raises(RegistryRefused):
            layout.document(absent)
    assert _image(layout, "one", b"3") == layout.document("one").digest != one
    assert layout.document("two").digest == two


def test_keep_drops_what_this_tool_made_before_and_no_image_of_others(layout: Layout) -> None:
    ours = {"annotations": {"lockstep.model": "x"}}
    old = _image(layout, "old", b"old", **ours)
    _image(layout, "theirs", b"theirs")
    attached = {"subject": {"mediaType": MANIFEST, "digest": old, "size": 1}}
    _image(layout, None, b"signature", **attached)
    new = _image(layout, "new", b"new", **ours)
    layout.keep(new)
    entries = json.loads((layout.folder / "index.json").read_text())["manifests"]
    names = [entry.get("annotations", {}).get("org.opencontainers.image.ref.name") for entry in entries]
    assert names == ["theirs", "new"]
    there = {path.read_bytes() for path in (layout.folder / "blobs" / "sha256").iterdir()}
    assert {b"theirs", b"new", b"{}"} <= there
    assert not {b"old", b"signature"} & there


def test_keep_leaves_only_what_is_needed_where_all_is_this_tools_own(layout: Layout) -> None:
    layout.add(Bytes(b"of a killed build"), None, _nothing)
    ours = {"annotations": {"lockstep.model": "x"}}
    new = _image(layout, "new", b"new", **ours)
    _image(layout, None, b"signature", subject={"mediaType": MANIFEST, "digest": new, "size": 1}, **ours)
    layout.keep(new)
    there = {path.read_bytes() for path in (layout.folder / "blobs" / "sha256").iterdir()}
    assert {b"new", b"{}", b"signature"} < there
    assert len(there) == 5


def test_a_folder_that_holds_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(BuildRefused, match="is not empty and is not an OCI layout"), Layout(tmp_path).held():
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("oci-layout", "{}"),
        ("oci-layout", '{"imageLayoutVersion": "2.0.0"}'),
        ("oci-layout", "nonsense"),
        ("oci-layout", "[]"),
        ("index.json", ""),
        ("index.json", "[]"),
        ("index.json", '{"schemaVersion": 1, "manifests": []}'),
        ("index.json", '{"schemaVersion": 2, "manifests": [{"digest": "../../etc/passwd", "mediaType": "x", "size": 1}]}'),
    ],
)  # fmt: skip
def test_a_malformed_layout_is_refused_in_one_line_and_left_alone(layout: Layout, name: str, text: str) -> None:
    (layout.folder / name).write_text(text)
    other = Layout(layout.folder)
    with pytest.raises(RegistryRefused) as refused:
        other.document("x")
    assert "\n" not in str(refused.value)
    assert "remove" not in str(refused.value)  # the folder may have the only copy of an image
    assert (layout.folder / name).read_text() == text


@pytest.mark.parametrize("name", ["oci-layout", "index.json"])
def test_what_the_refusal_of_a_damaged_layout_says_brings_its_images_back(layout: Layout, name: str) -> None:
    ours = {"annotations": {"lockstep.model": "x"}}
    before, now = _image(layout, "before", b"before", **ours), _image(layout, "now", b"now", **ours)
    signature = _image(layout, None, b"signature", subject={"mediaType": MANIFEST, "digest": before, "size": 1})
    (layout.folder / name).write_text("cut")
    with pytest.raises(RegistryRefused) as refused:
        layout.document(now)
    (command,) = re.findall("`(.*)`", str(refused.value))
    subprocess.run(["sh", "-c", command], check=True)
    assert layout.document(now).digest == now
    assert [referrer.digest for referrer in layout.referrers(before)] == [signature]
    _image(layout, "now", b"now", **ours)
    layout.keep(now, before)  # as `lockstep build` does; `before` is a release that an environment runs
    assert layout.document("now").digest == now
    assert layout.document(before).digest == before
    assert [referrer.digest for referrer in layout.referrers(before)] == [signature]


def test_an_index_that_is_gone_lists_no_part_of_an_image_and_nothing_damaged(layout: Layout) -> None:
    part = _image(layout, None, b"part")
    entry = {"mediaType": MANIFEST, "digest": part, "size": len(layout.document(part).data)}
    whole = layout.put(canonical_json({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}), INDEX, None)
    damaged = _image(layout, None, b"damaged")
    _blob(layout, damaged).write_bytes(_blob(layout, damaged).read_bytes().replace(b"x", b"y"))
    (layout.folder / "index.json").unlink()
    assert layout.document("").digest == whole


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "nonsense", "{}", '{"schemaVersion": 2}', '{"schemaVersion": 1, "config": {}, "layers": []}',
        '{"schemaVersion": 2, "mediaType": "application/octet-stream", "layers": []}',
        f'{{"schemaVersion": 2, "mediaType": "{INDEX}", "manifests": [], "layers": []}}',
        f'{{"schemaVersion": 2, "mediaType": "{MANIFEST}", "manifests": [], "config": {{}}, "layers": []}}',
        f'{{"schemaVersion": 2, "mediaType": "{INDEX}", "manifests": [{{}}]}}',
        '{"schemaVersion": 2, "mediaType": 5, "manifests": []}', "[" * 100_000,
    ],
)  # fmt: skip
def test_what_is_no_manifest_and_no_index_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(Refusal) as refused:
        documents.read(Document(text.encode(), documents.guess(text.encode(), "it"), DIGEST), "it")
    assert "\n" not in str(refused.value)


def test_a_manifest_under_another_media_type_is_refused() -> None:
    text = canonical_json({"schemaVersion": 2, "mediaType": INDEX, "manifests": []})
    with pytest.raises(RegistryRefused, match="calls itself"):
        documents.read(Document(text, MANIFEST, DIGEST), "it")


def _hold(folder: Path, log: Path, seconds: float) -> None:
    with Layout(folder).held(), log.open("a") as stream:
        stream.write("in\n")
        stream.flush()
        time.sleep(seconds)
        stream.write("out\n")


@pytest.mark.slow
def test_one_builder_at_a_time_holds_a_folder(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    log = tmp_path / "log"
    both = [fork.Process(target=_hold, args=(tmp_path / "layout", log, 0.2)) for _ in range(3)]
    for one in both:
        one.start()
    for one in both:
        one.join(30)
    assert log.read_text().split() == ["in", "out"] * 3


@pytest.mark.slow
def test_a_killed_builder_lets_go_and_what_it_left_is_taken_away(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    log = tmp_path / "log"
    held = fork.Process(target=_hold, args=(tmp_path / "layout", log, 60))
    held.start()
    while not log.exists() or not log.read_text():
        time.sleep(0.01)
    (tmp_path / "layout" / ".partial-left").write_bytes(b"half")
    (tmp_path / "layout" / ".index.json.left").write_bytes(b"half")
    held.kill()
    held.join(30)
    with Layout(tmp_path / "layout").held():
        assert {path.name for path in (tmp_path / "layout").iterdir()} == {"oci-layout", "blobs"}
