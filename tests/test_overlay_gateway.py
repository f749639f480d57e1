"""The component gateway: what it builds to, and what people may change in it."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from checks import layout
from checks.errors import MachineRefused
from release import runtimes
from release.overlay import deployed, edits, gateway, kustomize, overlays
from tests import kubernetes_tools, programs, spoil
from tests.conftest import REPOSITORY
from tests.gateway_process import unused_port
from tests.overlay_sample import KINDS, OTHER, Files, edit, load, lying, put, rendered

pytestmark = pytest.mark.slow

IMAGES = [{"name": gateway.PLACEHOLDER, "newName": "registry.example/lockstep", "digest": OTHER}]
SETTINGS = [{"name": "gateway", "literals": ["LOCKSTEP_GATEWAY_ENVIRONMENT=staging", "LOCKSTEP_GATEWAY_SAMPLE=0.1"]}]
CONTAINER = "/spec/template/spec/containers/0"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of release/environments with a release promoted to staging, behind the gateway."""
    found = shutil.copytree(REPOSITORY / layout.ENVIRONMENTS, tmp_path / layout.ENVIRONMENTS)
    put(found, rendered())
    own(components=[gateway.COMPONENT], images=IMAGES, configMapGenerator=SETTINGS)(found)
    return found


def own(**fields: Any) -> spoil.Spoil:
    return lambda tree: edit(tree, "staging", lambda value: value.update(fields))


def patched(*operations: dict[str, Any], kind: str = "Deployment", name: str = "gateway") -> spoil.Spoil:
    """Operations on an object of the component."""
    patch = {"target": {"kind": kind, "name": name}, "patch": yaml.safe_dump(list(operations))}
    return lambda tree: edit(tree, "staging", lambda value: value["patches"].append(patch))


def setting(path: str, value: Any, op: str = "replace", **of: str) -> spoil.Spoil:
    return patched({"op": op, "path": path, "value": value}, **of)


def beside(item: dict[str, Any]) -> spoil.Spoil:
    """One more object, in a file of the environment."""

    def do(tree: Path) -> None:
        (tree / "staging" / "more.yaml").write_text(yaml.safe_dump(item))
        edit(tree, "staging", lambda value: value["resources"].append("more.yaml"))

    return do


def failures(tree: Path, wanted: Files | None = None) -> list[str]:
    return edits.failures("staging", lying(tree), wanted or rendered(), ("staging", "production"))


