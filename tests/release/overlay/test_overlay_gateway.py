"""The gateway before the server: what its knobs build to, and that nothing else changes it."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from checks.storage import layout
from release import runtimes
from release.overlay import deployed, kustomization, overlays
from tests import kubernetes_tools, programs, spoil
from tests.conftest import REPOSITORY
from tests.overlay_sample import (
    GATEWAY,
    OTHER,
    UNRENDERED,
    edit,
    failures,
    load,
    put,
    rendered,
    rewrite,
)
from tests.ports import unused_port

pytestmark = pytest.mark.slow

PLACEHOLDER = kustomization.GATEWAY_PLACEHOLDER
IMAGES = [{"name": PLACEHOLDER, "newName": "registry.example/lockstep", "digest": OTHER}]
CONTAINER = "/spec/template/spec/containers/0"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of release/environments with a release promoted to staging, behind the gateway."""
    found = shutil.copytree(REPOSITORY / layout.ENVIRONMENTS, tmp_path / layout.ENVIRONMENTS)
    put(found, rendered())
    knobs(found, settings={"LOCKSTEP_GATEWAY_SAMPLE": "0.1"})
    return found


def knobs(tree: Path, **of_gateway: Any) -> None:
    edit(tree, "staging", lambda own: own.update(gateway={"image": GATEWAY, **of_gateway}))


def own(**fields: Any) -> spoil.Spoil:
    return lambda tree: rewrite(tree, lambda value: value.update(fields))


def patched(*operations: dict[str, Any], kind: str = "Deployment", name: str = "gateway") -> spoil.Spoil:
    """Operations on an object of the component."""
    patch = {"target": {"kind": kind, "name": name}, "patch": yaml.safe_dump(list(operations))}
    return lambda tree: rewrite(tree, lambda value: value["patches"].append(patch))


def setting(path: str, value: Any, op: str = "replace", **of: str) -> spoil.Spoil:
    return patched({"op": op, "path": path, "value": value}, **of)


def beside(item: dict[str, Any]) -> spoil.Spoil:
    """One more object, in a file of the environment."""

    def do(tree: Path) -> None:
        (tree / "staging" / "more.yaml").write_text(yaml.safe_dump(item))
        rewrite(tree, lambda value: value["resources"].append("more.yaml"))

    return do


@pytest.mark.parametrize(("kind", "gpus"), [("deployment", 0), ("kserve", 1), ("kserve-llm", 1)])
@pytest.mark.parametrize("runtime", runtimes.names())
def test_it_builds_to_what_kubernetes_takes_before_every_server(tree: Path, runtime: str, kind: str, gpus: int) -> None:
    programs.require("kustomize")
    wanted = rendered("staging", runtime)
    put(tree, wanted)
    edit(tree, "staging", lambda own: own.update(variant=kind, gpus=gpus))
    assert failures(tree, wanted) == []
    items = kubernetes_tools.build(tree / "staging")
    for item in items:
        kubernetes_tools.validate(item, kubernetes_tools.VERSIONS[0])
    assert deployed.failures(items, "staging", wanted) == []
    objects = {(item["kind"], item["metadata"]["name"]): item["spec"] for item in items if "spec" in item}
    (container,) = objects["Deployment", "gateway"]["template"]["spec"]["containers"]
    assert container["image"] == GATEWAY
    (config,) = [item for item in items if item["kind"] == "ConfigMap"]
    assert container["envFrom"][0]["configMapRef"]["name"] == config["metadata"]["name"]
    assert config["data"] == {"LOCKSTEP_GATEWAY_ENVIRONMENT": "staging", "LOCKSTEP_GATEWAY_SAMPLE": "0.1"}
    assert f"http://server-pods:{load(runtime).port}" in container["args"]
    ingress = objects["NetworkPolicy", "server"]["ingress"]
    assert ingress[0]["from"] == [{"podSelector": {"matchLabels": {overlays.LABEL: "gateway"}}}]
    assert "egress" not in objects["NetworkPolicy", "server"]


def test_an_environment_that_runs_nothing_builds_with_it_too(tree: Path) -> None:
    programs.require("kustomize")
    put(tree, overlays.nothing("staging"))
    items = kubernetes_tools.build(tree / "staging")
    assert {item["metadata"]["name"] for item in items if item["kind"] == "Deployment"} == {"gateway"}
    assert deployed.failures(items, "staging", overlays.nothing("staging")) == []


