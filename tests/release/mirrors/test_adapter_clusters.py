"""A server that lost an adapter, or answers as the base under its name: found in each kind of workload."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from release.mirrors import cluster
from release.mirrors.cluster import Cluster
from release.mirrors.desired import Desired
from release.mirrors.types import MirrorFinding
from release.overlay import adapter_component, overlays
from tests import kubernetes_tools
from tests.overlay_sample import KINDS, OTHER, pod_of, pointer, put, server_of
from tests.release.mirrors import test_clusters as clusters
from tests.release.overlay.test_adapter_component import ROUTER, STAGING, SUPPORT, WRITER, project, released

pytestmark = pytest.mark.slow

kubectl = clusters.kubectl
NAMESPACE = "model-staging"
GUESTS = ((ROUTER, "2"), (WRITER, "3"))


@pytest.fixture(scope="module", params=KINDS)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What kustomize builds for one server with three adapters, in each kind of workload, held to its schema."""
    top = tmp_path_factory.mktemp("adapters")
    support = project(top, SUPPORT, namespace=NAMESPACE, variant=request.param, adapters=["../router", "../writer"])
    put(support, released(SUPPORT, "1"))
    for name, digit in GUESTS:
        put(project(top, name, variant="adapter"), released(name, digit))
    items = kubernetes_tools.build(support / "staging")
    for item in items:
        kubernetes_tools.validate(item, kubernetes_tools.VERSIONS[-1])
    return items


@pytest.fixture
def workload(built: list[dict[str, Any]], kubectl: Path) -> dict[str, Any]:
    """The server in the cluster, with a Deployment and a pod that a cluster makes of it."""
    items = copy.deepcopy(built)
    (server,) = [item for item in items if item["kind"] in ("Deployment", "InferenceService", "LLMInferenceService")]
    server["metadata"]["uid"] = "1"
    clusters.put(kubectl, [item for item in items if item["kind"] == "Service"], "services")
    clusters.put(kubectl, [item for item in items if item["kind"].endswith("Config")], "llminferenceserviceconfigs")
    shown(kubectl, server)
    return server


def shown(kubectl: Path, server: dict[str, Any]) -> None:
    """Put the server into the cluster, and what its controllers make of it."""
    kind = server["kind"]
    made = server
    if kind != "Deployment":
        clusters.put(kubectl, [server], f"{kind.lower()}s")
        metadata = {"labels": {"app.kubernetes.io/name": "server"}, "annotations": server["metadata"]["annotations"]}
        template = {"metadata": metadata, "spec": pod_of(server)}
        made = clusters.workload("Deployment", "server-predictor", template, uid="7")
        made["metadata"] |= {"ownerReferences": [clusters.owner(server)], "labels": {}}
    clusters.finish(made, made["spec"].get("replicas", 1))
    clusters.put(kubectl, [made])
    clusters.run(kubectl, made)


def findings() -> list[MirrorFinding]:
    components = [released(name, digit)[STAGING / overlays.ADAPTER] for name, digit in GUESTS]
    files = overlays.joined("staging", released(SUPPORT, "1"), components)
    place = cluster.current()
    assert isinstance(place, Cluster)
    model = f"sha256:{'1' * 64}"
    return cluster.check(place, Desired("staging", pointer(model=model), None, files, NAMESPACE, ()))


def argument(server: dict[str, Any], name: str) -> int:
    arguments = server_of(server)["args"]
    return next(number for number, word in enumerate(arguments) if str(word).startswith(name))


def lose(server: dict[str, Any]) -> None:
    """A request for ``router`` gets 404."""
    server_of(server)["args"].pop(argument(server, "router="))


def answer_as_base(server: dict[str, Any]) -> None:
    """The server calls its base ``router``, and has no adapter of that name."""
    lose(server)
    arguments = server_of(server)["args"]
    arguments.insert(arguments.index(adapter_component.MODULES), "--served-model-name=router")


