"""Mirrors outside git: images and evidence in a real registry and in folders, tags, clusters, and MLflow told at once."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from checks import digest, layout, pointer
from checks.pointer import Pointer
from release import mirrors, overlays
from release.ledger import Ledger
from release.mirrors import cluster, desired, past, registry, tags
from release.mirrors.cluster import Cluster
from release.mirrors.registry import Image
from release.mirrors.types import Finding
from tests import kubernetes_tools, ledger_tree, mirrors_tree, mlflow_service, registry_service
from tests.ledger_tree import git, keep
from tests.mirrors_tree import NAME, World
from tests.mlflow_service import Fault
from tests.registry_service import Registry

pytestmark = pytest.mark.slow

nobodys_configuration, made, world = ledger_tree.nobodys_configuration, mirrors_tree.made, mirrors_tree.world
tables = mlflow_service.tables
ENVIRONMENTS = ("staging", "production")


def ledger_of(root: Path) -> tuple[Ledger, str]:
    ledger = Ledger.open(root, mirrors_tree.load(root).promote)
    return ledger, ledger.tip()


def shown(found: list[Finding]) -> list[tuple[str, str, bool]]:
    return [(finding.what, finding.severity, finding.fixed) for finding in found]


# Images in a registry


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Registry, World]]:
    """A registry with two releases."""
    folder = tmp_path_factory.mktemp("pushed")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ledger_tree.CLEAN.items():
            patch.setenv(name, value)
        with registry_service.registry(folder / "registry") as service:
            yield service, mirrors_tree.running(mirrors_tree.make(folder / "root"), f"{service.host}/team/router")


@pytest.fixture
def served(pushed: tuple[Registry, World], tmp_path: Path) -> Iterator[tuple[Registry, World]]:
    """As it was, whatever a test did to it."""
    service, world = pushed
    shutil.copytree(service.folder / "data", tmp_path / "data")
    yield service, world._replace(root=shutil.copytree(world.root, tmp_path / "root"))
    shutil.rmtree(service.folder / "data")
    shutil.copytree(tmp_path / "data", service.folder / "data")


def image(world: World, its: Pointer) -> Image:
    found = past.releases(*ledger_of(world.root), ENVIRONMENTS)
    return Image(its, found[its.image][1], "staging runs it")


def check(world: World, its: Pointer, *, fix: bool = False) -> list[Finding]:
    return registry.check(world.root, [image(world, its)], fix)


def blob(service: Registry, name: str) -> Path:
    return next(path for path in service.blobs if path.parent.name == name.removeprefix("sha256:"))


def manifest(service: Registry, its: Pointer) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(blob(service, its.digest).read_bytes())
    return found


def unlink(service: Registry, name: str, kind: str = "_layers") -> None:
    """Take a blob or a manifest out of the repository, as an administrator does."""
    for path in service.folder.glob(f"data/**/{kind}/**/{name.removeprefix('sha256:')}"):
        shutil.rmtree(path)


def retag(service: Registry, its: Pointer) -> None:
    subprocess.run(
        ["skopeo", "copy", "--quiet", "--insecure-policy", "--src-tls-verify=false", "--dest-tls-verify=false",
         f"docker://{its.image}", f"docker://{service.host}/team/router:v0.1.0"], check=True,
    )  # fmt: skip


Tamper = Callable[[Registry, Pointer], object]
GONE: dict[str, tuple[Tamper, str]] = {
    "the manifest": (lambda s, its: unlink(s, its.digest, "revisions"), "404"),
    "the config": (lambda s, its: unlink(s, manifest(s, its)["config"]["digest"]), "its config sha256:"),
    "a layer": (lambda s, its: unlink(s, manifest(s, its)["layers"][1]["digest"]), "layer 2 sha256:"),
    "the manifest's bytes": (lambda s, its: blob(s, its.digest).write_bytes(b"{}"), "500"),
    "the repository": (lambda s, _: shutil.rmtree(s.folder / "data" / "docker" / "registry" / "v2" / "repositories"), "404"),
}  # fmt: skip


# Asked for bytes that are not the digest's, this registry fails, and may do better at another try.
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name == "the manifest's bytes" else ()) for name in GONE]
)
def test_an_image_that_is_not_there_whole_is_drift_that_git_cannot_mend(
    served: tuple[Registry, World], name: str
) -> None:
    service, world = served
    assert check(world, world.new) == []
    tamper, words = GONE[name]
    tamper(service, world.new)
    (found,) = check(world, world.new, fix=True)
    assert (found.what, found.severity, found.fix, found.fixed) == ("image of v0.2.0", "drift", "", False)
    assert words in found.mirror
    assert found.git == f"{world.new.image}: staging runs it"
    if name not in ("the repository",):
        assert check(world, world.old) == [], "the other release is whole"


def test_a_tag_that_was_moved_changes_nothing(served: tuple[Registry, World]) -> None:
    service, world = served
    retag(service, world.new)
    assert [*check(world, world.old), *check(world, world.new)] == []


def forget_referrers(service: Registry, its: Pointer) -> None:
    """What stands in for the referrers API in this registry is a tag."""
    shutil.rmtree(next(service.folder.glob(f"data/**/tags/{its.digest.replace(':', '-')}")))


@pytest.mark.parametrize("how", [forget_referrers, lambda s, its: unlink(s, its.evidence)])
def test_evidence_that_is_gone_is_attached_again_from_git(
    served: tuple[Registry, World], how: Callable[[Registry, Pointer], object]
) -> None:
    service, world = served
    how(service, world.new)
    (found,) = check(world, world.new)
    assert (found.what, found.severity, found.fix, found.fixed) == ("evidence of v0.2.0", "drift", "attach it", False)
    assert check(world, world.new) == [found], "asking attaches nothing"
    assert shown(check(world, world.new, fix=True)) == [("evidence of v0.2.0", "drift", True)]
    assert check(world, world.new) == []


def test_other_evidence_of_the_image_is_not_what_the_pointer_names(served: tuple[Registry, World]) -> None:
    _, world = served
    its = world.new.model_copy(update={"evidence": digest.of_bytes(b"x")})
    (found,) = registry.check(world.root, [Image(its, None, "staging runs it")], True)
    assert (found.what, found.fix, found.fixed) == ("evidence of v0.2.0", "", False)
    assert found.todo == "sign it again: `lockstep sign`"


def test_a_registry_that_is_not_there_is_unreachable_and_not_drift(
    served: tuple[Registry, World], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, world = served
    monkeypatch.setattr(registry, "DEADLINE", 2.0)
    its = world.new.model_copy(
        update={"image": f"127.0.0.1:{mlflow_service.free_port()}/team/router@{world.new.digest}"}
    )
    (found,) = registry.check(world.root, [Image(its, None, "x")], True)
    assert (found.severity, found.fix, found.fixed) == ("unreachable", "", False)


def test_a_registry_that_hangs_is_unreachable_in_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "DEADLINE", 1.0)
    started = time.monotonic()
    with mlflow_service.standin("hang") as running:
        host = running.uri.removeprefix("http://")
        its = world.new.model_copy(update={"image": f"{host}/team/router@{world.new.digest}"})
        (found,) = registry.check(world.root, [Image(its, None, "x")], False)
    assert (found.severity, found.mirror) == ("unreachable", "no answer within 1 s")
    assert time.monotonic() - started < 5


# Images in folders


def folder_of(world: World, its: Pointer) -> Path:
    return world.root / its.image.removeprefix("oci:").partition("@")[0]


def test_an_image_in_a_folder_is_held_to_its_digest(world: World) -> None:
    assert check(world, world.old) == []
    layers = sorted((folder_of(world, world.old) / "blobs" / "sha256").iterdir(), key=lambda path: path.stat().st_size)
    data = layers[-1].read_bytes()
    layers[-1].write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    (found,) = check(world, world.old)
    assert layers[-1].name in found.mirror
    assert found.severity == "drift"
    layers[-1].write_bytes(data)
    layers[-1].unlink()
    (found,) = check(world, world.old)
    assert (found.what, found.severity) == ("image of v0.1.0", "drift")
    shutil.rmtree(folder_of(world, world.old) / "blobs")
    (found,) = check(world, world.old)
    assert (found.what, found.severity) == ("image of v0.1.0", "drift")


def test_evidence_in_a_folder_is_attached_again(world: World) -> None:
    path = folder_of(world, world.old) / "index.json"
    index = json.loads(path.read_text())
    index["manifests"] = [entry for entry in index["manifests"] if entry["digest"] == world.old.digest]
    path.write_text(json.dumps(index))
    assert shown(check(world, world.old, fix=True)) == [("evidence of v0.1.0", "drift", True)]
    assert check(world, world.old) == []


def test_a_folder_of_another_machine_is_unreachable(world: World) -> None:
    shutil.rmtree(folder_of(world, world.old))
    (found,) = check(world, world.old)
    assert (found.severity, found.mirror) == ("unreachable", ".lockstep/image1 is not on this machine")


# Tags


def test_a_tag_that_was_taken_away_is_made_again(world: World) -> None:
    assert tags.check(*ledger_of(world.root), NAME, ENVIRONMENTS, False) == []
    before = ledger_tree.refs(world.root)
    for tag in (f"{NAME}@v0.1.0", f"{NAME}#production#1"):
        git(world.root, "tag", "-d", tag)
    found = tags.check(*ledger_of(world.root), NAME, ENVIRONMENTS, False)
    assert {(each.what, each.fix) for each in found} == {
        (f"tag {NAME}@v0.1.0", "make it"), (f"tag {NAME}#production#1", "make it"),
    }  # fmt: skip
    assert f"refs/tags/{NAME}@v0.1.0" not in ledger_tree.refs(world.root)
    assert all(each.fixed for each in tags.check(*ledger_of(world.root), NAME, ENVIRONMENTS, True))
    after = ledger_tree.refs(world.root)
    assert after.keys() == before.keys()
    assert after["refs/heads/main"] == before["refs/heads/main"]
    assert tags.check(*ledger_of(world.root), NAME, ENVIRONMENTS, True) == []


@pytest.mark.parametrize("tag", ["{}@v9.0.0", "{}#production#9", "{}#staging#1"])
def test_a_forged_tag_is_told_and_left(world: World, tag: str) -> None:
    name = tag.format(NAME)
    git(world.root, "tag", "-f", "-a", "-m", "x", name, "main")
    (found,) = tags.check(*ledger_of(world.root), NAME, ENVIRONMENTS, True)
    assert (found.what, found.fix, found.fixed) == (f"tag {name}", "", False)
    assert "git push" in found.todo
    assert f"refs/tags/{name}" in ledger_tree.refs(world.root)


def test_tags_that_cannot_be_pushed_are_told(world: World, tmp_path: Path) -> None:
    ledger_tree.bare(tmp_path / "origin.git", world.root)
    git(tmp_path / "origin.git", "tag", "-d", f"{NAME}@v0.1.0")
    hook = tmp_path / "origin.git" / "hooks" / "pre-receive"
    hook.write_text("#!/bin/sh\necho no tags today\nexit 1\n")
    hook.chmod(0o755)
    found = tags.check(*ledger_of(world.root), NAME, ENVIRONMENTS, True)
    assert [(each.severity, each.fixed) for each in found] == [("drift", False), ("unreachable", False)]
    assert "no tags today" in found[1].mirror


# Clusters


KUBECTL = """
import json, os, sys, time
said = sys.argv[1:]
print(*said, file=open("asked", "a"))
if os.path.exists("hang"):
    time.sleep(60)
