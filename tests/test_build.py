"""build: what the image is made of, what is refused, and that the same record is the same image."""

import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from checks import digest, files, layout
from checks.digest import FileDigest
from checks.errors import BuildRefused, EvidenceRefused, Refusal, VerdictFailed, VerdictInconclusive
from checks.evidence import ParityReport
from checks.serving import ImageReport
from checks.verdict import Verdict
from release.build import Options, build, plan
from release.cli import main
from release.oci import image, tar, weights
from release.oci.layout import Bytes, Layout
from release.recipe import KNOWN, write_down
from tests import build_tree, oci_check
from tests.build_tree import BaseLayout
from tests.conftest import REPOSITORY, as_params, scaled_down

OCI = "org.opencontainers.image."


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A committed record whose verdict passes. Read-only by custom."""
    root = tmp_path_factory.mktemp("released") / "root"
    build_tree.make(root)
    return root


@pytest.fixture
def root(released: Path, tmp_path: Path) -> Path:
    """A copy of it, to build from and to damage."""
    return shutil.copytree(released, tmp_path / "root")


@pytest.fixture
def base(tmp_path: Path) -> BaseLayout:
    """A place for base images."""
    return BaseLayout(tmp_path / "base")


def _image(root: Path) -> oci_check.Checked:
    return oci_check.only(root / layout.IMAGE)


def _weights(root: Path) -> dict[str, bytes]:
    merged = root / layout.MERGED
    return {path.relative_to(merged).as_posix(): path.read_bytes() for path in merged.rglob("*") if path.is_file()}


# -- what the image is


def test_the_image_holds_the_merged_model_and_nothing_else(root: Path) -> None:
    report = build(root, Options())
    image = _image(root)
    assert image.digest == report.image
    prefix = "models/azure-cli-router/"
    assert {name.removeprefix(prefix): data for name, data in image.files.items()} == _weights(root)
    assert all(name.startswith(prefix) for name in image.files)
    assert {(m.mode, m.uid, m.gid, m.uname, m.gname, m.mtime) for m in image.members if m.isfile()} == {
        (0o644, 0, 0, "", "", 0)
    }
    assert {m.mode for m in image.members if m.isdir()} == {0o755}
    assert list((root / layout.IMAGE).glob(".*")) == []


def test_the_path_that_servers_are_given_names_the_model_and_links_to_its_files(root: Path) -> None:
    report = build(root, Options())
    assert report.path == f"/models/azure-cli-router-{report.model.removeprefix('sha256:')[:12]}"
    (link,) = (member for member in _image(root).members if member.issym())
    assert (f"/{link.name}", link.linkname) == (report.path, "azure-cli-router")


def test_every_shard_is_a_layer_and_the_rest_is_the_last_one(root: Path) -> None:
    report = build(root, Options())
    names = [[*layer.files] for layer in report.layers]
    shards = sorted(name for name in _weights(root) if name.endswith(".safetensors"))
    assert names == [*([shard] for shard in shards), sorted(set(_weights(root)) - set(shards))]
    manifest, config = _image(root).manifest, _image(root).config
    assert [layer["annotations"][f"{OCI}title"] for layer in manifest["layers"]] == [
        *shards,
        "configuration and tokenizer",
    ]
    assert [layer.digest for layer in report.layers] == config["rootfs"]["diff_ids"]
    assert {layer["mediaType"] for layer in manifest["layers"]} == {"application/vnd.oci.image.layer.v1.tar"}


def test_the_report_says_what_was_built_and_is_the_same_twice(root: Path) -> None:
    report = build(root, Options())
    first = (root / layout.IMAGE_REPORT).read_bytes()
    assert files.read_json(root / layout.IMAGE_REPORT, ImageReport) == report
    assert build(root, Options()) == report
    assert (root / layout.IMAGE_REPORT).read_bytes() == first
    verdict = files.read_json(root / layout.VERDICT, Verdict)
    assert report.model == verdict.model
    assert report.verdict == f"sha256:{hashlib.sha256((root / layout.VERDICT).read_bytes()).hexdigest()}"
    assert report.size == sum(path.stat().st_size for path in (root / layout.IMAGE / "blobs" / "sha256").iterdir())


def test_labels_say_where_the_model_is_from(root: Path, released: Path) -> None:
    report = build(root, Options())
    image = _image(root)
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


@pytest.mark.parametrize(
    ("stated", "adapter", "expression"),
    [
        ("Apache-2.0", "Apache-2.0", "Apache-2.0"),
        ("apache-2.0", "MIT", "Apache-2.0 AND MIT"),
        ("llama3.1", "llama3.1", "LicenseRef-llama3.1"),
        ("openrail++", "openrail++", "LicenseRef-openrailplusplus"),
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
    build(tmp_path / "root", Options())
    prefix = "models/azure-cli-router/"
    assert {n.removeprefix(prefix): d for n, d in _image(tmp_path / "root").files.items()} == merged


# -- the base


def _server(image: oci_check.Checked) -> dict[str, Any]:
    return image.config["config"]


def test_the_base_is_passed_on_and_its_config_is_the_servers(root: Path, base: BaseLayout) -> None:
    entry = base.image(layers=3)
    report = build(root, Options(base=base.tag(entry, "v1")))
    image = _image(root)
    assert {"layer0", "layer1", "layer2"} < image.files.keys()
    settings = _server(image)
    assert settings["WorkingDir"] == "/srv"
    assert settings["Env"][0] == "PATH=/usr/bin"
    assert f"MODEL_ID={report.path}" in settings["Env"]
    assert len({entry.partition("=")[0] for entry in settings["Env"]}) == len(settings["Env"])
    assert settings["StopSignal"] == "SIGTERM"
    assert settings["Labels"]["maintainer"] == "someone"
    assert f"{OCI}source" not in settings["Labels"]  # that of the base is not this image's
    assert settings["Labels"][f"{OCI}base.digest"] == entry["digest"]
    assert image.config["docker_version"] == "1.2.3"
    assert report.base is not None
    assert (report.base.index, report.base.manifest, report.base.layers) == (None, entry["digest"], 3)
    assert oci_check.blobs(root / layout.IMAGE) == _needed(image)


def _needed(image: oci_check.Checked) -> set[str]:
    digests = [
        image.digest,
        image.manifest["config"]["digest"],
        *(layer["digest"] for layer in image.manifest["layers"]),
    ]
    return {digest.removeprefix("sha256:") for digest in digests}


def test_an_index_is_resolved_to_the_runtimes_platform_and_both_are_recorded(root: Path, base: BaseLayout) -> None:
    ours, other = base.image(layers=2), base.image(layers=1, platform="linux/arm64/v8")
    noise = base.image(layers=1, platform="unknown/unknown")  # as builders attach what they attest
    platforms = (
        {"os": "linux", "architecture": "arm64", "variant": "v8"},
        {"os": "unknown", "architecture": "unknown"},
    )
    index = base.index(
        other | {"platform": platforms[0]},
        noise | {"platform": platforms[1]},
        ours | {"platform": {"os": "linux", "architecture": "amd64"}},
    )
    report = build(root, Options(base=base.pinned(index)))
    assert report.base is not None
    assert (report.base.index, report.base.manifest, report.base.platform) == (
        index["digest"], ours["digest"], "linux/amd64",
    )  # fmt: skip
    assert build(root, Options(base=base.pinned(ours))).image == report.image


def test_dockers_own_media_types_are_accepted_and_written_as_ocis(root: Path, base: BaseLayout) -> None:
    entry = base.image(layers=2, docker=True)
    index = base.index(entry | {"platform": {"os": "linux", "architecture": "amd64"}}, docker=True)
    for reference in (base.pinned(entry), base.pinned(index)):
        build(root, Options(base=reference))
        kinds = [layer["mediaType"] for layer in _image(root).manifest["layers"]]
        assert kinds[:2] == ["application/vnd.oci.image.layer.v1.tar", "application/vnd.oci.image.layer.v1.tar+gzip"]


def test_a_base_may_name_one_layer_twice_and_tell_no_history(root: Path, base: BaseLayout) -> None:
    entry = base.image(layers=1, history=None)
    stored = base.folder / "blobs" / "sha256"
    manifest = json.loads((stored / entry["digest"].removeprefix("sha256:")).read_bytes())
    config = json.loads((stored / manifest["config"]["digest"].removeprefix("sha256:")).read_bytes())
    manifest["layers"] *= 2
    config["rootfs"]["diff_ids"] *= 2
    manifest["config"] = base.json(config, manifest["config"]["mediaType"])
    build(root, Options(base=base.pinned(base.json(manifest, manifest["mediaType"]))))
    assert len(_image(root).manifest["layers"]) == 2 + 4


def _arm(base: BaseLayout) -> dict[str, Any]:
    return base.image(platform="linux/arm64") | {"platform": {"os": "linux", "architecture": "arm64"}}


def _two(base: BaseLayout) -> dict[str, Any]:
    platform = {"os": "linux", "architecture": "amd64"}
    variants = [base.image(layers=n) | {"platform": platform | {"variant": v}} for n, v in ((1, "v2"), (2, "v3"))]
    return base.index(*variants)


def _with_config(base: BaseLayout, **change: Any) -> dict[str, Any]:
    return base.image(**change)


BASES: dict[str, tuple[Callable[[BaseLayout], dict[str, Any]], str]] = {
    "another platform": (lambda b: b.image(platform="linux/arm64"), "is for linux/arm64, not linux/amd64"),
    "index without the platform": (lambda b: b.index(_arm(b)), "has no linux/amd64, it has linux/arm64"),
    "index of several": (_two, "has several images for linux/amd64"),
    "empty index": (lambda b: b.index(), "has no linux/amd64, it has no platforms"),
    "foreign layers": (
        lambda b: b.image(media_type="application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"), "cannot be passed on",
    ),
    "restricted layers": (
        lambda b: b.image(media_type="application/vnd.oci.image.layer.nondistributable.v1.tar"), "cannot be passed on",
    ),
    "unknown layers": (lambda b: b.image(media_type="application/x-encrypted"), "cannot be passed on"),
    "volume over the weights": (lambda b: b.image(settings={"Volumes": {"/models/": {}}}), "declares a volume at /models"),
    "volume over everything": (lambda b: b.image(settings={"Volumes": {"/x/../": {}}}), "declares a volume at /x"),
    "too many layers": (lambda b: b.image(layers=124), "the image would have 128 layers, an engine takes 127"),
    "environment that is none": (lambda b: b.image(settings={"Env": {"A": "b"}}), "config: config.Env"),
    "labels that are none": (lambda b: b.image(settings={"Labels": ["a"]}), "config: config.Labels"),
    "fewer layers in the config": (lambda b: b.image(rootfs={"type": "layers", "diff_ids": []}), "its config has 0 layers"),
    "no layers in the config": (lambda b: b.image(rootfs=None), "config: rootfs"),
    "no platform in the config": (lambda b: b.image(architecture=None), "config: architecture"),
    "no image at all": (lambda b: b.blob(b"hello", "text/plain"), "is no JSON"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "word"), BASES.values(), ids=BASES)
def test_a_base_that_does_not_fit_is_refused_in_one_line_and_nothing_is_written(
    root: Path, base: BaseLayout, make: Callable[[BaseLayout], dict[str, Any]], word: str
) -> None:
    _refused(root, Options(base=base.pinned(make(base))), Refusal, word)


def test_a_base_that_is_not_pinned_is_refused_with_the_line_that_pins_it(root: Path, base: BaseLayout) -> None:
    base.tag(base.image(), "v1")
    for given in (f"oci:{base.folder}:v1", f"oci:{base.folder}"):
        line = f"write serve.base: {given}@{base.entries[0]['digest']}"
        _refused(root, Options(base=given), BuildRefused, line)


@pytest.mark.parametrize(
    ("config", "word"),
    [
        (b'{"head_dim": 48}', "attention heads of 48: tgi"),
        (b'{"head_dim": 64, "rope_scaling": {"rope_type": "dynamic"}}', "rope_type 'dynamic': tgi"),
        (b"[]", "is no JSON object"),
        (b"nonsense", "is no JSON"),
        (b"[" * 100_000, "is no JSON"),
        (None, "config.json: is not of the model"),
    ],
)
def test_a_server_that_computes_another_function_is_not_given_the_weights(
    tmp_path: Path, base: BaseLayout, config: bytes | None, word: str
) -> None:
    merged = build_tree.shards(1) | ({} if config is None else {"config.json": config})
    if config is None:
        del merged["config.json"]
    build_tree.make(tmp_path / "root", merged)
    _refused(tmp_path / "root", Options(base=base.pinned(base.image())), BuildRefused, word)
    build(tmp_path / "root", Options())  # as a volume, for whichever server


def test_a_base_that_is_not_there_is_refused(root: Path, tmp_path: Path, base: BaseLayout) -> None:
    digest = "sha256:" + "0" * 64
    _refused(root, Options(base=f"oci:{tmp_path / 'nowhere'}@{digest}"), Refusal, "is no OCI layout")
    _refused(root, Options(base=f"oci:{base.folder}@{digest}"), Refusal, "is absent")
    _refused(root, Options(base="no reference"), BuildRefused, "is no reference")


@pytest.mark.parametrize("size", ["same", "other"])
def test_a_corrupt_blob_of_the_base_is_never_passed_on(root: Path, base: BaseLayout, size: str) -> None:
    entry = base.image(layers=2)
    stored = base.folder / "blobs" / "sha256"
    manifest = json.loads((stored / entry["digest"].removeprefix("sha256:")).read_bytes())
    for blob in (manifest["layers"][1], manifest["config"], entry):
        path = stored / blob["digest"].removeprefix("sha256:")
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + b"!" if size == "same" else whole + b"!")
        _refused(root, Options(base=base.pinned(entry)), Refusal, "holds other bytes|has .* bytes and not|is absent")
        path.write_bytes(whole)
    build(root, Options(base=base.pinned(entry)))


# -- what is refused


def _refused(root: Path, options: Options, kind: type[Refusal], word: str) -> Refusal:
    """``build`` refuses with one line that matches, and no index, no report and no half blob is there."""
    with pytest.raises(kind, match=word) as refused:
        build(root, options)
    assert "\n" not in str(refused.value)
    target = root / layout.IMAGE
    assert not (target / "index.json").exists()
    assert not (root / layout.IMAGE_REPORT).exists()
    assert not list(target.rglob(".*"))
    return refused.value


SHARD = layout.MERGED / "model-00002-of-00003.safetensors"


def _swap(root: Path) -> None:
    one, other = root / SHARD, root / layout.MERGED / "model-00001-of-00003.safetensors"
    data = one.read_bytes()
    one.write_bytes(other.read_bytes()[:1] * len(data))


def _flip(root: Path) -> None:
    data = bytearray((root / layout.MERGED / "tokenizer.json").read_bytes())
    data[0] ^= 1
    (root / layout.MERGED / "tokenizer.json").write_bytes(data)


def _link(root: Path) -> None:
    (root / SHARD).rename(root / "elsewhere")
    (root / SHARD).symlink_to(root / "elsewhere")


def _link_folder(root: Path) -> None:
    (root / layout.MERGED).rename(root / "elsewhere")
    (root / layout.MERGED).symlink_to(root / "elsewhere")


def _pipe(root: Path) -> None:
    (root / SHARD).unlink()
    os.mkfifo(root / SHARD)


def _edit(path: Path, old: str, new: str) -> Callable[[Path], None]:
    def edit(root: Path) -> None:
        text = (root / path).read_text()
        assert old in text
        (root / path).write_text(text.replace(old, new, 1))

    return edit


def _other_model(root: Path) -> None:
    """A parity report about files that are there, and not the verdict's."""
    build_tree.weigh(root, build_tree.shards(seed=2))