def stay_stale(server: dict[str, Any]) -> None:
    """The name stays, and the folder is that of another release."""
    place = argument(server, "router=")
    server_of(server)["args"][place] = server_of(server)["args"][place].replace("2" * 12, "4" * 12)


def other_bytes(server: dict[str, Any]) -> None:
    (volume,) = [item for item in pod_of(server)["volumes"] if item["name"] == f"adapter-{'2' * 12}"]
    volume["image"]["reference"] = f"registry.example/team/router@{OTHER}"


def unmount(server: dict[str, Any]) -> None:
    mounts = server_of(server)["volumeMounts"]
    mounts[:] = [mount for mount in mounts if mount["mountPath"] != "/adapters/router"]


def load_at_run_time(server: dict[str, Any]) -> None:
    """Whoever reaches the pod may unload an adapter, or load other bytes under its name."""
    server_of(server).setdefault("env", []).append({"name": "VLLM_ALLOW_RUNTIME_LORA_UPDATING", "value": "True"})


FAULTS: list[tuple[Callable[[dict[str, Any]], None], str]] = [
    (lose, "server.args: is "),
    (answer_as_base, "server.args: is "),
    (stay_stale, "server.args: is "),
    (other_bytes, f"pod.volumes.adapter-{'2' * 12}.image.reference: is 'registry.example/team/router@{OTHER}'"),
    (unmount, "server.volumeMounts./adapters/router: is there 0 times"),
    (load_at_run_time, "server.env: the release sets none of [{'name': 'VLLM_ALLOW_RUNTIME_LORA_UPDATING'"),
]


def test_a_server_that_a_hand_took_an_adapter_from_is_drift(workload: dict[str, Any], kubectl: Path) -> None:
    assert findings() == []
    for fault, words in FAULTS:
        changed = copy.deepcopy(workload)
        fault(changed)
        shown(kubectl, changed)
        assert [finding for finding in findings() if words in finding.mirror], fault
    shown(kubectl, workload)
    assert findings() == [], "nothing of a fault is left"


def test_a_pod_that_lost_an_adapter_on_its_way_is_found(workload: dict[str, Any], kubectl: Path) -> None:
    """The workload is as git says. The pod is of an earlier move, or something changed it when it was made."""
    (pod,) = clusters.live(kubectl, "pods")
    container = next(item for item in pod["spec"]["containers"] if adapter_component.MODULES in item.get("args", []))
    container["args"] = [word for word in container["args"] if not word.startswith("router")]
    clusters.put(kubectl, [pod], "pods")
    (finding,) = findings()
    support, writer = (
        f"support=/weights/models/support-{'1' * 12}/adapter",
        f"/adapters/writer/models/writer-{'3' * 12}",
    )
    assert f"Pod {pod['metadata']['name']}: gets requests, and loads the adapters {support}, writer" in finding.mirror
    assert f"; by git {support}, router-{'2' * 12}=" in finding.mirror
    assert f"writer={writer}/adapter" in finding.mirror


def test_each_kind_loads_all_adapters_from_images_by_digest(built: list[dict[str, Any]]) -> None:
    """The list of KServe itself stays empty: it takes no image."""
    (server,) = [item for item in built if item["kind"] in ("Deployment", "InferenceService", "LLMInferenceService")]
    own, *guests = adapter_component.loaded(server_of(server))
    assert own.startswith("support=")
    assert [word.partition("=")[0] for word in guests] == [f"router-{'2' * 12}", ROUTER, f"writer-{'3' * 12}", WRITER]
    volumes = {item["name"]: item["image"]["reference"] for item in pod_of(server)["volumes"] if "image" in item}
    assert volumes.keys() == {"weights", f"adapter-{'2' * 12}", f"adapter-{'3' * 12}"}
    assert all("@sha256:" in reference for reference in volumes.values())
    assert "lora" not in server["spec"].get("model", {})
