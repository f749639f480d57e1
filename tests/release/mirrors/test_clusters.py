"""A cluster held to git: what a hand changed, put beside the server or took away; of a stand-in for kubectl."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from checks.storage import layout
from release.mirrors import cluster, desired
from release.mirrors.cluster import Cluster
from release.mirrors.desired import Desired
from release.mirrors.types import MirrorFinding
from release.overlay import overlays
from tests import kubernetes_tools, ledger_tree, mirrors_tree, registry_service
from tests.ledger_tree import git, keep
from tests.mirrors_tree import World
from tests.overlay_sample import edit

pytestmark = pytest.mark.slow

nobodys_configuration, world = ledger_tree.nobodys_configuration, mirrors_tree.world


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Two releases of a registry that nobody asks any more. Copy it before anything is changed."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ledger_tree.CLEAN.items():
            patch.setenv(name, value)
        with registry_service.registry(folder / "registry") as service:
            return mirrors_tree.running(mirrors_tree.make(folder / "root"), f"{service.host}/team/router")


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
if what in os.environ.get("FORBIDDEN", "").split():
    sys.exit(f'Error from server (Forbidden): {what} is forbidden: User "viewer" cannot list resource in the namespace "model-production"')
for kind in ("inferenceservices", "llminferenceservices", "llminferenceserviceconfigs", "rollouts"):
    if kind in kinds and not os.path.exists(f"{kind}.json"):
        sys.exit(f"error: the server doesn't have a resource type {kind}")
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
def cloud(world: World, kubectl: Path) -> World:
    """A cluster that runs what kustomize makes of production, as an API server completes it, down to a pod."""
    items = kubernetes_tools.build(world.root / layout.ENVIRONMENTS / "production")
    (server,) = [item for item in items if item["kind"] == "Deployment"]
    server["metadata"] |= {"uid": "1", "resourceVersion": "7"}
    finish(server, 2)
    server["spec"]["template"]["spec"]["dnsPolicy"] = "ClusterFirst"
    server["spec"]["template"]["spec"]["containers"][0]["terminationMessagePath"] = "/dev/termination-log"
    put(kubectl, [server])
    put(kubectl, [item for item in items if item["kind"] == "Service"], "services")
    run(kubectl, server)
    return world


def finish(item: dict[str, Any], replicas: int) -> None:
    """Give a Deployment or a Rollout the status of one whose pods are all of its latest change, and ready."""
    item["metadata"]["generation"] = 2
    names = ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas")
    progressing = {"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable", "message": "done"}
    item["status"] = {"observedGeneration": 2, "conditions": [progressing]} | dict.fromkeys(names, replicas)


def run(kubectl: Path, deployment: dict[str, Any]) -> None:
    """What a cluster makes of a Deployment: a ReplicaSet, and of that a pod."""
    template = deployment["spec"]["template"]
    labels = template["metadata"]["labels"] | {"pod-template-hash": "5f"}
    made = {"labels": labels, "ownerReferences": [owner(deployment)]}
    replicas = workload("ReplicaSet", "server-5f", template | {"metadata": {"labels": labels}}, uid="2", **made)
    put(kubectl, [replicas], "replicasets")
    annotations = template["metadata"]["annotations"]
    made = {"annotations": annotations, "ownerReferences": [owner(replicas)]}
    put(kubectl, [pod("server-5f-x", labels, template["spec"], **made)], "pods")


def owner(item: dict[str, Any]) -> dict[str, Any]:
    return {"kind": item["kind"], "name": item["metadata"]["name"], "uid": item["metadata"]["uid"], "controller": True}


def workload(kind: str, name: str, template: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    selector = {"matchLabels": template["metadata"]["labels"]}
    return {"kind": kind, "metadata": {"name": name} | metadata, "spec": {"selector": selector, "template": template}}


def pod(name: str, labels: dict[str, str], spec: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    status = {"conditions": [{"type": "Ready", "status": "True"}]}
    metadata = {"name": name, "uid": name, "labels": labels} | metadata
    return {"kind": "Pod", "metadata": metadata, "spec": spec, "status": status}


def put(kubectl: Path, items: list[dict[str, Any]], kind: str = "deployments") -> None:
    (kubectl / f"{kind}.json").write_text(json.dumps({"kind": "List", "items": items}))


def live(kubectl: Path, kind: str = "deployments") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((kubectl / f"{kind}.json").read_text())["items"]
    return found


def add(kubectl: Path, kind: str, *items: dict[str, Any]) -> None:
    put(kubectl, [*live(kubectl, kind), *items], kind)


def in_cluster(world: World) -> list[MirrorFinding]:
    where = cluster.current()
    assert isinstance(where, Cluster)
    return cluster.check(where, wanted(world)["production"])


def wanted(world: World) -> dict[str, Desired]:
    return desired.read(world.root)[-1]


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
        f"{name}: by git production runs nothing in a cluster" for name in ("Deployment server", "StatefulSet canary")
    ]


# What a cluster has not done.


def status(**fields: Any) -> Callable[[dict[str, Any]], object]:
    return lambda item: item["status"].update(fields)


def condition(name: str, value: str, reason: str, message: str) -> dict[str, str]:
    return {"type": name, "status": value, "reason": reason, "message": message}


STUCK = condition(
    "Progressing", "False", "ProgressDeadlineExceeded", 'ReplicaSet "server-5f" has timed out progressing.'
)
REFUSED = condition(
    "ReplicaFailure", "True", "FailedCreate", "exceeded quota: team, must specify limits.cpu for: server"
)
HALF = "of 2 servers 1 are of the latest change, 2 ready, 2 available; 3 pods are there"
UNFINISHED: dict[str, tuple[Callable[[dict[str, Any]], object], list[str]]] = {
    "scaled to 0": (lambda item: item["spec"].update(replicas=0), ["is scaled to 0: nothing answers"]),
    "not seen": (status(observedGeneration=1), ["its controller has not seen its latest change (generation 2, seen 1)"]),
    "no controller": (lambda item: item.pop("status"), ["its controller has not seen its latest change (generation 2, seen None)"]),
    "half-way": (status(replicas=3, updatedReplicas=1), [HALF]),
    "stuck": (
        status(replicas=3, updatedReplicas=1, conditions=[STUCK]),
        ['is stuck: ProgressDeadlineExceeded: ReplicaSet "server-5f" has timed out progressing.', HALF],
    ),
    "a quota": (
        status(readyReplicas=1, availableReplicas=1, conditions=[REFUSED]),
        [f"is stuck: FailedCreate: {REFUSED['message']}", "of 2 servers 2 are of the latest change, 1 ready, 1 available; 2 pods are there"],
    ),
    "one pod unready": (status(readyReplicas=1, availableReplicas=1), ["of 2 servers 2 are of the latest change, 1 ready, 1 available; 2 pods are there"]),
    "none available": (
        lambda item: [item["status"].pop(name) for name in ("readyReplicas", "availableReplicas")],
        ["of 2 servers 2 are of the latest change, 0 ready, 0 available; 2 pods are there"],
    ),
    "earlier pods are left": (status(replicas=3), ["of 2 servers 2 are of the latest change, 2 ready, 2 available; 3 pods are there"]),
}  # fmt: skip


@pytest.mark.parametrize("case", UNFINISHED)
def test_a_rollout_that_is_not_finished_is_drift(case: str, cloud: World, kubectl: Path) -> None:
    change, lines = UNFINISHED[case]
    (server,) = live(kubectl)
    change(server)
    put(kubectl, [server])
    findings = in_cluster(cloud)
    assert [finding.mirror for finding in findings] == [f"Deployment server: {line}" for line in lines]
    todo = "wait for the rollout, or see `kubectl -n model-production describe pods,replicasets`"
    assert {(finding.severity, finding.todo) for finding in findings} == {("drift", todo)}


def test_a_ready_pod_of_another_model_is_drift(cloud: World, kubectl: Path) -> None:
    (earlier,) = live(kubectl, "pods")
    earlier["metadata"]["annotations"]["lockstep/model"] = f"sha256:{'0' * 64}"
    put(kubectl, [earlier], "pods")
    (finding,) = in_cluster(cloud)
    assert finding.mirror == (
        f"Pod server-5f-x: gets requests, and its lockstep/model is 'sha256:{'0' * 64}', "
        f"the release says {cloud.old.model!r}"
    )
    gone = {"metadata": earlier["metadata"] | {"deletionTimestamp": "now"}}
    unready: dict[str, Any] = {"status": {"conditions": []}}
    for over in (gone, unready):
        put(kubectl, [earlier | over], "pods")
        assert in_cluster(cloud) == []


@pytest.fixture
def rollout(cloud: World, kubectl: Path) -> dict[str, Any]:
    """The same with Argo Rollouts: the Rollout runs the pods, and the Deployment has none."""
    tree = cloud.root / layout.ENVIRONMENTS
    edit(tree, "production", lambda knobs: knobs.update(variant="rollout"))
    items = {item["kind"]: item for item in kubernetes_tools.build(tree / "production")}
    (server,) = live(kubectl)
    moved = items["Rollout"]
    moved["metadata"]["uid"] = "3"
    finish(moved, 2)
    moved["status"] |= {"observedGeneration": "2", "phase": "Healthy"}
    put(kubectl, [moved], "rollouts")
    server["spec"]["replicas"] = 0
    run(kubectl, moved | {"spec": server["spec"]})
    put(kubectl, [server])
    return moved


def test_the_pods_of_a_rollout_are_the_servers_and_its_phase_counts(
    cloud: World, kubectl: Path, rollout: dict[str, Any]
) -> None:
    assert in_cluster(cloud) == []
    rollout["status"] |= {"phase": "Paused", "message": "CanaryPauseStep"}
    put(kubectl, [rollout], "rollouts")
    assert [finding.mirror for finding in in_cluster(cloud)] == ["Rollout server: is Paused: CanaryPauseStep"]
    rollout["spec"]["workloadRef"]["name"] = "other"
    put(kubectl, [rollout], "rollouts")
    lines = [finding.mirror for finding in in_cluster(cloud)]
    assert lines == [
        "Deployment server: ReplicaSet server-5f: has the labels by which the server is found",
        "Deployment server: is scaled to 0: nothing answers",
    ]


@pytest.mark.parametrize(
    "kind", ["inferenceservices.serving.kserve.io", "llminferenceservices.serving.kserve.io", "rollouts.argoproj.io"]
)
def test_a_kind_that_the_caller_may_not_list_names_the_role_and_not_another_cluster(
    kind: str, cloud: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORBIDDEN", kind)
    (finding,) = in_cluster(cloud)
    assert (finding.severity, finding.todo) == (
        "unreachable", "let the caller list it, by the Role in docs/how-to/mirrors.md#clusters",
    )  # fmt: skip
    assert f"{kind} is forbidden" in finding.mirror


@pytest.fixture
def kserve(cloud: World, kubectl: Path) -> World:
    """The same with KServe: what it makes of an InferenceService carries its labels, and selects by its own."""
    tree = cloud.root / layout.ENVIRONMENTS
    edit(tree, "production", lambda knobs: knobs.update(variant="kserve"))
    items = kubernetes_tools.build(tree / "production")
    (server,) = [item for item in items if item["kind"] == "InferenceService"]
    server["metadata"]["uid"] = "0"
    put(kubectl, [server], "inferenceservices")
    predictor = server["spec"]["predictor"]
    labels = {"app": "isvc.server-predictor"} | server["metadata"]["labels"] | predictor["labels"]
    made = {"labels": labels, "ownerReferences": [owner(server)]}
    (deployment,) = live(kubectl)
    annotations = predictor["annotations"]
    template = {
        "metadata": {"labels": labels, "annotations": annotations}, "spec": deployment["spec"]["template"]["spec"],
    }  # fmt: skip
    deployment = workload("Deployment", "server-predictor", template, uid="1", **made)
    finish(deployment, 1)
    put(kubectl, [deployment])
    run(kubectl, deployment)
    leads = service("server-predictor", {"app": labels["app"]}, 8000)
    leads["metadata"] |= made
    put(kubectl, [leads], "services")
    return cloud


def test_what_kserve_makes_of_the_server_agrees(kserve: World) -> None:
    assert in_cluster(kserve) == []


def test_kserve_that_made_nothing_and_a_deployment_of_it_that_is_stuck_are_drift(kserve: World, kubectl: Path) -> None:
    (deployment,) = live(kubectl)
    deployment["status"]["conditions"] = [STUCK]
    put(kubectl, [deployment])
    (finding,) = in_cluster(kserve)
    assert finding.mirror.startswith("Deployment server-predictor: is stuck: ProgressDeadlineExceeded")
    for kind in ("deployments", "replicasets", "pods", "services"):
        put(kubectl, [], kind)
    (finding,) = in_cluster(kserve)
    assert finding.mirror == "InferenceService server: the cluster has made no Deployment of it"


def test_what_kserve_makes_of_an_llm_inference_service_agrees_and_its_presets_are_drift(
    cloud: World, kubectl: Path
) -> None:
    """As KServe 0.20 makes them (pkg/controller/v1alpha2/llmisvc/workload_single_node.go)."""
    tree = cloud.root / layout.ENVIRONMENTS
    edit(tree, "production", lambda knobs: knobs.update(variant="kserve-llm"))
    items = {item["kind"]: item for item in kubernetes_tools.build(tree / "production") if item["kind"] != "Service"}
    server, preset = items["LLMInferenceService"], items["LLMInferenceServiceConfig"]
    server["metadata"]["uid"] = "0"
    preset["spec"] = {"model": {"uri": ""}}  # as KServe writes it back
    put(kubectl, [server], "llminferenceservices")
    put(kubectl, [preset], "llminferenceserviceconfigs")
    labels = {"app.kubernetes.io/name": "server", "app.kubernetes.io/part-of": "llminferenceservice"}
    metadata = {"labels": labels, "annotations": server["spec"]["annotations"]}
    template = {"metadata": metadata, "spec": server["spec"]["template"]}
    deployment = workload("Deployment", "server-kserve", template, uid="1", labels=labels)
    deployment["metadata"]["ownerReferences"] = [owner(server)]
    finish(deployment, 1)
    put(kubectl, [deployment])
    run(kubectl, deployment)
    leads = service("server-kserve-workload-svc", labels, 8000)
    leads["metadata"]["ownerReferences"] = [owner(server)]
    own = json.loads((kubectl / "services.json").read_text())["items"]
    put(kubectl, [*own, leads], "services")
    assert in_cluster(cloud) == []
    preset["spec"] = {"template": {"containers": [{"name": "main", "env": [{"name": "A", "value": "b"}]}]}}
    put(kubectl, [preset], "llminferenceserviceconfigs")
    (finding,) = in_cluster(cloud)
    assert "LLMInferenceServiceConfig kserve-config-llm-template: must be empty" in finding.mirror
    put(kubectl, [], "llminferenceserviceconfigs")
    (finding,) = in_cluster(cloud)
    assert "kserve-config-llm-template: is missing: KServe adds its own to the pod" in finding.mirror
    put(kubectl, [], "llminferenceservices")
    (finding,) = in_cluster(cloud)
    assert finding.mirror.startswith("Deployment server-kserve: has no container server")


def test_a_pod_that_kserves_own_service_would_find_is_drift(kserve: World, kubectl: Path) -> None:
    add(kubectl, "pods", pod("canary", {"app": "isvc.server-predictor"}, EVIL))
    (found,) = in_cluster(kserve)
    assert "Pod canary: has the labels" in found.mirror


def test_a_cluster_that_runs_nothing_where_git_says_something_is_drift(cloud: World, kubectl: Path) -> None:
    put(kubectl, [])
    (found,) = in_cluster(cloud)
    assert found.severity == "drift"
    assert "found none" in found.mirror
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
    production, where = wanted(cloud)["production"], cluster.current()
    assert isinstance(where, Cluster)
    monkeypatch.setattr(cluster, "DEADLINE", 1.0 if "hang" in words or "within" in words else 15.0)
    spoil(kubectl)
    (found,) = cluster.check(where, production)
    assert found.severity == "unreachable"
    assert words in found.mirror


def test_without_kubectl_or_a_context_no_cluster_is_asked(kubectl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (kubectl / "context").unlink()
    assert cluster.current() == "kubectl has no current context"
    monkeypatch.setenv("PATH", str(kubectl))
    assert cluster.current() == "kubectl is not installed here"