if said[:2] == ["config", "current-context"]:
    sys.exit(print(open("context").read()))
what = said[said.index("get") + 1]
if what == "namespace":
    name = said[said.index("get") + 2]
    sys.exit(None if name in open("namespaces").read().split() else f'Error from server (NotFound): namespaces "{name}" not found')
kinds = [kind.partition(".")[0] for kind in what.split(",")]
if "inferenceservices" in kinds and not os.path.exists("inferenceservices.json"):
    sys.exit("error: the server doesn't have a resource type \\"inferenceservices\\"")
try:
    texts = [open(f"{kind}.json").read() for kind in kinds]
except OSError as error:
    sys.exit(f"{error.filename}: {error.strerror}")
try:
    print(json.dumps({"kind": "List", "items": [item for text in texts for item in json.loads(text)["items"]]}))
except (ValueError, TypeError):
    print(*texts)
"""
BUILT_IN = ("pods", "replicasets", "deployments", "statefulsets", "daemonsets", "services")


@pytest.fixture
def kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for kubectl and a cluster: a script that prints the files of this folder, as what it was asked for.

    ``context``, ``namespaces``, and a file for each kind (``deployments.json``); where one is missing, it fails.
    """
    folder = tmp_path / "kubectl"
    (folder / "bin").mkdir(parents=True)
    script = folder / "bin" / "kubectl"
    (folder / "kubectl.py").write_text(KUBECTL)
    script.write_text(f'#!/bin/sh\ncd {folder} && exec {sys.executable} -S -E kubectl.py "$@"\n')
    script.chmod(0o755)
    (folder / "context").write_text("production-cluster\n")
    (folder / "namespaces").write_text("model-staging\nmodel-production\n")
    for kind in BUILT_IN:
        put(folder, [], kind)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return folder