def _other_model_in_the_report(root: Path) -> None:
    """The files and their list are swapped, the digest of the whole is not."""
    merged = files.read_json(root / layout.PARITY_REPORT, ParityReport).merged
    build_tree.weigh(root, build_tree.shards(seed=2))
    report = files.read_json(root / layout.PARITY_REPORT, ParityReport)
    files.write_json(root / layout.PARITY_REPORT, report.model_copy(update={"merged": merged}))


def _judged_anew(root: Path) -> None:
    """Another model with a record that holds, which is not committed."""
    build_tree.weigh(root, build_tree.shards(seed=2))
    build_tree.judge(root, as_params(scaled_down()))


def _uncommitted(path: Path) -> Callable[[Path], None]:
    def drop(root: Path) -> None:
        (root / ".git" / "info" / "exclude").write_text(f"{path}\n")
        subprocess.run(["git", "rm", "--quiet", "--cached", str(path)], cwd=root, check=True)
        build_tree.commit(root, "without it")

    return drop


def _without_history(root: Path) -> None:
    shutil.rmtree(root / ".git")
    subprocess.run(["git", "init", "--quiet"], cwd=root, check=True)


def _hidden_change(root: Path) -> None:
    """A change of the record that git's index is told to overlook."""
    subprocess.run(["git", "update-index", "--assume-unchanged", str(layout.PARAMS)], cwd=root, check=True)
    _edit(layout.PARAMS, "source: null", "source: https://example.invalid/other")(root)


TAMPERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a swapped shard": (_swap, "model-00002-of-00003.safetensors: is not the file that the verdict is about"),
    "one bit of the tokenizer": (_flip, "tokenizer.json: is not the file"),
    "a shorter shard": (lambda r: os.truncate(r / SHARD, 10), "has 10 bytes, the verdict is about 5001"),
    "a file more": (lambda r: (r / layout.MERGED / "args.safetensors").write_bytes(b"x"), "args.safetensors: is not of the model"),
    "a hidden file more": (lambda r: (r / layout.MERGED / ".x").write_bytes(b"x"), "[.]x: is not of the model"),
    "a file less": (lambda r: (r / SHARD).unlink(), "model-00002-of-00003.safetensors: is not here"),
    "no weights": (lambda r: shutil.rmtree(r / layout.MERGED), "not a directory"),
    "a link": (_link, "is a symbolic link"),
    "a linked folder": (_link_folder, "not a directory"),
    "a pipe": (_pipe, "not a regular file"),
    "an empty folder more": (lambda r: (r / layout.MERGED / "x").symlink_to("."), "is a symbolic link"),
    "a changed verdict": (_edit(layout.VERDICT, '"status": "pass"', '"status": "fail"'), "the verdict is void"),
    "a verdict with another reason": (_edit(layout.VERDICT, '"reason": "', '"reason": "!'), "the verdict is void"),
    "a cut verdict": (lambda r: os.truncate(r / layout.VERDICT, 100), "verdict.json: "),
    "no verdict": (lambda r: (r / layout.VERDICT).unlink(), "verdict.json: No such file"),
    "another model": (_other_model, "the verdict is void"),
    "another model under the digest": (_other_model_in_the_report, "the verdict is void"),
    "another model, judged and not committed": (_judged_anew, "is not committed as it is here"),
    "a changed gate": (_edit(layout.PARAMS, "resolution: 0.3", "resolution: 0.4"), "the verdict is void"),
    "a changed parameter of a stage": (_edit(layout.PARAMS, "seed: 17", "seed: 18"), "the verdict is void"),
    "a changed parameter of the image": (
        _edit(layout.PARAMS, "name: azure-cli-router", "name: other"), "params.yaml: is not committed as it is here",
    ),
    "a change that git overlooks": (_hidden_change, "params.yaml: is not committed as it is here"),
    "a pipeline that is not committed": (_edit(layout.PIPELINE, "\n", "\n# changed\n"), "dvc.yaml: is not committed"),
    "a report that git does not have": (_uncommitted(layout.PARITY_REPORT), "parity.json: is not committed"),
    "a verdict that git does not have": (_uncommitted(layout.VERDICT), "verdict.json: is not committed"),
    "no git": (lambda r: shutil.rmtree(r / ".git"), "is no git repository|has no commit"),
    "no commit": (_without_history, "no commit"),
    "changed predictions": (
        _edit(layout.PREDICTIONS / "candidate.jsonl", '"prediction":"vm"', '"prediction":"sql"'), "the verdict is void",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("tamper", "word"), TAMPERS.values(), ids=TAMPERS)
