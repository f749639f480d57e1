"""The knobs of an environment: what each does, and that the release stays as it is."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from checks.storage import layout
from release import runtimes
from release.overlay import deployed, edits, overlays
from tests import kubernetes_tools, programs
from tests.conftest import REPOSITORY
from tests.overlay_sample import (
    GATEWAY,
    KINDS,
    OTHER,
    SERVER,
    edit,
    failures,
    image,
    load,
    lying,
    pin,
    pod_of,
    pointer,
    put,
    rendered,
    serve,
    server_of,
)

pytestmark = pytest.mark.slow


FREE: dict[str, tuple[dict[str, Any], Callable[[dict[str, Any]], Any], Any]] = {
    "namespace": ({"namespace": "other"}, lambda item: item["metadata"]["namespace"], "other"),
    "replicas": ({"replicas": 3}, lambda item: item["spec"]["replicas"], 3),
    "a scaler": ({"replicas": None}, lambda item: item["spec"].get("replicas"), None),
    "an old server ends first": (
        {"update": "replace", "downtime": "allowed"}, lambda item: item["spec"]["strategy"],
        {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}},
    ),
    "a pause": ({"update": "pause", "downtime": "allowed"}, lambda item: item["spec"]["strategy"], {"type": "Recreate"}),
    "GPUs": (
        {"gpus": 2, "pod": {"tolerations": [{"operator": "Exists"}]}},
        lambda item: (server_of(item)["resources"]["limits"]["nvidia.com/gpu"], len(pod_of(item)["tolerations"])), ("2", 2),
    ),
    "no root": ({"run_as_non_root": True}, lambda item: pod_of(item)["securityContext"]["runAsNonRoot"], True),
    "resources": (
        {"resources": {"limits": {"cpu": "4", "memory": "64Gi"}, "requests": {"cpu": "500m"}}},
        lambda item: server_of(item)["resources"],
        {
            "limits": {"cpu": "4", "memory": "64Gi", "ephemeral-storage": "8Gi"},
            "requests": {"cpu": "500m", "memory": "4Gi", "ephemeral-storage": "1Gi"},
        },
    ),
    "a pod's place": (
        {"pod": {
            "nodeSelector": {"pool": "gpu"}, "priorityClassName": "high", "imagePullSecrets": [{"name": "pull"}],
            "runtimeClassName": "nvidia", "schedulerName": "other", "affinity": {"nodeAffinity": {}},
            "topologySpreadConstraints": [
                {"maxSkew": 1, "topologyKey": "x", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {overlays.LABEL: "server"}}}
            ],
        }},
        lambda item: (pod_of(item)["nodeSelector"], pod_of(item)["imagePullSecrets"], len(pod_of(item)["topologySpreadConstraints"])),
        ({"pool": "gpu"}, [{"name": "pull"}], 1),
    ),
    "labels": ({"labels": {"team": "routing"}}, lambda item: item["metadata"]["labels"]["team"], "routing"),
}  # fmt: skip


@pytest.mark.parametrize("case", FREE)
def test_a_knob_does_what_it_says_and_leaves_the_release(case: str, tree: Path) -> None:
    programs.require("kustomize")
    knobs, read, expected = FREE[case]
    edit(tree, "staging", lambda own: own.update(knobs))
    assert failures(tree) == []
    items = kubernetes_tools.build(tree / "staging")
    for item in items:
        kubernetes_tools.validate(item, kubernetes_tools.VERSIONS[0])
    (server_object,) = [item for item in items if item["kind"] == "Deployment"]
    assert read(server_object) == expected
    assert deployed.failures(items, "staging", rendered()) == []


SOME = {"replicas": 2, "update": "replace", "gpus": 1, "pod": {"nodeSelector": {"a": "b"}}}


@pytest.mark.parametrize(
    ("runtime", "variant", "knobs"),
    [
        *((runtime, variant, SOME) for runtime in runtimes.names() for variant in (*KINDS, "rollout")),
        *((runtimes.names()[0], variant, {}) for variant in (*KINDS, "rollout")),
    ],
)
def test_every_variant_runs_the_release(tree: Path, runtime: str, variant: str, knobs: dict[str, Any]) -> None:
    programs.require("kustomize")
    wanted = rendered("staging", runtime, "weights")
    put(tree, wanted)
    written = {key: value for key, value in knobs.items() if variant != "rollout" or key != "update"}
    pin(tree, "staging", variant=variant, **written)
    assert failures(tree, wanted) == []
    items = kubernetes_tools.build(tree / "staging")
    for item in items:
        kubernetes_tools.validate(item, kubernetes_tools.VERSIONS[0])
    assert deployed.failures(items, "staging", wanted) == []
    pod = kubernetes_tools.pod(items)
    assert pod["containers"][0]["image"] == f"{SERVER}@{OTHER}"
    assert pod.get("nodeSelector") == ({"a": "b"} if knobs else None)
    put(tree, overlays.nothing("staging"))
    assert kubernetes_tools.build(tree / "staging") == []


def test_who_may_ask_is_narrowed(tree: Path) -> None:
    programs.require("kustomize")
    clients = [{"podSelector": {"matchLabels": {"team": "routing"}}}]
    for gateway, name in ((None, "server"), ({"image": GATEWAY}, "gateway")):
        edit(tree, "staging", lambda own, gateway=gateway: own.update(clients=clients, gateway=gateway))  # type: ignore[misc]
        assert failures(tree) == []
        items = kubernetes_tools.build(tree / "staging")
        (policy,) = [item for item in items if (item["kind"], item["metadata"]["name"]) == ("NetworkPolicy", name)]
        assert policy["spec"]["ingress"][0]["from"] == clients


def test_weights_that_come_alone_run_in_the_server_that_the_environment_names(tree: Path) -> None:
    alone = rendered(shape="weights")
    (failure,) = failures(tree, alone)
    assert failure.endswith("name the server that they run in, as HOST/NAME@sha256:…")
    pin(tree, "staging")
    assert failures(tree, alone) == []


def test_the_number_of_gpus_is_that_of_the_shards(tree: Path) -> None:
    wanted = overlays.render("staging", pointer(), image("vllm"), load("vllm"), serve(shards=4))
    assert failures(tree, wanted) == []
    edit(tree, "staging", lambda own: own.update(gpus=4))
    assert failures(tree, wanted) == []
    edit(tree, "staging", lambda own: own.update(gpus=1))
    (failure,) = failures(tree, wanted)
    assert failure.endswith("environment.yaml: gpus: is 1, serve.shards is 4: write `gpus: 4`")


def test_another_environments_namespace_is_refused_but_for_a_rollback(tree: Path) -> None:
    edit(tree, "staging", lambda own: own.update(namespace="model-production"))
    (failure,) = failures(tree)
    assert "namespace: 'model-production' is the namespace of production too" in failure
    assert edits.failures("staging", lying(tree), rendered(), lambda: (), rollback=True) == []
    (tree / "production" / "environment.yaml").write_text("namespace: 5\n")
    assert failures(tree) == []  # production's own move reports that


def test_the_shipped_environments_are_rendered() -> None:
    found = lying(REPOSITORY / layout.ENVIRONMENTS)
    for name in ("staging", "production"):
        assert edits.failures(name, found, overlays.nothing(name), lambda: ()) == []