@pytest.fixture
def cloud(served: tuple[Registry, World], kubectl: Path) -> World:
    """A cluster that runs what kustomize makes of production, as an API server completes it, down to a pod."""
    world = served[1]
    items = kubernetes_tools.build(world.root / layout.ENVIRONMENTS / "production")
    (server,) = [item for item in items if item["kind"] == "Deployment"]
    server["metadata"] |= {"uid": "1", "resourceVersion": "7", "generation": 2}
    server["status"] = {"readyReplicas": 2}
    server["spec"]["template"]["spec"]["dnsPolicy"] = "ClusterFirst"
    server["spec"]["template"]["spec"]["containers"][0]["terminationMessagePath"] = "/dev/termination-log"
    put(kubectl, [server])
    put(kubectl, [item for item in items if item["kind"] == "Service"], "services")
    run(kubectl, server)
    return world


def run(kubectl: Path, deployment: dict[str, Any]) -> None:
    """What a cluster makes of a Deployment: a ReplicaSet, and of that a pod."""
    template = deployment["spec"]["template"]
    labels = template["metadata"]["labels"] | {"pod-template-hash": "5f"}
    made = {"labels": labels, "ownerReferences": [owner(deployment)]}
    replicas = workload("ReplicaSet", "server-5f", template | {"metadata": {"labels": labels}}, uid="2", **made)
    put(kubectl, [replicas], "replicasets")
    put(kubectl, [pod("server-5f-x", labels, template["spec"], ownerReferences=[owner(replicas)])], "pods")