def test_a_record_that_does_not_hold_is_refused_in_one_line_and_nothing_is_written(
    root: Path, tamper: Callable[[Path], object], word: str
) -> None:
    tamper(root)
    _refused(root, Options(), EvidenceRefused, word)


def test_what_is_not_shipped_need_not_be_here(root: Path) -> None:
    expected = build(root, Options())
    for folder in (layout.BASE, layout.ADAPTER, layout.RAW, layout.IMAGE):
        shutil.rmtree(root / folder)
    assert build(root, Options()) == expected


def test_a_verdict_that_does_not_pass_is_refused_by_its_own_code(tmp_path: Path) -> None:
    cases = {"fail": ({"at_least": 0.99}, VerdictFailed), "unsure": ({"resolution": 0.1}, VerdictInconclusive)}
    for name, (change, kind) in cases.items():
        document = scaled_down()
        document["gates"]["routes_well"] |= change
        document["validate"]["min_rows"]["test"] = 400
        build_tree.make(tmp_path / name, document=document)
        _refused(tmp_path / name, Options(), kind, "^verdict ")


def test_a_shallow_clone_is_refused(root: Path, tmp_path: Path) -> None:
    (root / "more").write_text("x")
    build_tree.commit(root, "more")
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", "--depth=1", f"file://{root}", clone], check=True)
    for folder in ("models", "data"):
        shutil.copytree(root / folder, clone / folder)
    _refused(clone, Options(), EvidenceRefused, "the clone is shallow.*fetch --unshallow")


