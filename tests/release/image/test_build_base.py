"""The base of an image: passed on as it is, for the right platform, or refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from checks.process.errors import BuildRefused, Refusal
from checks.storage import layout
from release.verbs.build import BuildOptions, build
from tests import build_tree, oci_check
from tests.build_tree import BaseLayout, built_image, needed, refused
from tests.conftest import scaled_down

pytestmark = pytest.mark.slow

pytest_plugins = ("tests.build_fixtures",)
OCI = "org.opencontainers.image."


# -- the base


def _server(image: oci_check.Checked) -> dict[str, Any]:
    return image.config["config"]


def test_the_base_is_passed_on_and_its_config_is_the_servers(root: Path, base: BaseLayout) -> None:
    entry = base.image(layers=3)
    report = build(root, BuildOptions(base=base.tag(entry, "v1")))
    image = built_image(root)
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
    assert oci_check.blobs(root / layout.IMAGE) == needed(image)


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
    report = build(root, BuildOptions(base=base.pinned(index)))
    assert report.base is not None
    assert (report.base.index, report.base.manifest, report.base.platform) == (
        index["digest"], ours["digest"], "linux/amd64",
    )  # fmt: skip
    assert build(root, BuildOptions(base=base.pinned(ours))).image == report.image


def test_dockers_own_media_types_are_accepted_and_written_as_ocis(root: Path, base: BaseLayout) -> None:
    entry = base.image(layers=2, docker=True)
    index = base.index(entry | {"platform": {"os": "linux", "architecture": "amd64"}}, docker=True)
    for reference in (base.pinned(entry), base.pinned(index)):
        build(root, BuildOptions(base=reference))
        kinds = [layer["mediaType"] for layer in built_image(root).manifest["layers"]]
        assert kinds[:2] == ["application/vnd.oci.image.layer.v1.tar", "application/vnd.oci.image.layer.v1.tar+gzip"]


def test_a_base_may_name_one_layer_twice_and_tell_no_history(root: Path, base: BaseLayout) -> None:
    entry = base.image(layers=1, history=None)
    stored = base.folder / "blobs" / "sha256"
    manifest = json.loads((stored / entry["digest"].removeprefix("sha256:")).read_bytes())
    config = json.loads((stored / manifest["config"]["digest"].removeprefix("sha256:")).read_bytes())
    manifest["layers"] *= 2
    config["rootfs"]["diff_ids"] *= 2
    manifest["config"] = base.json(config, manifest["config"]["mediaType"])
    build(root, BuildOptions(base=base.pinned(base.json(manifest, manifest["mediaType"]))))
    assert len(built_image(root).manifest["layers"]) == 2 + 4


def _arm(base: BaseLayout) -> dict[str, Any]:
    return base.image(platform="linux/arm64") | {"platform": {"os": "linux", "architecture": "arm64"}}


def _two(base: BaseLayout) -> dict[str, Any]:
    platform = {"os": "linux", "architecture": "amd64"}
    variants = [base.image(layers=n) | {"platform": platform | {"variant": v}} for n, v in ((1, "v2"), (2, "v3"))]
    return base.index(*variants)


BASES: dict[str, tuple[Callable[[BaseLayout], dict[str, Any]], str]] = {
    "another platform": (lambda b: b.image(platform="linux/arm64"), "is for linux/arm64, not for linux/amd64"),
    "index without the platform": (lambda b: b.index(_arm(b)), "has no linux/amd64; it has linux/arm64"),
    "index of several": (_two, "has several images for linux/amd64"),
    "empty index": (lambda b: b.index(), "has no linux/amd64; it has no platforms"),
    "foreign layers": (lambda b: b.image(media_type="application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"), "cannot be passed on"),
    "restricted layers": (lambda b: b.image(media_type="application/vnd.oci.image.layer.nondistributable.v1.tar"), "cannot be passed on"),
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
    refused(root, BuildOptions(base=base.pinned(make(base))), Refusal, word)


@pytest.mark.parametrize(
    ("wanted", "architecture"), [(None, "amd64"), ("linux/amd64", "amd64"), ("linux/arm64", "arm64")]
)
def test_weights_alone_are_for_the_platform_of_the_nodes_that_mount_them(
    tmp_path: Path, wanted: str | None, architecture: str
) -> None:
    document = scaled_down()
    document["serve"]["platform"] = wanted
    build_tree.make(tmp_path / "root", build_tree.shards(1), document)
    build(tmp_path / "root", BuildOptions())
    config = built_image(tmp_path / "root").config
    assert (config["os"], config["architecture"]) == ("linux", architecture)


def test_a_base_that_is_not_pinned_is_refused_with_the_line_that_pins_it(root: Path, base: BaseLayout) -> None:
    base.tag(base.image(), "v1")
    for given in (f"oci:{base.folder}:v1", f"oci:{base.folder}"):
        line = f"write serve.base: {given}@{base.entries[0]['digest']}"
        refused(root, BuildOptions(base=given), BuildRefused, line)


@pytest.mark.parametrize(
    ("config", "word"),
    [
        (b'{"head_dim": 48}', "attention heads of 48: tgi"),
        (b'{"head_dim": 64, "rope_scaling": {"rope_type": "dynamic"}}', "rope_type 'dynamic': tgi"),
        (b"[]", "is not a JSON object"),
        (b"nonsense", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
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
    refused(tmp_path / "root", BuildOptions(base=base.pinned(base.image())), BuildRefused, word)
    build(tmp_path / "root", BuildOptions())  # as a volume, for whichever server


def test_a_base_that_is_not_there_is_refused(root: Path, tmp_path: Path, base: BaseLayout) -> None:
    digest = "sha256:" + "0" * 64
    refused(root, BuildOptions(base=f"oci:{tmp_path / 'nowhere'}@{digest}"), Refusal, "is not an OCI layout")
    refused(root, BuildOptions(base=f"oci:{base.folder}@{digest}"), Refusal, "is absent")
    refused(root, BuildOptions(base="no reference"), BuildRefused, "is no reference")


@pytest.mark.parametrize("size", ["same", "other"])
def test_a_corrupt_blob_of_the_base_is_never_passed_on(root: Path, base: BaseLayout, size: str) -> None:
    entry = base.image(layers=2)
    stored = base.folder / "blobs" / "sha256"
    manifest = json.loads((stored / entry["digest"].removeprefix("sha256:")).read_bytes())
    for blob in (manifest["layers"][1], manifest["config"], entry):
        path = stored / blob["digest"].removeprefix("sha256:")
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + b"!" if size == "same" else whole + b"!")
        refused(root, BuildOptions(base=base.pinned(entry)), Refusal, "has other bytes|has .* bytes and not|is absent")
        path.write_bytes(whole)
    build(root, BuildOptions(base=base.pinned(entry)))
