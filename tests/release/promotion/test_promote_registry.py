"""promote with a real registry and a real cluster's overlay; a registry that fails, hangs or lies promotes nothing."""

import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from click.testing import CliRunner

from checks.formats.serving import ServingReport
from checks.process.errors import PromotionRefused, Refusal, RegistryRefused
from checks.storage import layout
from checks.storage.files import read_json
from release.adapters.registry import reference
from release.adapters.registry.client import Repository
from release.adapters.retries import Patience
from release.cli import main
from release.overlay import overlays
from release.verbs import rollback as rollbacks
from release.verbs.page import MEDIA_TYPE, page
from release.verbs.status import status
from tests import kubernetes_tools, ledger_tree, programs, spoil
from tests import promotion_tree as tree
from tests.faulty_proxy import Fault, FaultyProxy
from tests.ledger_tree import git, keep, refs
from tests.overlay_sample import edit
from tests.promotion_tree import Release, move
from tests.registry_service import Registry, registry

pytestmark = pytest.mark.slow

alone = tree.alone
QUICK = Patience(tries=2, in_all=4, first=0.01, longest=0.02, on_request=0.1)


class Hasty(Repository):
    """One that gives up soon."""

    def __init__(self, host: str, name: str, *, push: bool = False, patience: object = None) -> None:
        super().__init__(host, name, push=push, patience=QUICK)


class World(NamedTuple):
    """A clone, its bare remote, and a registry behind a proxy that holds its image."""

    root: Path
    remote: Path
    registry: Registry
    proxy: FaultyProxy
    release: Release


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture(scope="module")
def proxy(upstream: Registry) -> Iterator[FaultyProxy]:
    with FaultyProxy(upstream.host) as running:
        yield running