@pytest.mark.parametrize(
    "name", ["../up.json", "/abs.json", "a//b", ".wh.config.json", "sub/.wh..wh..opq", "a\\b", "a\nb"]
)
def test_a_file_that_would_leave_its_folder_in_the_image_is_refused(root: Path, name: str) -> None:
    report = files.read_json(root / layout.PARITY_REPORT, ParityReport)
    named = {**report.files, name: report.files["config.json"]}
    described = {path: FileDigest(file.sha256, file.size) for path, file in named.items()}
    model = digest.of_manifest(described)
    with pytest.raises(BuildRefused, match="cannot be the name of a file in an image") as refused:
        weights.layers(root / layout.MERGED, described, model, "name")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (Options(runtime="nginx"), "is no runtime"),
        (Options(runtime="../tgi"), "is no runtime"),
        (Options(push="oci:folder"), "is no place in a registry"),
        (Options(push="ghcr.io/o/n@sha256:" + "0" * 64), "is no place in a registry"),
        (Options(push="GHCR.io/O/n"), "is no reference"),
        (Options(push="ghcr.io/o/n", output=Path("x")), "give one of --push and --output"),
    ],
)
def test_an_option_that_means_nothing_is_refused(root: Path, options: Options, word: str) -> None:
    _refused(root, options, Refusal, word)