def test_its_knobs_do_what_they_say(tree: Path) -> None:
    programs.require("kustomize")
    store = {
        "AWS_REGION": "eu-west-1", "AWS_ENDPOINT_URL": "http://minio:9000",
        "GOOGLE_APPLICATION_CREDENTIALS": "/etc/lockstep/google.json", "LOCKSTEP_GATEWAY_KEYS": "/etc/lockstep/keys",
    }  # fmt: skip
    knobs(
        tree, replicas=5, settings=store, resources={"limits": {"memory": "4Gi"}}, pod={"nodeSelector": {"pool": "cpu"}},
        service_account="captures", egress=[443],
    )  # fmt: skip
    assert failures(tree) == []
    items = kubernetes_tools.build(tree / "staging")
    for item in items:
        kubernetes_tools.validate(item, kubernetes_tools.VERSIONS[0])
    objects = {(item["kind"], item["metadata"]["name"]): item["spec"] for item in items if "spec" in item}
    gateway = objects["Deployment", "gateway"]
    pod = gateway["template"]["spec"]
    assert (gateway["replicas"], pod["nodeSelector"], pod["serviceAccountName"]) == (5, {"pool": "cpu"}, "captures")
    assert pod["containers"][0]["resources"]["limits"] == {"memory": "4Gi"}
    assert objects["NetworkPolicy", "gateway"]["egress"][-1] == {"ports": [{"protocol": "TCP", "port": 443}]}
    (config,) = [item for item in items if item["kind"] == "ConfigMap"]
    assert config["data"] == {"LOCKSTEP_GATEWAY_ENVIRONMENT": "staging", **store}