@pytest.mark.parametrize("components", [[gateway.COMPONENT], ["../components/gpu", gateway.COMPONENT]])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("runtime", runtimes.names())
def test_it_is_known_without_a_build_and_builds_to_what_is_allowed(
    tree: Path, runtime: str, kind: str, components: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = rendered("staging", runtime)
    put(tree, wanted)
    own(components=components, resources=[f"release/{kind}"])(tree)
    with monkeypatch.context() as context:
        context.setattr(kustomize, "PROGRAM", "no-such-program")
        assert failures(tree, wanted) == []
    programs.require("kustomize")
    own(commonAnnotations={"note": "so that it is built"})(tree)
    assert failures(tree, wanted) == []
    items = kubernetes_tools.build(tree / "staging")
    for item in items:
        kubernetes_tools.validate(item, kubernetes_tools.VERSIONS[0])
    assert deployed.failures(items, "staging", wanted) == []
    objects = {(item["kind"], item["metadata"]["name"]): item["spec"] for item in items if "spec" in item}
    (pod,) = [
        spec["template"]["spec"] for (kind, name), spec in objects.items() if (kind, name) == ("Deployment", "gateway")
    ]
    (container,) = pod["containers"]
    assert container["image"] == f"registry.example/lockstep@{OTHER}"
    assert container["envFrom"][0]["configMapRef"]["name"] in {
        item["metadata"]["name"] for item in items if item["kind"] == "ConfigMap"
    }
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


FREE: dict[str, spoil.Spoil] = {
    "replicas": setting("/spec/replicas", 5),
    "resources": setting(f"{CONTAINER}/resources/limits/memory", "4Gi"),
    "nodes": setting("/spec/template/spec/nodeSelector", {"pool": "cpu"}, "add"),
    "an account of the cloud": setting("/spec/template/spec/serviceAccountName", "captures", "add"),
    "a larger folder": setting("/spec/template/spec/volumes/0/emptyDir/sizeLimit", "8Gi"),
    "patience": setting(f"{CONTAINER}/livenessProbe/periodSeconds", 60),
    "its Service": setting("/spec/type", "LoadBalancer", "add", kind="Service"),
    "who may ask": setting(
        "/spec/ingress/0/from", [{"namespaceSelector": {}}], "add", kind="NetworkPolicy"
    ),
    "the way to a store": setting("/spec/egress/-", {"ports": [{"port": 443}]}, "add", kind="NetworkPolicy"),
}  # fmt: skip


@pytest.mark.parametrize("case", FREE)
def test_what_is_the_environments_own_is_no_gap(case: str, tree: Path) -> None:
    programs.require("kustomize")
    FREE[case](tree)
    assert failures(tree) == []


EVIL = f"evil.example/x@{OTHER}"
REFUSED: dict[str, tuple[spoil.Spoil, str]] = {
    "no image": (own(images=[]), f"images: name the gateway as {gateway.PLACEHOLDER}, by digest"),
    "a tag": (own(images=[{"name": gateway.PLACEHOLDER, "newName": "x", "newTag": "1"}]), "images: only .* by digest"),
    "an image twice": (own(images=[*IMAGES, IMAGES[0] | {"newName": "x"}]), "images: write a list with one entry for each image"),
    "no settings": (own(configMapGenerator=[]), "configMapGenerator: add `gateway` with literals"),
    "another environment": (
        own(configMapGenerator=[{"name": "gateway", "literals": ["LOCKSTEP_GATEWAY_ENVIRONMENT=production"]}]),
        "LOCKSTEP_GATEWAY_ENVIRONMENT=staging",
    ),
    "another image": (setting(f"{CONTAINER}/image", EVIL), r"containers.gateway.image: is 'evil"),
    "another server": (setting(f"{CONTAINER}/args/3", "http://evil.example"), "containers.gateway.args: is "),
    "a command": (setting(f"{CONTAINER}/command", ["/evil"], "add"), "containers.gateway.command: is "),
    "a variable": (
        setting(f"{CONTAINER}/env", [{"name": "PYTHONPATH", "value": "/work"}], "add"), "containers.gateway.env: is "
    ),
    "other settings": (
        setting(f"{CONTAINER}/envFrom/0/configMapRef/name", "other"), "envFrom: is .*settings are of ConfigMap gateway"
    ),
    "every variable of a Secret": (
        setting(f"{CONTAINER}/envFrom/-", {"secretRef": {"name": "gateway", "optional": True}}, "add"),
        "envFrom: is .*settings are of ConfigMap gateway",
    ),
    "one more variable of the Secret": (
        setting(
            f"{CONTAINER}/env/-",
            {"name": "PYTHONPATH", "valueFrom": {"secretKeyRef": {"name": "gateway", "key": "PYTHONPATH"}}},
            "add",
        ),
        "containers.gateway.env: is ",
    ),
    "an interpreter that takes variables": (
        setting(f"{CONTAINER}/command", ["python3", "-m", "release.cli"]), "containers.gateway.command: is "
    ),
    "settings that an operator writes": (
        beside(
            {
                "apiVersion": "external-secrets.io/v1", "kind": "ExternalSecret", "metadata": {"name": "x"},
                "spec": {"target": {"name": "gateway", "manifest": {"apiVersion": "v1", "kind": "ConfigMap"}}},
            }
        ),
        "ExternalSecret x: spec.target.manifest: .*writes Secrets alone",
    ),
    "a container more": (
        setting("/spec/template/spec/containers/-", {"name": "x", "image": EVIL}, "add"), "containers.x: is "
    ),
    "a privileged one": (
        setting(f"{CONTAINER}/securityContext/privileged", True, "add"), "securityContext.privileged: is True"
    ),
    "a volume of the node": (
        setting("/spec/template/spec/volumes/0", {"name": "work", "hostPath": {"path": "/"}}), "volumes.work.hostPath"
    ),
    "no way to end": (setting("/spec/template/spec/terminationGracePeriodSeconds", 1), "terminationGracePeriodSeconds"),
    "a label that a tool reads": (
        setting("/metadata/annotations", {"sidecar.istio.io/inject": "true"}, "add"), "tools change pods by such keys"
    ),
    "a Service that leads elsewhere": (
        setting("/spec/ports/0/targetPort", 9, kind="Service"), "Service gateway: spec.ports: .*leads elsewhere"
    ),
    "a Service that takes another's requests": (
        setting("/spec/selector", {"app": "evil"}, kind="Service"), "does not select the gateway"
    ),
    "a Service before the gateway, past its keys": (
        setting("/spec/selector", {overlays.LABEL: "server"}, kind="Service"),
        "Service gateway: spec.selector: .*: does not select the gateway, and nothing else",
    ),
    "a Service of the server that leads to the gateway": (
        setting("/spec/selector", {overlays.LABEL: "gateway"}, kind="Service", name="server-pods"),
        "Service server-pods: spec.selector: .*: does not select the server, and nothing else",
    ),
    "a load balancer past the gateway": (
        setting("/spec/type", "LoadBalancer", "add", kind="Service", name="server"),
        "Service server: spec.type: is 'LoadBalancer', which would lead past the gateway",
    ),
    "a port of every node past the gateway": (
        setting("/spec/type", "NodePort", "add", kind="Service", name="server"), "Service server: spec.type: is 'NodePort'"
    ),
    "a name of external-dns": (
        setting(
            "/metadata/annotations", {"external-dns.alpha.kubernetes.io/hostname": "models.example.org"}, "add",
            kind="Service",
        ),
        "Service gateway: metadata.annotations: external-dns.alpha.kubernetes.io/hostname: tools send requests elsewhere",
    ),
    "a server that sends": (
        setting("/spec/egress", [{}], "add", kind="NetworkPolicy", name="server"), "a server sends nothing"
    ),
    "a second workload": (setting("/metadata/name", "other"), "there must be exactly one Deployment"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_could_change_an_answer_is_refused(case: str, tree: Path) -> None:
    programs.require("kustomize")
    change, said = REFUSED[case]
    change(tree)
    found = failures(tree)
    assert any(re.search(said, failure) for failure in found), found
    assert all("\n" not in failure for failure in found)


def test_a_service_before_the_gateway_is_seen_in_a_cluster(tree: Path) -> None:
    programs.require("kustomize")
    setting("/spec/selector", {overlays.LABEL: "server"}, kind="Service")(tree)
    assert deployed.failures(kubernetes_tools.build(tree / "staging"), "staging", rendered()) == [
        "Deployment server: Service gateway: leads past the gateway, where no API key is asked for"
    ]


@pytest.mark.parametrize(
    "literals",
    [
        ["LOCKSTEP_GATEWAY_ENVIRONMENT=staging", "PYTHONPATH=/work"],
        ["LOCKSTEP_GATEWAY_ENVIRONMENT=staging", "HTTP_PROXY=http://evil.example"],
        # A file that these name may say which program gives a login.
        ["LOCKSTEP_GATEWAY_ENVIRONMENT=staging", "AWS_CONFIG_FILE=/etc/lockstep/config"],
        ["LOCKSTEP_GATEWAY_ENVIRONMENT=staging", "AWS_SHARED_CREDENTIALS_FILE=/etc/lockstep/credentials"],
        ["LOCKSTEP_GATEWAY_ENVIRONMENT=staging", "GOOGLE_EXTERNAL_ACCOUNT_ALLOW_EXECUTABLES=1"],
    ],
)
def test_variables_that_are_no_settings_of_it_are_refused(literals: list[str], tree: Path) -> None:
    programs.require("kustomize")
    own(configMapGenerator=[{"name": "gateway", "literals": literals}])(tree)
    name = literals[1].partition("=")[0]
    assert any(f": data.{name}: is no setting of the gateway" in failure for failure in failures(tree))


def test_an_empty_setting_is_refused_because_the_gateway_would_not_start(tree: Path) -> None:
    programs.require("kustomize")
    own(configMapGenerator=[{"name": "gateway", "literals": [*SETTINGS[0]["literals"], "LOCKSTEP_GATEWAY_KEYS="]}])(
        tree
    )
    assert any(": data.LOCKSTEP_GATEWAY_KEYS: is empty" in failure for failure in failures(tree))


def test_settings_of_an_object_store_are_no_gap(tree: Path) -> None:
    programs.require("kustomize")
    store = ["AWS_REGION=eu-west-1", "AWS_ENDPOINT_URL=http://minio:9000", "AWS_CA_BUNDLE=/etc/lockstep/ca.pem"]
    google = ["GOOGLE_APPLICATION_CREDENTIALS=/etc/lockstep/google.json"]
    own(configMapGenerator=[{"name": "gateway", "literals": [*SETTINGS[0]["literals"], *store, *google]}])(tree)
    assert failures(tree) == []


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


def test_other_files_of_it_need_kustomize(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil.replace("components/gateway/deployment.yaml", "replicas: 2", "replicas: 3")(tree)
    monkeypatch.setattr(kustomize, "PROGRAM", "no-such-program")
    with pytest.raises(MachineRefused, match="not installed"):
        failures(tree)
