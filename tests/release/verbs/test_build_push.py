"""build --push: to a real registry, sent once, tagged last."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from checks.process.errors import BuildRefused, EvidenceRefused, RegistryRefused
from checks.storage import layout
from release.adapters.registry.client import Repository
from release.verbs.build import BuildOptions, build, plan
from tests import build_tree, oci_check, registry_service
from tests.build_tree import BaseLayout
from tests.conftest import as_params, scaled_down
from tests.registry_service import Registry

pytestmark = pytest.mark.slow

SIZE = 3 << 20  # of a shard: several blocks


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A committed record whose verdict passes. Read-only by custom."""
    root = tmp_path_factory.mktemp("released") / "root"
    build_tree.make(root, build_tree.shards(4, SIZE))
    return root


@pytest.fixture
def root(released: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(released, tmp_path / "root")


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    """A registry that runs, plain, and empty."""
    with registry_service.registry(tmp_path / "registry") as service:
        yield service


def _pulled(registry: Registry, reference: str, folder: Path) -> oci_check.Checked:
    """The image as another tool pulls it."""
    command = ["skopeo", "copy", "--quiet", "--insecure-policy", "--preserve-digests", "--src-tls-verify=false"]
    subprocess.run([*command, f"docker://{registry.host}/{reference}", f"oci:{folder}:pulled"], check=True)
    return oci_check.only(folder)


def _sent(root: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the blobs that are sent from now on."""
    sent: list[int] = []
    inner = Repository.add

    def add(self: Repository, blob: Any, *rest: Any) -> str:
        sent.append(blob.size)
        return inner(self, blob, *rest)

    monkeypatch.setattr(Repository, "add", add)
    return sent


def test_a_pushed_image_is_the_one_that_a_folder_gets(root: Path, registry: Registry, tmp_path: Path) -> None:
    expected = build(root, BuildOptions())
    pushed = build(root, BuildOptions(push=f"{registry.host}/team/model"))
    assert (pushed.image, pushed.layers, pushed.size) == (expected.image, expected.layers, expected.size)
    version = expected.model.removeprefix("sha256:")[:12]
    assert registry.tags == {version}
    image = _pulled(registry, f"team/model:{version}", tmp_path / "pulled")
    assert image.digest == expected.image
    assert image.files == oci_check.only(root / layout.IMAGE).files
    build(root, BuildOptions(push=f"{registry.host}/team/model:named"))
    assert registry.tags == {version, "named"}


def test_another_tool_does_not_take_a_layer_for_the_file_that_is_in_it(
    root: Path, registry: Registry, tmp_path: Path
) -> None:
    """oras writes a layer to a file where an annotation gives a name; a layer of weights is a tar."""
    build(root, BuildOptions(push=f"{registry.host}/team/model:named"))
    pulled = tmp_path / "pulled"
    command = ["oras", "pull", "--plain-http", "--output", str(pulled), f"{registry.host}/team/model:named"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "oras copy" in done.stdout  # what it says of layers without a file name
    assert [path for path in pulled.rglob("*") if path.is_file()] == []


def test_what_is_there_is_not_sent_again_and_a_changed_shard_alone_is(
    root: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = BuildOptions(push=f"{registry.host}/model")
    before = plan(root, options)
    assert before.to_send == before.total
    report = build(root, options)
    sent = _sent(root, monkeypatch)
    assert build(root, options) == report
    assert sent == []
    assert plan(root, options).to_send < 10_000
    name = "model-00002-of-00004.safetensors"
    merged = build_tree.shards(4, SIZE)
    build_tree.weigh(root, merged | {name: bytes(reversed(merged[name]))})
    build_tree.judge(root, as_params(scaled_down()))
    build_tree.commit(root, "another model")
    changed = build(root, options)
    assert changed.image != report.image
    assert sum(size > SIZE for size in sent) == 1
    assert sum(sent) < SIZE * 1.1


def test_the_base_is_mounted_within_a_registry_and_copied_into_it_once(
    root: Path, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = BaseLayout(tmp_path / "base")
    entry = base.image(layers=3)
    report = build(root, BuildOptions(base=base.pinned(entry), push=f"{registry.host}/model"))
    image = _pulled(registry, f"model@{report.image}", tmp_path / "pulled")
    assert {"layer0", "layer1", "layer2"} < image.files.keys()

    base.tag(entry, "v1")
    copy = ["skopeo", "copy", "--quiet", "--insecure-policy", "--preserve-digests", "--dest-tls-verify=false"]
    subprocess.run([*copy, f"oci:{base.folder}:v1", f"docker://{registry.host}/bases/server:v1"], check=True)
    name = f"{registry.host}/bases/server:v1"
    with pytest.raises(BuildRefused, match=f"write serve.base: {name}@{entry['digest']}"):
        build(root, BuildOptions(base=name, push=f"{registry.host}/other"))
    sent = _sent(root, monkeypatch)
    mounted = build(root, BuildOptions(base=f"{name}@{entry['digest']}", push=f"{registry.host}/other"))
    assert len(sent) == len(report.layers) + 1  # the weights and the config: no layer of the base
    assert (mounted.base and mounted.base.manifest) == entry["digest"]
    assert _pulled(registry, f"other@{mounted.image}", tmp_path / "other").files == image.files
    labels = _pulled(registry, f"other@{mounted.image}", tmp_path / "again").config["config"]["Labels"]
    assert labels["org.opencontainers.image.base.name"] == name
    # From the registry into a folder, too.
    assert build(root, BuildOptions(base=f"{name}@{entry['digest']}")).image == mounted.image
    assert oci_check.only(root / layout.IMAGE).files == image.files


def test_an_index_in_a_registry_is_resolved(root: Path, registry: Registry, tmp_path: Path) -> None:
    base = BaseLayout(tmp_path / "base")
    ours = base.image(layers=1, docker=True) | {"platform": {"os": "linux", "architecture": "amd64"}}
    other = base.image(layers=1, platform="linux/arm64") | {"platform": {"os": "linux", "architecture": "arm64"}}
    index = base.index(ours, other)
    base.tag(index, "v1")
    copy = ["skopeo", "copy", "--all", "--quiet", "--insecure-policy", "--preserve-digests", "--dest-tls-verify=false"]
    subprocess.run([*copy, f"oci:{base.folder}:v1", f"docker://{registry.host}/server:v1"], check=True)
    report = build(root, BuildOptions(base=f"{registry.host}/server@{index['digest']}", push=f"{registry.host}/model"))
    assert report.base is not None
    assert (report.base.index, report.base.manifest) == (index["digest"], ours["digest"])


PLATFORMS: list[tuple[str | None, tuple[str, ...], str]] = [
    # serve.platform, what the base's index has, and which image is taken or what is refused
    (None, ("linux/amd64", "linux/arm64"), "linux/amd64"),
    ("linux/amd64", ("linux/amd64", "linux/arm64"), "linux/amd64"),
    ("linux/arm64", ("linux/amd64", "linux/arm64"), "linux/arm64"),
    ("linux/arm64", ("linux/amd64", "linux/arm64/v8"), "linux/arm64/v8"),
    ("linux/arm64", ("linux/amd64",), "has no linux/arm64; it has linux/amd64"),
    (None, ("linux/arm64",), "has no linux/amd64; it has linux/arm64"),
]


@pytest.mark.parametrize(("wanted", "has", "found"), PLATFORMS)
def test_the_image_of_the_platform_that_params_name_is_taken_or_its_absence_is_refused(
    wanted: str | None, has: tuple[str, ...], found: str, registry: Registry, tmp_path: Path
) -> None:
    base = BaseLayout(tmp_path / "base")
    entries = dict[str, dict[str, Any]]()
    for name in has:
        words = dict(zip(("os", "architecture", "variant"), name.split("/"), strict=False))
        entries[name] = base.image(layers=1 + len(entries), platform=name) | {"platform": words}
    index = base.index(*entries.values())
    base.tag(index, "v1")
    copy = ["skopeo", "copy", "--all", "--quiet", "--insecure-policy", "--preserve-digests", "--dest-tls-verify=false"]
    subprocess.run([*copy, f"oci:{base.folder}:v1", f"docker://{registry.host}/server:v1"], check=True)
    document = scaled_down()
    document["serve"]["platform"] = wanted
    root = tmp_path / "of-one-platform"
    build_tree.make(root, build_tree.shards(1), document)
    options = BuildOptions(base=f"{registry.host}/server@{index['digest']}", push=f"{registry.host}/model")
    if found not in has:
        with pytest.raises(BuildRefused) as refused:
            build(root, options)
        assert str(refused.value).splitlines() == [
            f"{options.base}: {found}; pin an image for it, or change serve.platform"
        ]
        return
    report = build(root, options)
    assert report.base is not None
    assert report.base.manifest == entries[found]["digest"]
    assert _pulled(registry, f"model@{report.image}", tmp_path / "pulled").config["architecture"] == found.split("/")[1]


@pytest.mark.parametrize("changed", ["same size", "shorter"])
def test_damaged_weights_are_never_tagged(root: Path, registry: Registry, changed: str) -> None:
    path = root / layout.MERGED / "model-00003-of-00004.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + b"!" if changed == "same size" else data[:-1])
    with pytest.raises(EvidenceRefused):
        build(root, BuildOptions(push=f"{registry.host}/model"))
    assert registry.tags == set()
    assert not (root / layout.IMAGE_REPORT).exists()
    path.write_bytes(data)
    build(root, BuildOptions(push=f"{registry.host}/model"))
    assert len(registry.tags) == 1


def test_a_push_that_was_broken_off_sends_only_what_is_missing(
    root: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = BuildOptions(push=f"{registry.host}/model")
    with monkeypatch.context() as patch:
        inner, count = Repository.add, 0

        def add(self: Repository, *rest: Any) -> str:
            nonlocal count
            count += 1
            if count > 2:
                raise RegistryRefused("the line went dead", "try again")
            return inner(self, *rest)

        patch.setattr(Repository, "add", add)
        patch.setattr("release.image.assembly.WORKERS", 1)
        with pytest.raises(RegistryRefused):
            build(root, options)
    assert registry.tags == set()
    sent = _sent(root, monkeypatch)
    build(root, options)
    assert sum(size > SIZE for size in sent) == 2


def test_a_layer_that_is_too_large_for_the_registry_is_refused_before_the_first_byte(
    root: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("release.adapters.registry.limits._LIMITS", {r"127\..*": SIZE})
    with pytest.raises(BuildRefused, match=r"a layer has .* bytes"):
        build(root, BuildOptions(push=f"{registry.host}/model"))
    assert registry.stored == {}