EVIL = f"evil.example/x@{OTHER}"
REFUSED: dict[str, spoil.Spoil] = {
    "no image": own(images=[]),
    "a tag": own(images=[{"name": PLACEHOLDER, "newName": "x", "newTag": "1"}]),
    "an image twice": own(images=[*IMAGES, IMAGES[0] | {"newName": "x"}]),
    "no settings": own(configMapGenerator=[]),
    "another environment": own(configMapGenerator=[{"name": "gateway", "literals": ["LOCKSTEP_GATEWAY_ENVIRONMENT=production"]}]),
    "another image": setting(f"{CONTAINER}/image", EVIL),
    "another server": setting(f"{CONTAINER}/args/3", "http://evil.example"),
    "a command": setting(f"{CONTAINER}/command", ["/evil"], "add"),
    "a variable": setting(f"{CONTAINER}/env", [{"name": "PYTHONPATH", "value": "/work"}], "add"),
    "other settings": setting(f"{CONTAINER}/envFrom/0/configMapRef/name", "other"),
    "every variable of a Secret": setting(f"{CONTAINER}/envFrom/-", {"secretRef": {"name": "gateway", "optional": True}}, "add"),
    "one more variable of the Secret": setting(
            f"{CONTAINER}/env/-",
            {"name": "PYTHONPATH", "valueFrom": {"secretKeyRef": {"name": "gateway", "key": "PYTHONPATH"}}},
            "add",
        ),
    "an interpreter that takes variables": setting(f"{CONTAINER}/command", ["python3", "-m", "release.cli"]),
    "settings that an operator writes": beside(
            {
                "apiVersion": "external-secrets.io/v1", "kind": "ExternalSecret", "metadata": {"name": "x"},
                "spec": {"target": {"name": "gateway", "manifest": {"apiVersion": "v1", "kind": "ConfigMap"}}},
            }
        ),
    "a container more": setting("/spec/template/spec/containers/-", {"name": "x", "image": EVIL}, "add"),
    "a privileged one": setting(f"{CONTAINER}/securityContext/privileged", True, "add"),
    "a volume of the node": setting("/spec/template/spec/volumes/0", {"name": "work", "hostPath": {"path": "/"}}),
    "no way to end": setting("/spec/template/spec/terminationGracePeriodSeconds", 1),
    "a label that a tool reads": setting("/metadata/annotations", {"sidecar.istio.io/inject": "true"}, "add"),
    "a Service that leads elsewhere": setting("/spec/ports/0/targetPort", 9, kind="Service"),
    "a Service that takes another's requests": setting("/spec/selector", {"app": "evil"}, kind="Service"),
    "a Service before the gateway, past its keys": setting("/spec/selector", {overlays.LABEL: "server"}, kind="Service"),
    "a Service of the server that leads to the gateway": setting("/spec/selector", {overlays.LABEL: "gateway"}, kind="Service", name="server-pods"),
    "a load balancer past the gateway": setting("/spec/type", "LoadBalancer", "add", kind="Service", name="server"),
    "a port of every node past the gateway": setting("/spec/type", "NodePort", "add", kind="Service", name="server"),
    "a name of external-dns": setting(
            "/metadata/annotations", {"external-dns.alpha.kubernetes.io/hostname": "models.example.org"}, "add",
            kind="Service",
        ),
    "a server that sends": setting("/spec/egress", [{}], "add", kind="NetworkPolicy", name="server"),
    "a second workload": setting("/metadata/name", "other"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_could_change_an_answer_is_refused(case: str, tree: Path) -> None:
    REFUSED[case](tree)
    found = failures(tree)
    assert found
    assert all(UNRENDERED.search(failure) and "\n" not in failure for failure in found), found


def test_a_service_before_the_gateway_is_seen_in_a_cluster(tree: Path) -> None:
    programs.require("kustomize")
    setting("/spec/selector", {overlays.LABEL: "server"}, kind="Service")(tree)
    assert deployed.failures(kubernetes_tools.build(tree / "staging"), "staging", rendered()) == [
        "Deployment server: Service gateway: leads past the gateway, where no API key is asked for"
    ]


def kubelet_variables(container: dict[str, Any], config: dict[str, str], secret: dict[str, str]) -> dict[str, str]:
    """The variables of a container: those of `envFrom`, then those of `env`, which replace them."""
    objects = {"configMapRef": config, "secretRef": secret}
    variables: dict[str, str] = {}
    for source in container.get("envFrom", []):
        variables |= next(objects[kind] for kind in objects if kind in source)
    for variable in container.get("env", []):
        key = variable["valueFrom"]["secretKeyRef"]["key"]
        variables |= {variable["name"]: secret[key]} if key in secret else {}
    return variables


def test_secrets_neither_run_code_in_the_gateway_nor_take_its_keys_away(tree: Path, tmp_path: Path) -> None:
    """`secret` is the Secret `gateway`; `mounted` is the Secret `gateway-keys`, whose file of keys has none."""
    programs.require("kustomize")
    mounted, marker = tmp_path / "mounted", tmp_path / "code of the Secret ran"
    mounted.mkdir()
    (mounted / "keys").write_text("")
    (mounted / "sitecustomize.py").write_text(f"open({str(marker)!r}, 'w').close()")
    config = {"LOCKSTEP_GATEWAY_ENVIRONMENT": "staging", "LOCKSTEP_GATEWAY_KEYS": str(mounted / "keys")}
    secret = {"PYTHONPATH": str(mounted), "LOCKSTEP_GATEWAY_KEYS": "", "AWS_ACCESS_KEY_ID": "AKIA"}
    (pod,) = [
        item["spec"]["template"]["spec"]
        for item in kubernetes_tools.build(tree / "staging")
        if (item["kind"], item["metadata"]["name"]) == ("Deployment", "gateway")
    ]
    (container,) = pod["containers"]
    variables = kubelet_variables(container, config, secret)
    assert variables["AWS_ACCESS_KEY_ID"] == "AKIA"
    python, *words = container.get("command", ["python3", "-m", "release.cli"])
    assert python == "python3"
    ports = [f"--port={unused_port()}", f"--metrics-port={unused_port()}"]
    for more in ({}, {"PYTHONPATH": str(mounted)}):  # The second is what somebody may set who can change the pod.
        done = subprocess.run(
            [sys.executable, *words, "-C", str(tmp_path), "gateway", "http://127.0.0.1:9", *ports],
            env=variables | more, cwd=REPOSITORY, capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        assert (done.returncode, "has no key" in done.stderr) == (14, True), done.stderr
        assert not marker.exists()