def test_an_output_folder_that_is_none_of_ours_is_left_alone(root: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    _refused(root, Options(output=tmp_path / "full"), BuildRefused, "is no OCI layout")
    (tmp_path / "file").write_text("mine")
    _refused(root, Options(output=tmp_path / "file"), Refusal, "Not a directory|File exists")
    assert sorted(path.name for path in (tmp_path / "full").iterdir()) == ["thesis.txt"]


# -- what is read, and what is not


def _reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of all members that are read from now on."""
    read: list[str] = []
    inner = tar._read

    def noted(member: tar.Member, skip: int) -> Iterator[bytes]:
        read.append(member.path.name)
        return inner(member, skip)

    monkeypatch.setattr(tar, "_read", noted)
    return read


def test_a_rebuild_reads_no_weights_and_one_changed_shard_is_one_layer(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(root, Options())
    read = _reads(monkeypatch)
    build(root, Options())
    assert read == []
    merged = _weights(root) | {SHARD.name: b"changed"}
    build_tree.weigh(root, merged)
    build_tree.judge(root, as_params(scaled_down()))
    build_tree.commit(root, "another model")
    sent = plan(root, Options())
    assert [blob.there for blob in sent.blobs if blob.kind == "weights"] == [True, False, True, False]
    build(root, Options())
    again = {SHARD.name, *(name for name, data in merged.items() if data and not name.endswith(".safetensors"))}
    assert set(read) == again
    assert len(read) == len(again)
    assert {name.rpartition("/")[2]: data for name, data in _image(root).files.items()} == merged


def test_a_lost_blob_alone_is_made_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = build(root, Options())
    (root / layout.IMAGE / "blobs" / "sha256" / report.layers[1].digest.removeprefix("sha256:")).write_bytes(b"damaged")
    read = _reads(monkeypatch)
    assert build(root, Options()) == report
    assert read == [*report.layers[1].files]
    assert _image(root).digest == report.image


@pytest.mark.parametrize("text", ["", "nonsense", "[]", "{", '{"x": ["sha256:0", "y"]}', "\x00"])
def test_a_damaged_cache_counts_for_nothing(root: Path, text: str) -> None:
    report = build(root, Options())
    (root / layout.LAYERS).write_text(text)
    (root / KNOWN).write_text(text)
    assert build(root, Options()) == report
    assert _image(root).digest == report.image


@pytest.mark.parametrize(
    "entry", [["sha256:" + "0" * 64, None], ["OTHER", None], ["OTHER", 5], "OTHER", [None, None], [[], {}]]
)
def test_a_poisoned_cache_puts_no_layer_of_another_size_into_an_image(root: Path, entry: Any) -> None:
    report = build(root, Options())
    cache = json.loads((root / layout.LAYERS).read_text())
    last = report.layers[-1]
    poisoned = json.loads(json.dumps(entry).replace("OTHER", last.digest))
    for key, (_, size) in cache.items():
        filled = [poisoned[0], size if poisoned[1] is None else poisoned[1]] if isinstance(poisoned, list) else poisoned
        cache[key] = filled
    (root / layout.LAYERS).write_text(json.dumps(cache))
    assert build(root, Options()) == report
    assert _image(root).digest == report.image


def test_a_layer_that_was_read_in_two_goes_is_held_to_its_files_again(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for a store that lost its connection: it reads half a layer, then goes on from there."""

    def add(self: Any, blob: Any, digest: str | None, seen: Any) -> str:
        if digest is not None or blob.size < 6000:
            return str(inner(self, blob, digest, seen))
        half = blob.size // 2
        data = b"".join(blob.blocks())[:half]
        if change:
            data = data[:-1] + bytes([data[-1] ^ 1])  # as it was when the first half was sent
        return str(inner(self, Bytes(data + b"".join(blob.blocks(half))), None, seen))

    inner = Layout.add
    monkeypatch.setattr(Layout, "add", add)
    change = True
    _refused(root, Options(), EvidenceRefused, "changed while it was sent")
    change = False
    report = build(root, Options())
    monkeypatch.undo()
    shutil.rmtree(root / ".lockstep")
    assert build(root, Options()) == report


# -- the plan


def test_the_plan_says_exactly_what_will_be_sent(root: Path, base: BaseLayout) -> None:
    options = Options(base=base.pinned(base.image(layers=2)))
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


# -- the same record, the same image


def test_later_commits_that_do_not_touch_the_record_change_nothing(root: Path) -> None:
    report = build(root, Options())
    (root / "README.md").write_text("read me")
    build_tree.commit(root, "the image report and a README")
    assert build(root, Options()) == report


def test_a_merged_branch_is_the_same_image(root: Path) -> None:
    git = ["git", "-c", "user.name=T", "-c", "user.email=t@e.invalid"]
    first = subprocess.run(
        ["git", "branch", "--show-current"], cwd=root, check=True, capture_output=True, text=True
    ).stdout.strip()
    subprocess.run(["git", "switch", "--quiet", "--create", "work"], cwd=root, check=True)
    build_tree.weigh(root, build_tree.shards(seed=3))
    build_tree.judge(root, as_params(scaled_down()))
    build_tree.commit(root, "another model")
    report = build(root, Options())
    subprocess.run(["git", "clean", "-qfd", "reports"], cwd=root, check=True)
    subprocess.run(["git", "switch", "--quiet", first], cwd=root, check=True)
    (root / "README.md").write_text("main went on")
    build_tree.commit(root, "main went on")
    subprocess.run([*git, "merge", "--quiet", "--no-ff", "-m", "merge", "work"], cwd=root, check=True)
    assert build(root, Options()) == report


SCRIPT = """
import os, sys
os.umask(int(sys.argv[2], 8))
from pathlib import Path
from release.build import Options, build
print(build(Path(sys.argv[1]), Options(base=sys.argv[3])).image)
"""


@pytest.mark.parametrize(
    ("umask", "env"),
    [
        ("0077", {"TZ": "Pacific/Kiritimati", "LANG": "C", "LC_ALL": "C", "PYTHONHASHSEED": "1"}),
        ("0000", {"TZ": "America/St_Johns", "LC_ALL": "tr_TR.UTF-8", "PYTHONHASHSEED": "2", "PYTHONUTF8": "0"}),
    ],
)
def test_another_machine_user_and_folder_make_the_same_image(
    root: Path, base: BaseLayout, tmp_path: Path, umask: str, env: dict[str, str]
) -> None:
    """A clone elsewhere, files made in another order with other times and modes, another zone, locale, home, umask."""
    entry = base.image()
    expected = build(root, Options(base=base.pinned(entry))).image
    clone = tmp_path / "a folder with ünïcode" / "deeper"
    subprocess.run(["git", "clone", "--quiet", root, clone], check=True)
    shutil.copytree(root / "data", clone / "data")
    for name, data in reversed(_weights(root).items()):
        path = clone / layout.MERGED / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        path.chmod(0o400)
        os.utime(path, (1, 1))
    (clone / layout.MERGED).chmod(0o700)
    elsewhere = shutil.copytree(base.folder, tmp_path / "elsewhere")
    home = tmp_path / "home"
    home.mkdir()
    (home / ".gitconfig").write_text(
        "[log]\nshowSignature = true\ndate = relative\n[core]\nquotePath = true\nautocrlf = input\n[safe]\ndirectory = *\n"
    )
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": str(REPOSITORY), **env}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(clone), umask, f"oci:{elsewhere}@{entry['digest']}"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.strip() == expected, done.stderr
    assert oci_check.only(clone / layout.IMAGE).digest == expected


# -- killed, and two at once


def _forked(action: Callable[[], object]) -> int:
    """Start ``action`` in a process of its own; return its id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        action()
        code = 0
    finally:
        os._exit(code)


def _ended(child: int) -> int:
    """How a process ended: 0 for well, -9 for killed."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _killing(point: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """End this process by SIGKILL at the so many-th time that bytes are read, written to the disk, or get a name."""
    count = 0

    def counted(inner: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count == point:
                os.kill(os.getpid(), 9)
            return inner(*args, **kwargs)

        return wrapped

    monkeypatch.setattr(os, "fsync", counted(os.fsync))
    monkeypatch.setattr(Path, "replace", counted(Path.replace))
    monkeypatch.setattr(Path, "unlink", counted(Path.unlink))
    monkeypatch.setattr(tar, "_read", counted(tar._read))


def test_killed_at_any_point_the_old_image_is_whole_and_the_next_build_ends_well(
    root: Path, base: BaseLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = base.image(layers=1), base.image(layers=2, settings={"WorkingDir": "/new"})
    first = build(root, Options(base=base.pinned(old))).image
    second = build(root, Options(base=base.pinned(new), output=root / "second")).image
    target, kept = root / layout.IMAGE, shutil.copytree(root / layout.STATE, root / "kept")
    seen = set()
    options = Options(base=base.pinned(new))
    recipe = write_down(root, options)  # the evidence is held once: this is about what is written
    monkeypatch.setattr("release.build.write_down", lambda *_: recipe)
    for point in range(1, 1000):
        shutil.rmtree(root / layout.STATE)
        shutil.copytree(kept, root / layout.STATE)
        (root / layout.LAYERS).unlink()  # so that layers are read, too

        def killed(point: int = point) -> None:
            _killing(point, monkeypatch)
            build(root, options)

        ended = _ended(_forked(killed))
        # Whatever the index names is whole: the old image, the new one, or both for a moment.
        seen.add(frozenset(image.digest for image in oci_check.check(target).values()))
        if ended == 0:
            break
        assert ended == -9
        assert build(root, options).image == second
        assert oci_check.only(target).digest == second
        assert oci_check.blobs(target) == _needed(oci_check.only(target))
        assert not list(target.glob(".*"))
    assert point > 15
    assert {frozenset({first}), frozenset({second})} <= seen


def test_two_builders_at_once_leave_one_whole_image(root: Path, base: BaseLayout) -> None:
    entries = [base.pinned(base.image(layers=n)) for n in (1, 2, 3)]
    children = [_forked(functools.partial(build, root, Options(base=entry))) for entry in entries]
    assert [_ended(child) for child in children] == [0, 0, 0]
    image = _image(root)
    assert oci_check.blobs(root / layout.IMAGE) == _needed(image)


# -- other tools


@pytest.mark.skipif(not shutil.which("skopeo"), reason="no skopeo here")
def test_skopeo_reads_the_layout_and_copies_it_whole(root: Path, base: BaseLayout, tmp_path: Path) -> None:
    report = build(root, Options(base=base.pinned(base.image(layers=2))))
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
