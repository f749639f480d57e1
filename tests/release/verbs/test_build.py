"""build: what the image is made of, what is read and sent, and what other tools see."""

import hashlib
import json
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from checks.formats.serving import ImageReport
from checks.formats.verdict import Verdict
from checks.process.errors import EvidenceRefused
from checks.storage import files, layout
from release.cli import main
from release.image import image, tar
from release.image.layout import Layout
from release.image.recipe import KNOWN
from release.verbs.build import BuildOptions, build, plan
from tests import build_tree, oci_check
from tests.build_tree import BaseLayout, built_image, merged_files, refused
from tests.conftest import as_params, scaled_down

pytestmark = pytest.mark.slow

pytest_plugins = ("tests.build_fixtures",)
OCI = "org.opencontainers.image."
SHARD = layout.MERGED / "model-00002-of-00003.safetensors"


# -- what the image is


def test_the_image_holds_the_merged_model_and_nothing_else(root: Path) -> None:
    report = build(root, BuildOptions())
    image = built_image(root)
    assert image.digest == report.image
    prefix = "models/azure-cli-router/"
    assert {name.removeprefix(prefix): data for name, data in image.files.items()} == merged_files(root)
    assert all(name.startswith(prefix) for name in image.files)
    assert {(m.mode, m.uid, m.gid, m.uname, m.gname, m.mtime) for m in image.members if m.isfile()} == {
        (0o644, 0, 0, "", "", 0)
    }
    assert {m.mode for m in image.members if m.isdir()} == {0o755}
    assert list((root / layout.IMAGE).glob(".*")) == []


def test_the_path_that_servers_are_given_names_the_model_and_links_to_its_files(root: Path) -> None:
    report = build(root, BuildOptions())
    assert report.path == f"/models/azure-cli-router-{report.model.removeprefix('sha256:')[:12]}"
    (link,) = (member for member in built_image(root).members if member.issym())
    assert (f"/{link.name}", link.linkname) == (report.path, "azure-cli-router")


def test_every_shard_is_a_layer_and_the_rest_is_the_last_one(root: Path) -> None:
    report = build(root, BuildOptions())
    names = [[*layer.files] for layer in report.layers]
    shards = sorted(name for name in merged_files(root) if name.endswith(".safetensors"))
    assert names == [*([shard] for shard in shards), sorted(set(merged_files(root)) - set(shards))]
    manifest, config = built_image(root).manifest, built_image(root).config
    assert [layer["annotations"]["lockstep.layer"] for layer in manifest["layers"]] == [
        *shards,
        "configuration and tokenizer",
    ]
    assert [layer.digest for layer in report.layers] == config["rootfs"]["diff_ids"]
    assert {layer["mediaType"] for layer in manifest["layers"]} == {"application/vnd.oci.image.layer.v1.tar"}


def test_the_report_says_what_was_built_and_is_the_same_twice(root: Path) -> None:
    report = build(root, BuildOptions())
    first = (root / layout.IMAGE_REPORT).read_bytes()
    assert files.read_json(root / layout.IMAGE_REPORT, ImageReport) == report
    assert build(root, BuildOptions()) == report
    assert (root / layout.IMAGE_REPORT).read_bytes() == first
    verdict = files.read_json(root / layout.VERDICT, Verdict)
    assert report.model == verdict.model
    assert report.verdict == f"sha256:{hashlib.sha256((root / layout.VERDICT).read_bytes()).hexdigest()}"
    assert report.size == sum(path.stat().st_size for path in (root / layout.IMAGE / "blobs" / "sha256").iterdir())


def test_labels_say_where_the_model_is_from(root: Path, released: Path) -> None:
    report = build(root, BuildOptions())
    image = built_image(root)
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=root, check=True, capture_output=True, text=True
    ).stdout.strip()
    assert image.manifest["annotations"] == image.config["config"]["Labels"] == {
        f"{OCI}title": "azure-cli-router",
        f"{OCI}version": report.model.removeprefix("sha256:")[:12],
        f"{OCI}revision": head,
        f"{OCI}created": "2026-05-04T01:02:01Z",
        f"{OCI}licenses": "Apache-2.0",
        "lockstep.model": report.model,
        "lockstep.evidence": report.verdict,
        "lockstep.runtime": "tgi",
    }  # fmt: skip
    assert image.config["created"] == "2026-05-04T01:02:01Z"
    assert report.commit == head
    assert "Entrypoint" not in image.config["config"]
    assert "Cmd" not in image.config["config"]