def owner(item: dict[str, Any]) -> dict[str, Any]:
    return {"kind": item["kind"], "name": item["metadata"]["name"], "uid": item["metadata"]["uid"], "controller": True}


def workload(kind: str, name: str, template: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    selector = {"matchLabels": template["metadata"]["labels"]}
    return {"kind": kind, "metadata": {"name": name} | metadata, "spec": {"selector": selector, "template": template}}


def pod(name: str, labels: dict[str, str], spec: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    return {"kind": "Pod", "metadata": {"name": name, "uid": name, "labels": labels} | metadata, "spec": spec}


def put(kubectl: Path, items: list[dict[str, Any]], kind: str = "deployments") -> None:
    (kubectl / f"{kind}.json").write_text(json.dumps({"kind": "List", "items": items}))


def live(kubectl: Path, kind: str = "deployments") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((kubectl / f"{kind}.json").read_text())["items"]
    return found


def add(kubectl: Path, kind: str, *items: dict[str, Any]) -> None:
    put(kubectl, [*live(kubectl, kind), *items], kind)


def in_cluster(world: World, environment: str = "production") -> list[Finding]:
    where = cluster.current()
    assert isinstance(where, Cluster)
    ledger, tip = ledger_of(world.root)
    return cluster.check(where, desired.read(world.root, ledger, tip, ENVIRONMENTS)[environment])


def test_a_cluster_that_runs_what_git_says_agrees(cloud: World, kubectl: Path) -> None:
    assert in_cluster(cloud) == []
    asked = (kubectl / "asked").read_text().splitlines()
    assert all("--context=production-cluster" in line for line in asked[1:])
    assert not any(word in line for line in asked for word in ("apply", "patch", "delete", "edit"))


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("spec", "template", "spec", "volumes", 0, "emptyDir", "sizeLimit"), "9Gi", "sizeLimit"),
        (("metadata", "annotations", "lockstep/version"), "v9.9.9", "the release says 'v0.1.0'"),
        (("spec", "template", "spec", "terminationGracePeriodSeconds"), 1, "terminationGracePeriodSeconds"),
        (("spec", "template", "spec", "containers", 0, "env"), [{"name": "EVIL", "value": "1"}], "EVIL"),
    ],
)
def test_a_cluster_that_was_changed_by_hand_is_drift(
    cloud: World, kubectl: Path, path: tuple[Any, ...], value: object, words: str
) -> None:
    items = live(kubectl)
    at: Any = items[0]
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    put(kubectl, items)
    found = in_cluster(cloud)
    assert any(words in each.mirror for each in found)
    assert all((each.severity, each.fix) == ("drift", "") and each.todo for each in found)