@pytest.fixture(scope="module")
def made(upstream: Registry, proxy: FaultyProxy, tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("made")
    released = tree.make(folder / "work", push=f"{proxy.host}/team/router")
    ledger_tree.packed(folder / "work")
    ledger_tree.bare(folder / "origin.git", folder / "work")
    return World(folder / "work", folder / "origin.git", upstream, proxy, released)


@pytest.fixture
def world(made: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A copy of it, and a client that is not patient. The registry is put back afterwards."""
    folder = tree.copy(made.root.parent, tmp_path / "world")
    monkeypatch.setattr("release.adapters.registry.client.Repository", Hasty)
    stored = {
        path: path.read_bytes() for path in made.registry.folder.rglob("*") if path.is_file() and path.name != "log"
    }
    yield made._replace(root=folder / "work", remote=folder / "origin.git")
    made.proxy.faults.clear()
    for path, data in stored.items():
        if not path.is_file() or path.read_bytes() != data:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


def refused(world: World, cause: str, kind: type[Refusal], environment: str = "staging", **options: Any) -> Refusal:
    before, began = refs(world.remote), time.monotonic()
    with pytest.raises(kind) as found:
        move(world.root, environment, **options)
    lines = [str(found.value), *found.value.others]
    assert cause in "\n".join(lines), lines
    assert all(line.isprintable() for line in lines)
    assert refs(world.remote) == before
    assert time.monotonic() - began < 30
    return found.value


def test_an_image_of_a_registry_goes_through_the_environments_and_back(world: World) -> None:
    first = move(world.root, "staging").after
    assert first is not None
    assert first.image == f"{world.proxy.host}/team/router@{world.release.digest}"
    assert move(world.root, "production").after == first
    edit(world.root / layout.ENVIRONMENTS, "production", lambda knobs: knobs.update(update="pause", downtime="allowed"))
    keep(world.root, "pause")
    second = tree.next_model(world.root, 12, f"{world.proxy.host}/team/router", compared=True)
    keep(world.root, "reports")
    git(world.root, "fetch", "--quiet")
    git(world.root, "rebase", "--quiet", "origin/main")
    git(world.root, "push", "--quiet", "origin", "main")
    with pytest.raises(PromotionRefused, match="of its record is not in the history of main"):
        move(world.root, "staging", image=second.image)
    report = tree.built(world.root, f"{world.proxy.host}/team/router")  # of the record as it was merged
    serving = read_json(world.root / layout.SERVING_REPORT, ServingReport)
    values = {"start": 42.04, "drain": 0.5}
    checks = tuple(check.model_copy(update={"value": values.get(check.name)}) for check in serving.checks)
    tree.served(world.root, report, checks=checks)
    tree.signed(world.root, report)
    assert move(world.root, "staging").after is not None
    (note,) = [note for note in move(world.root, "production").notes if note.startswith("update: ")]
    assert note.startswith("update: pause: no server answers for about 53 s: the old one ends in 10.5 s")
    assert status(world.root).environments[1].gap == note
    back = rollbacks.rollback(world.root, "production", why="answers in French")
    assert back.after == first
    assert (back.held and back.held.image) == report.image
    assert (
        "update: pause: no server answers while a new one starts: verification did not measure how long" in back.notes
    )


def test_the_page_of_a_release_is_attached_to_its_image_once_and_another_tool_finds_it(
    world: World, tmp_path: Path
) -> None:
    """oras stands for all tools that ask a registry what belongs to an image."""
    move(world.root, "staging")
    first = page(world.root, tmp_path / "site", "staging", attached=True)
    assert page(world.root, tmp_path / "site", "v0.1.0", attached=True).attached == first.attached
    image = f"{world.registry.host}/team/router@{world.release.digest}"
    found = json.loads(_oras("discover", "--format", "json", "--artifact-type", MEDIA_TYPE, image))
    (artifact,) = found.get("referrers") or found["manifests"]
    assert artifact["digest"] == first.attached
    assert artifact["annotations"]["org.opencontainers.image.revision"] == first.site.tip
    _oras("pull", "--output", str(tmp_path / "pulled"), f"{image.partition('@')[0]}@{first.attached}")
    assert (tmp_path / "pulled/v0.1.0.html").read_bytes() == first.files[0].read_bytes()
    move(world.root, "production")  # so the page is another
    world.proxy.faults.append(Fault("^PUT .*/manifests/", "status", 403, times=9))
    done = CliRunner().invoke(
        main, ["-C", str(world.root), "page", "staging", "--out", str(tmp_path / "site"), "--attach"]
    )
    assert done.exit_code == RegistryRefused.exit_code, done.output
    assert "Traceback" not in done.output
    done = CliRunner().invoke(main, ["-C", str(world.root), "page", "--out", str(tmp_path / "site"), "--attach"])
    assert done.exit_code == 2


def _oras(verb: str, *arguments: str) -> str:
    if shutil.which("oras") is None:
        programs.missing("oras", "not on PATH")
    command = ["oras", verb, "--plain-http", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_what_a_cluster_runs_is_the_image_by_digest(world: World, tmp_path: Path) -> None:
    moved = move(world.root, "staging").after
    assert moved is not None
    clone = ledger_tree.clone(tmp_path / "cluster", str(world.remote), "Argo")
    found = kubernetes_tools.build(clone / layout.ENVIRONMENTS / "staging")
    (deployment,) = [each for each in found if each["kind"] == "Deployment"]
    (server,) = deployment["spec"]["template"]["spec"]["containers"]
    assert server["image"] == moved.image
    assert deployment["metadata"]["annotations"]["lockstep/evidence"] == moved.evidence


def test_an_overlay_that_runs_another_image_is_told(world: World, tmp_path: Path) -> None:
    move(world.root, "staging")
    clone = ledger_tree.clone(tmp_path / "by hand", str(world.remote), "Mallory")
    path = clone / layout.ENVIRONMENTS / "staging" / overlays.SERVER
    patch = yaml.safe_load(path.read_text())
    patch["spec"]["template"]["spec"]["containers"][0]["image"] = "evil.example/x:latest"
    path.write_text(yaml.safe_dump(patch))
    keep(clone, "by hand")
    git(clone, "push", "--quiet")
    refused(world, "staging/release/deployment/server.yaml: line 1 is", PromotionRefused, "production")


def test_a_tag_that_was_moved_changes_nothing(world: World) -> None:
    """Other weights under the tag of the release: what was signed is promoted, by its digest."""
    store = Repository(world.proxy.host, "team/router", push=True)
    other = json.loads(store.document(world.release.digest).data)
    other["layers"].reverse()
    store.put(
        json.dumps(other).encode(), "application/vnd.oci.image.manifest.v1+json", world.release.report.model[7:19]
    )
    moved = move(world.root, "staging").after
    assert (moved and moved.digest) == world.release.digest


# The registry's storage


def data(world: World, digest: str) -> Path:
    name = digest.removeprefix("sha256:")
    return world.registry.folder / "data/docker/registry/v2/blobs/sha256" / name[:2] / name / "data"


def of_layer(change: Callable[[Path], object]) -> Callable[[World], None]:
    def tamper(world: World) -> None:
        change(data(world, world.release.report.layers[0].digest))

    return tamper


def of_config(world: World) -> None:
    manifest = json.loads(data(world, world.release.digest).read_bytes())
    spoil.flip(at=600)(data(world, manifest["config"]["digest"]))


def of_manifest(world: World) -> None:
    spoil.flip(at=600)(data(world, world.release.digest))


def no_evidence(world: World) -> None:
    """The list of what is attached is taken away."""
    (tag,) = world.registry.folder.glob(f"data/**/_manifests/tags/sha256-{world.release.digest[7:]}")
    shutil.rmtree(tag)


STORED: dict[str, tuple[Callable[[World], None], str]] = {
    "a layer is gone": (of_layer(spoil.remove()), "is missing or incomplete; push the image again"),
    "a layer is cut": (of_layer(spoil.cut()), "is missing or incomplete; push the image again"),
    "the config is another": (of_config, "holds"),
    "the manifest is another": (of_manifest, "reading sha256:"),
    "the evidence is gone": (no_evidence, "no signed statement holds or is there"),
}


@pytest.mark.parametrize("name", STORED)
def test_a_registry_that_lost_or_changed_something_promotes_nothing(world: World, name: str) -> None:
    tamper, cause = STORED[name]
    tamper(world)
    refused(world, cause, Refusal)


def test_a_layer_of_other_bytes_under_the_same_digest_is_found_where_it_is_read(world: World) -> None:
    """Whoever pulls it finds it, and so does a promotion without the weights; nobody can be made to run it."""
    of_layer(spoil.flip(at=600))(world)
    shutil.rmtree(world.root / layout.MERGED)
    refused(world, "as sha256:", RegistryRefused)


# Registries that fail, hang or lie

FAULTS: dict[str, tuple[Fault, str]] = {
    "500 to all": (Fault(".", "status", 500, times=99), "500 TESTED"),
    "500 to blobs": (Fault("HEAD .*/blobs/", "status", 500, times=99), "looking for sha256"),
    "forbidden": (Fault("GET .*/manifests/", "status", 403, times=99), "reading sha256"),
    "not found": (Fault("GET .*/manifests/", "status", 404, times=99), "reading sha256"),
    "cut": (Fault("GET .*/manifests/", "reset reply", at=5, times=99), "reading sha256"),
    "another manifest": (Fault("GET .*/manifests/", "flipped reply", times=99), "reading sha256"),
    "another blob": (Fault("GET .*/blobs/", "flipped reply", times=99), "holds"),
    "another type": (Fault("GET .*/manifests/", "headers", headers={"Content-Type": "text/html"}, times=99), "text/html"),
    "a blob of another size": (Fault("HEAD .*/blobs/", "headers", headers={"Content-Length": "1"}, times=99), "incomplete"),
    "no list of what is attached": (Fault("GET .*/(referrers|manifests/sha256-)", "status", 500, times=99), "belongs to"),
    "a list that is none": (Fault("GET .*/referrers/", "status", 200, body=b"<html>", times=99), "belongs to"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_registry_that_fails_or_lies_is_a_clear_refusal(world: World, name: str) -> None:
    fault, cause = FAULTS[name]
    world.proxy.faults.append(fault)
    refused(world, cause, RegistryRefused)


def test_a_registry_that_is_down_refuses_a_rollback_too(world: World) -> None:
    move(world.root, "staging")
    tree.next_model(world.root, 12, compared=True)
    world.proxy.faults.append(Fault(".", "status", 503, times=99))
    refused(world, "503 TESTED", RegistryRefused, "production")


def test_a_registry_that_takes_connections_and_says_nothing_refuses_in_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("release.adapters.registry.transport.READ", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        threading.Thread(target=lambda: silent.accept(), daemon=True).start()
        host = f"127.0.0.1:{silent.getsockname()[1]}"
        refused(world, host, RegistryRefused, image=f"{host}/team/router@{world.release.digest}")


def test_a_reference_that_is_none_is_told(world: World) -> None:
    with pytest.raises(Refusal, match="is no reference to an image"):
        move(world.root, "staging", image=f"https://evil.example/x@{world.release.digest}")
    assert reference.parse(world.release.image).digest == world.release.digest