def test_where_nobody_says_what_runs_no_image_is_pruned(tmp_path: Path) -> None:
    build_tree.make(tmp_path)
    first = build(tmp_path, BuildOptions()).image
    build_tree.weigh(tmp_path, build_tree.shards(seed=2))
    build_tree.judge(tmp_path, as_params(scaled_down()))
    build_tree.commit(tmp_path, "another model")
    subprocess.run(["git", "branch", "--move", "work"], cwd=tmp_path, check=True)
    build(tmp_path, BuildOptions())
    assert Layout(tmp_path / layout.IMAGE).document(first)


@pytest.mark.parametrize(
    ("stated", "adapter", "expression"),
    [
        ("Apache-2.0", "Apache-2.0", "Apache-2.0"),
        ("apache-2.0", "MIT", "Apache-2.0 AND MIT"),
        ("llama3.1", "llama3.1", "LicenseRef-llama3.1"),
        ("openrail++", "openrail++", "LicenseRef-openrailplusplus"),
        ("Apache-2.0", "licenseref-own", "Apache-2.0 AND LicenseRef-Own"),
        ("Our own licence (v2)", "MIT", "LicenseRef-Our-own-licence-v2 AND MIT"),
        (None, None, None),
    ],
)
def test_licences_are_an_spdx_expression(stated: str | None, adapter: str | None, expression: str | None) -> None:
    document = scaled_down()
    document["base"]["license"] = stated
    if adapter is None:
        del document["gates"]["licences_agree"]
    else:
        document["gates"]["licences_agree"]["adapter"] = adapter
    assert image.spdx(as_params(document)) == expression


def test_names_of_any_script_and_folders_below_are_kept(tmp_path: Path) -> None:
    merged = build_tree.shards(1) | {
        "añadir/ключ.json": b"1",
        "x" * 90 + ".safetensors": b"2",
        "sub/model.safetensors": b"3",
    }
    build_tree.make(tmp_path / "root", merged)
    build(tmp_path / "root", BuildOptions())
    prefix = "models/azure-cli-router/"
    assert {n.removeprefix(prefix): d for n, d in built_image(tmp_path / "root").files.items()} == merged


# -- what is read, and what is not


def _reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of all members that are read from now on."""
    read: list[str] = []
    inner = tar._read

    def noted(member: tar.Member) -> Iterator[bytes]:
        read.append(member.path.name)
        return inner(member)

    monkeypatch.setattr(tar, "_read", noted)
    return read


def test_a_rebuild_reads_no_weights_and_one_changed_shard_is_one_layer(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(root, BuildOptions())
    read = _reads(monkeypatch)
    build(root, BuildOptions())
    assert read == []
    merged = merged_files(root) | {SHARD.name: b"changed"}
    build_tree.weigh(root, merged)
    build_tree.judge(root, as_params(scaled_down()))
    build_tree.commit(root, "another model")
    sent = plan(root, BuildOptions())
    assert [blob.there for blob in sent.blobs if blob.kind == "weights"] == [True, False, True, False]
    build(root, BuildOptions())
    again = {SHARD.name, *(name for name, data in merged.items() if data and not name.endswith(".safetensors"))}
    assert set(read) == again
    assert len(read) == len(again)
    assert {name.rpartition("/")[2]: data for name, data in built_image(root).files.items()} == merged


def test_a_lost_blob_alone_is_made_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = build(root, BuildOptions())
    (root / layout.IMAGE / "blobs" / "sha256" / report.layers[1].digest.removeprefix("sha256:")).write_bytes(b"damaged")
    read = _reads(monkeypatch)
    assert build(root, BuildOptions()) == report
    assert read == [*report.layers[1].files]
    assert built_image(root).digest == report.image


def test_a_damaged_cache_counts_for_nothing(root: Path) -> None:
    report = build(root, BuildOptions())
    for text in ("", "nonsense", "[]", "{", '{"x": ["sha256:0", "y"]}', "\x00"):
        (root / layout.LAYERS).write_text(text)
        (root / KNOWN).write_text(text)
        assert build(root, BuildOptions()) == report, text
        assert built_image(root).digest == report.image, text


def test_a_poisoned_cache_puts_no_layer_of_another_size_into_an_image(root: Path) -> None:
    report = build(root, BuildOptions())
    cache = json.loads((root / layout.LAYERS).read_text())
    last = report.layers[-1].digest
    poisons: list[Callable[[int], Any]] = [
        lambda size: [f"sha256:{'0' * 64}", size],
        lambda size: [last, size],
        lambda _: [last, 5],
        lambda _: last,
        lambda size: [None, size],
        lambda _: [[], {}],
    ]
    for poison in poisons:
        (root / layout.LAYERS).write_text(json.dumps({key: poison(size) for key, (_, size) in cache.items()}))
        assert build(root, BuildOptions()) == report
        assert built_image(root).digest == report.image


def test_a_layer_that_is_read_again_is_held_to_its_files_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for a store that lost its connection: it reads part of a layer, and then all of it."""

    def add(self: Any, blob: Any, digest: str | None, seen: Any) -> str:
        if digest is None:
            for _ in zip(range(4), blob.blocks(), strict=False):
                pass
            if change:  # at once and whole: other layers may be read from it at this moment
                other = root / f"{threading.get_ident()}.part"
                other.write_bytes(changed)
                other.replace(shard)
        return str(inner(self, blob, digest, seen))

    inner = Layout.add
    monkeypatch.setattr(Layout, "add", add)
    shard = next((root / layout.MERGED).glob("*.safetensors"))
    data = shard.read_bytes()
    changed = data[:-1] + bytes([data[-1] ^ 1])
    change = True
    refused(root, BuildOptions(), EvidenceRefused, "is not the file that the verdict is about")
    shard.write_bytes(data)
    change = False
    report = build(root, BuildOptions())
    monkeypatch.undo()
    shutil.rmtree(root / ".lockstep")
    assert build(root, BuildOptions()) == report