EVIL = {"containers": [{"name": "server", "image": "evil.example/server:1"}]}
OURS = {"app.kubernetes.io/name": "server"}


def service(name: str, selector: dict[str, str], port: object = "http", **labels: str) -> dict[str, Any]:
    spec = {"selector": selector, "ports": [{"port": 80, "targetPort": port}]}
    return {"kind": "Service", "metadata": {"name": name, "labels": labels}, "spec": spec}


def made_by_hand(kind: str) -> dict[str, Any]:
    return workload(kind, "canary", {"metadata": {"labels": OURS}, "spec": EVIL}, uid="9")


@pytest.mark.parametrize(
    ("kind", "item", "words"),
    [
        ("statefulsets", made_by_hand("StatefulSet"), "StatefulSet canary: has the labels by which the server is found"),
        ("daemonsets", made_by_hand("DaemonSet"), "DaemonSet canary: has the labels by which the server is found"),
        ("replicasets", made_by_hand("ReplicaSet"), "ReplicaSet canary: has the labels by which the server is found"),
        ("pods", pod("canary", OURS, EVIL), "Pod canary: has the labels by which the server is found"),
        ("services", service("more", OURS, 9), "Service more: leads elsewhere than to the server's port, http"),
        ("services", service("server", {"app": "evil"}), "Service server: does not select the server"),
        ("services", service("other", {"app": "evil"}, **OURS), "Service other: does not select the server"),
    ],
)  # fmt: skip
def test_what_a_hand_put_beside_the_server_is_drift(
    cloud: World, kubectl: Path, kind: str, item: dict[str, Any], words: str
) -> None:
    if item["metadata"]["name"] == "server":
        put(kubectl, [], kind)
    add(kubectl, kind, item)
    (found,) = in_cluster(cloud)
    assert (found.severity, found.mirror) == ("drift", f"Deployment server: {words}")


def test_what_runs_in_the_namespace_and_is_not_found_as_the_server_is_its_own_affair(
    cloud: World, kubectl: Path
) -> None:
    labels = {"app": "cache"}
    add(kubectl, "statefulsets", workload("StatefulSet", "cache", {"metadata": {"labels": labels}, "spec": EVIL}))
    add(kubectl, "services", service("cache", labels, 6379), service("kubernetes", {}))
    assert in_cluster(cloud) == []


def test_a_workload_is_told_once_and_not_each_of_its_pods(cloud: World, kubectl: Path) -> None:
    canary = made_by_hand("StatefulSet")
    add(kubectl, "statefulsets", canary)
    add(kubectl, "pods", *(pod(f"canary-{n}", OURS, EVIL, ownerReferences=[owner(canary)]) for n in range(3)))
    (found,) = in_cluster(cloud)
    assert "StatefulSet canary: has the labels" in found.mirror


def test_a_pod_that_the_server_does_not_control_is_not_the_servers(cloud: World, kubectl: Path) -> None:
    (server,) = live(kubectl)
    add(kubectl, "pods", pod("canary", OURS, EVIL, ownerReferences=[owner(server) | {"controller": False}]))
    (found,) = in_cluster(cloud)
    assert "Pod canary: has the labels" in found.mirror


def test_what_runs_where_nothing_was_promoted_is_drift(cloud: World, kubectl: Path) -> None:
    """The pods of a Deployment are told as that."""
    git(cloud.root, "rm", "--quiet", str(layout.ENVIRONMENTS / "production" / layout.POINTER))
    for path, data in overlays.nothing("production").items():
        (cloud.root / path).write_bytes(data)
    keep(cloud.root, "empty it")
    add(kubectl, "statefulsets", made_by_hand("StatefulSet"))
    assert sorted(each.mirror for each in in_cluster(cloud)) == [
        f"{name}: nothing has been promoted to production for a cluster"
        for name in ("Deployment server", "StatefulSet canary")
    ]


@pytest.fixture
def kserve(cloud: World, kubectl: Path) -> World:
    """The same with KServe: what it makes of an InferenceService carries its labels, and selects by its own."""
    own = cloud.root / layout.ENVIRONMENTS / "production" / "kustomization.yaml"
    own.write_text(own.read_text().replace("release/deployment", "release/kserve"))
    items = kubernetes_tools.build(own.parent)
    (server,) = [item for item in items if item["kind"] == "InferenceService"]
    server["metadata"]["uid"] = "0"
    put(kubectl, [server], "inferenceservices")
    predictor = server["spec"]["predictor"]
    labels = {"app": "isvc.server-predictor"} | server["metadata"]["labels"] | predictor["labels"]
    made = {"labels": labels, "ownerReferences": [owner(server)]}
    (deployment,) = live(kubectl)
    template = {"metadata": {"labels": labels}, "spec": deployment["spec"]["template"]["spec"]}
    deployment = workload("Deployment", "server-predictor", template, uid="1", **made)
    put(kubectl, [deployment])
    run(kubectl, deployment)
    leads = service("server-predictor", {"app": labels["app"]}, 8000)
    leads["metadata"] |= made
    put(kubectl, [leads], "services")
    return cloud


def test_what_kserve_makes_of_the_server_agrees(kserve: World) -> None:
    assert in_cluster(kserve) == []


def test_a_pod_that_kserves_own_service_would_find_is_drift(kserve: World, kubectl: Path) -> None:
    add(kubectl, "pods", pod("canary", {"app": "isvc.server-predictor"}, EVIL))
    (found,) = in_cluster(kserve)
    assert "Pod canary: has the labels" in found.mirror


def test_a_cluster_that_runs_nothing_where_git_says_something_is_drift(cloud: World, kubectl: Path) -> None:
    put(kubectl, [])
    (found,) = in_cluster(cloud)
    assert found.severity == "drift"
    assert "there is none" in found.mirror
    assert found.git == f"runs v0.1.0, {cloud.old.image}"


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda k: (k / "namespaces").write_text("default\n"), 'namespaces "model-production" not found'),
        (lambda k: (k / "deployments.json").unlink(), "No such file"),
        (lambda k: (k / "statefulsets.json").unlink(), "No such file"),
        (lambda k: (k / "inferenceservices.json").write_text("x"), "gives no list"),
        (lambda k: (k / "deployments.json").write_text("[]"), "gives no list"),
        (lambda k: (k / "deployments.json").write_text("x"), "gives no list"),
        (lambda k: (k / "hang").touch(), "no answer within 1 s"),
    ],
)
def test_a_cluster_that_cannot_be_asked_is_unreachable(
    cloud: World, kubectl: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Path], object], words: str
) -> None:
    ledger, tip = ledger_of(cloud.root)
    wanted = desired.read(cloud.root, ledger, tip, ENVIRONMENTS)["production"]
    where = cluster.current()
    assert isinstance(where, Cluster)
    monkeypatch.setattr(cluster, "DEADLINE", 1.0 if "hang" in words or "within" in words else 15.0)
    spoil(kubectl)
    (found,) = cluster.check(where, wanted)
    assert found.severity == "unreachable"
    assert words in found.mirror