def test_an_image_with_a_base_for_a_trial_names_no_other_server(tmp_path: Path, base: BaseLayout) -> None:
    document = scaled_down()
    document["serve"] |= {"base": None, "server": f"r.example/s:1@sha256:{'a' * 64}"}
    build_tree.make(tmp_path / "run", document=document)
    report = build(tmp_path / "run", BuildOptions(base=base.pinned(base.image())))
    assert report.base is not None
    assert report.server is None
    assert "lockstep.server" not in built_image(tmp_path / "run").config["config"]["Labels"]


# -- the plan


def test_the_plan_says_exactly_what_will_be_sent(root: Path, base: BaseLayout) -> None:
    options = BuildOptions(base=base.pinned(base.image(layers=2)))
    before = plan(root, options)
    assert not (root / layout.STATE).exists()
    assert before.total == before.to_send
    assert {blob.digest is None for blob in before.blobs if blob.kind != "base"} == {True}
    report = build(root, options)
    after = plan(root, options)
    assert after.total == before.total == report.size
    assert [blob.there for blob in after.blobs] == [True] * 7 + [False]
    assert after.to_send == after.blobs[-1].size
    assert after.blobs[-1].digest == report.image
    assert json.loads(after.model_dump_json())["path"] == report.path
    assert [blob.size for blob in after.blobs] == [blob.size for blob in before.blobs]


def test_the_command_prints_the_digest_and_nothing_else(root: Path) -> None:
    shown = CliRunner().invoke(main, ["-C", str(root), "build"])
    assert shown.exit_code == 0, shown.output
    assert shown.stdout == files.read_json(root / layout.IMAGE_REPORT, ImageReport).image + "\n"


@pytest.mark.parametrize("served", [False, True])
def test_it_tells_how_the_answers_were_sampled_that_the_gates_judged(served: bool, tmp_path: Path) -> None:
    document = scaled_down()
    document["evaluate"]["decoding"] = {"temperature": 0.7, "top_p": 0.9, "draws": 1, "seed": 1}
    if served:
        document["serve"] |= {"runtime": "llamacpp", "decoding": {"temperature": 0.7, "top_p": 0.9}}
    build_tree.make(tmp_path, document=document)
    shown = CliRunner().invoke(main, ["-C", str(tmp_path), "build"])
    assert shown.exit_code == 0, shown.output
    assert shown.stdout == files.read_json(tmp_path / layout.IMAGE_REPORT, ImageReport).image + "\n"
    told = "The gates judged answers at temperature 0.7, top_p 0.9: the image sets neither" in shown.stderr
    assert told != served


# -- other tools


def test_skopeo_reads_the_layout_and_copies_it_whole(root: Path, base: BaseLayout, tmp_path: Path) -> None:
    report = build(root, BuildOptions(base=base.pinned(base.image(layers=2))))
    source = f"oci:{root / layout.IMAGE}"
    raw = subprocess.run(["skopeo", "inspect", "--raw", source], check=True, capture_output=True).stdout
    assert f"sha256:{hashlib.sha256(raw).hexdigest()}" == report.image
    tagged = f"{source}:{report.model.removeprefix('sha256:')[:12]}"
    shown = json.loads(subprocess.run(["skopeo", "inspect", tagged], check=True, capture_output=True).stdout)
    assert (shown["Os"], shown["Architecture"], len(shown["Layers"])) == ("linux", "amd64", 2 + 4)
    subprocess.run(
        ["skopeo", "copy", "--insecure-policy", "--quiet", tagged, f"docker-archive:{tmp_path / 'a.tar'}:x:y"],
        check=True,
    )
    subprocess.run(
        ["skopeo", "copy", "--insecure-policy", "--quiet", "--preserve-digests", source, f"oci:{tmp_path / 'again'}:t"],
        check=True,
    )
    assert oci_check.only(tmp_path / "again").digest == report.image