def test_without_kubectl_or_a_context_no_cluster_is_asked(kubectl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (kubectl / "context").unlink()
    assert cluster.current() == "kubectl has no current context"
    monkeypatch.setenv("PATH", str(kubectl))
    assert cluster.current() == "kubectl is not installed here"


# A promotion tells MLflow


def follow(world: World, environment: str = "production") -> list[str]:
    its = pointer.parse((world.root / layout.ENVIRONMENTS / environment / layout.POINTER).read_bytes(), "x")
    envelope = past.envelope((world.root / past.path(environment)).read_bytes(), its, "x")
    return mirrors.follow(world.root, mirrors_tree.load(world.root), environment, its, envelope.statement)


def test_a_promotion_is_told_to_mlflow_with_its_lineage(
    world: World, tables: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copyfile(tables, world.root / layout.STATE / "mlflow.db")
    assert follow(world) == []
    assert follow(world, "staging") == []
    client = mlflow_service.client(f"sqlite:///{world.root / layout.STATE / 'mlflow.db'}")
    champion, staging = (client.get_model_version_by_alias(NAME, alias) for alias in ("champion", "staging"))
    assert client.get_model_version_by_alias(NAME, "production").version == champion.version
    made = world.releases[0].statement.predicate.materials
    assert champion.tags == {
        "lockstep.version": "v0.1.0", "lockstep.image": world.old.digest, "lockstep.model": world.old.model,
        "lockstep.commit": world.old.commit, "lockstep.evidence": world.old.evidence, "lockstep.verdict": made.verdict,
        "lockstep.base": made.base, "lockstep.raw": made.raw, "lockstep.adapter": made.adapter,
        **{f"lockstep.split.{name}": value for name, value in made.splits.items()},
    }  # fmt: skip
    assert champion.source == f"oci:///{world.old.image.removeprefix('oci:')}"
    assert staging.tags["lockstep.version"] == "v0.2.0"


@pytest.mark.parametrize("fault", ["hang", "drip", "fail", "garbage", "lie"])
def test_a_server_that_goes_wrong_holds_no_promotion_up(
    world: World, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    monkeypatch.setattr(mirrors, "DEADLINE", 4.0)
    started = time.monotonic()
    with mlflow_service.standin(fault) as running:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", running.uri.replace("http://", "http://ada:hunter2@"))
        said = follow(world)
    assert time.monotonic() - started < 5.5
    assert said
    for line in said:
        assert line.startswith(f"MLflow at {running.uri}")
        assert line.endswith("`lockstep reconcile --fix` mends it")
        assert line.isprintable()
        assert "hunter2" not in line


def test_a_promotion_of_a_model_whose_record_is_not_here_is_told_without_its_run(
    world: World, tables: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{world.root / 'm.db'}")
    shutil.copyfile(tables, world.root / "m.db")
    its = world.old.model_copy(update={"commit": "1" * 40})
    assert (
        mirrors.follow(world.root, mirrors_tree.load(world.root), "production", its, world.releases[0].statement) == []
    )


def test_the_run_of_a_release_is_the_one_that_the_record_of_its_commit_names(world: World) -> None:
    other = keep(world.root, "other")
    report = world.root / layout.TRAIN_REPORT
    value = json.loads(report.read_text())
    report.write_text(json.dumps(value | {"mlflow_run": "c" * 32}))
    named = keep(world.root, "named")
    report.write_text(json.dumps(value | {"mlflow_run": "../" * 9}))
    odd = keep(world.root, "odd")
    git(world.root, "rm", "--quiet", str(layout.TRAIN_REPORT))
    gone = keep(world.root, "gone")
    found = past.runs(world.root, [other, named, odd, gone, "1" * 40, named], 10)
    assert found == {other: value["mlflow_run"], named: "c" * 32}
