"""What only a promotion may say cannot be written in an environment: as a file, or as a knob."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from checks.storage import layout, plain_yaml
from release.overlay import deployed, overlays
from tests import kubernetes_tools, programs, spoil
from tests.overlay_sample import (
    GATEWAY,
    IMAGE,
    OTHER,
    SERVER,
    UNRENDERED,
    failures,
    put,
    rendered,
    rewrite,
)

pytestmark = pytest.mark.slow

EVIL = f"evil.example/x@{OTHER}"


# Attacks: files that no rendering gives.


def patched(value: dict[str, Any]) -> spoil.Spoil:
    """A patch of the Deployment, merged."""
    text = yaml.safe_dump({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "server"}} | value)
    return lambda tree: rewrite(tree, lambda found: found["patches"].append({"patch": text}))


def own(**fields: Any) -> spoil.Spoil:
    return lambda tree: rewrite(tree, lambda value: value.update(fields))


def operations(*ops: dict[str, Any], kind: str = "Deployment") -> spoil.Spoil:
    patch = {"target": {"kind": kind}, "patch": yaml.safe_dump(list(ops))}
    return lambda tree: rewrite(tree, lambda value: value["patches"].append(patch))


def merge(pod: dict[str, Any], **more: Any) -> spoil.Spoil:
    return patched({"metadata": {"name": "server"} | more, "spec": {"template": {"spec": pod}}})


def server(**fields: Any) -> spoil.Spoil:
    return merge({"containers": [{"name": "server"} | fields]})


def write(name: str, text: str, then: Callable[[Path], object] = lambda _: None, **fields: Any) -> spoil.Spoil:
    def do(tree: Path) -> None:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text)
        own(**fields)(tree)
        then(tree)

    return do


def workload(kind: str, name: str = "other") -> dict[str, Any]:
    """Another one beside the server, with its label."""
    template = {"metadata": {"labels": {LABEL: "server"}}, "spec": {"containers": [{"name": "x", "image": EVIL}]}}
    return {
        "apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name},
        "spec": {"selector": {"matchLabels": {LABEL: "server"}}, "template": template},
    }  # fmt: skip


def beside(value: dict[str, Any]) -> spoil.Spoil:
    """One more object, in a file of the environment."""
    return write("staging/more.yaml", yaml.safe_dump(value), resources=[OWN_RELEASE, "more.yaml"])


def an(api: str, kind: str, spec: dict[str, Any] | None = None, **metadata: Any) -> spoil.Spoil:
    """One more object of a kind."""
    return beside({"apiVersion": api, "kind": kind, "metadata": {"name": "x"} | metadata, "spec": spec or {}})


def both(*changes: spoil.Spoil) -> spoil.Spoil:
    def do(tree: Path) -> None:
        for change in changes:
            change(tree)

    return do


def appended(text: str) -> spoil.Spoil:
    """Text after what people wrote in the environment's own file, as it lies in git."""

    def do(tree: Path) -> None:
        path = tree / "staging" / "kustomization.yaml"
        path.write_text(f"{path.read_text().rstrip()}\n{text}")

    return do


def with_named_server(change: spoil.Spoil) -> spoil.Spoil:
    """The same where people still name a server, as for weights alone; ``edits`` must not need it to be absent."""

    def do(tree: Path) -> None:
        change(tree)
        rewrite(tree, lambda value: value.update(images=[NAMED]))

    return do


def component(name: str, **fields: Any) -> spoil.Spoil:
    """One more of people's components, which the environment names."""
    text = yaml.safe_dump({"apiVersion": "kustomize.config.k8s.io/v1alpha1", "kind": "Component"} | fields)
    return write(f"components/{name}/kustomization.yaml", text, components=[f"../components/{name}"])


def removed(api: str, kind: str) -> spoil.Spoil:
    """An object of the base taken away."""
    text = yaml.safe_dump({"apiVersion": api, "kind": kind, "metadata": {"name": "server"}, "$patch": "delete"})
    return lambda tree: rewrite(tree, lambda value: value["patches"].append({"patch": text}))


def kserve(*ops: dict[str, Any]) -> spoil.Spoil:
    patch = {"target": {"kind": "InferenceService"}, "patch": yaml.safe_dump(list(ops))}
    return own(resources=["release/kserve"], patches=[patch])


def sidecar(**fields: Any) -> spoil.Spoil:
    return merge({"containers": [{"name": "proxy", "image": EVIL} | fields]})


LABEL, PLACEHOLDER = overlays.LABEL, overlays.PLACEHOLDER
NAMED = {"name": PLACEHOLDER, "newName": "evil.example/x", "digest": OTHER}
SWAP = yaml.safe_dump(
    {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "server"},
        "spec": {"template": {"spec": {"containers": [{"name": "server", "image": EVIL, "command": ["/evil"]}]}}},
    }
)  # fmt: skip
AGAIN = yaml.safe_dump(
    {"namePrefix": "a-", "resources": ["../../base"], "images": [NAMED]}
)  # fmt: skip
ELSEWHERE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "more"},
    "spec": {"selector": {LABEL: "server"}, "ports": [{"port": 81, "targetPort": 9}]},
}
SLICE = {
    "apiVersion": "discovery.k8s.io/v1",
    "kind": "EndpointSlice",
    "metadata": {"name": "x", "labels": {"kubernetes.io/service-name": "server"}},
    "addressType": "IPv4",
    "endpoints": [{"addresses": ["10.0.0.1"]}],
    "ports": [{"port": 9}],
}
CODE = "/opt/conda/lib/python3.11/site-packages/sitecustomize.py"
CONTAINERS = "/spec/template/spec/containers"
STALLING_PODS: list[tuple[str, Any]] = [
    ("readinessGates", [{"conditionType": "x.example/never"}]),
    ("schedulingGates", [{"name": "x.example/never"}]),
    ("activeDeadlineSeconds", 1),
    ("restartPolicy", "Never"),
    ("nodeName", "node"),
    ("terminationGracePeriodSeconds", 0),
    ("dnsPolicy", "None"),
    ("nodeSelector", 5),
]
POWERS: list[tuple[str, Any]] = [
    ("serviceAccountName", "admin"),
    ("automountServiceAccountToken", True),
    ("securityContext", {"runAsUser": 0}),
    ("securityContext", {"seccompProfile": {"type": "Unconfined"}}),
    ("hostAliases", [{"ip": "10.0.0.1", "hostnames": ["x"]}]),
    ("hostUsers", True),
]
TARGET_AS_PATCH = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "server"}}
OWN = layout.ENVIRONMENTS / "staging" / "kustomization.yaml"
OWN_RELEASE = "release/deployment"

# What is done, and what ``reconcile`` says where a cluster has it (None: it does not build, or nothing is said). A move
# compares bytes, so what a cluster would not show has one case for each kind of file, not one for each text.
TAMPERS: list[tuple[spoil.Spoil, str | None]] = [
    (own(images=[{"name": "registry.example/team/router", "newTag": "latest"}]), "server.image: is "),
    (own(images=[{"name": "registry.example/team/router", "newName": "evil.example/x", "digest": OTHER}]), "server.image: is "),
    (own(Images=[{"name": "registry.example/team/router", "newTag": "latest"}]), "server.image: is "),
    (server(image=EVIL), "server.image: is "),
    (server(image="evil.example/x:latest"), "server.image: is "),
    (server(command=["sh"]), "server.command: the release sets none"),
    (server(args=["--model=/tmp/x"]), "server.args: the release sets none"),
    (server(env=[{"name": "MODEL_ID", "value": "/tmp/x"}]), "server.env: the release sets none"),
    (server(envFrom=[{"configMapRef": {"name": "x"}}]), "server.envFrom: the release sets none"),
    (server(volumeMounts=[{"name": "tmp", "mountPath": "/models"}]), "server.volumeMounts: /models: the release does not"),
    (server(volumeMounts=[{"name": "tmp", "mountPath": "/tmp/../models/x"}]), "server.volumeMounts: .*models.*: the release does not"),
    (server(volumeMounts=[{"name": "tmp", "mountPath": "//models/"}]), "server.volumeMounts: .*models.*: the release does not"),
    (merge({"containers": [{"name": "server", "$patch": "delete"}, {"name": "other", "image": EVIL}]}), "has no container server"),
    (merge({}, annotations={"lockstep/version": "v9.9.9"}), "annotations.lockstep/version: is 'v9.9.9'"),
    (merge({}, annotations=None), "annotations.lockstep/model: is None"),
    (operations({"op": "replace", "path": f"{CONTAINERS}/0/image", "value": EVIL}), "server.image: is "),
    (operations({"op": "replace", "path": f"{CONTAINERS}/0", "value": {"name": "x", "image": EVIL}}), "has no container server"),
    (operations({"op": "replace", "path": CONTAINERS, "value": [{"name": "server", "image": EVIL}]}), "server.image: is "),
    (operations({"op": "add", "path": f"{CONTAINERS}/0/command", "value": ["sh"]}), "server.command"),
    (operations({"op": "replace", "path": "/metadata/annotations/lockstep~1version", "value": "v9.9.9"}), "lockstep/version: is 'v9.9.9'"),
    (operations({"op": "remove", "path": "/metadata/annotations"}), "annotations.lockstep/model: is None"),
    (operations({"op": "remove", "path": "/spec/template/spec/containers/0/volumeMounts/1/mountPath"}), "volumeMounts./usr/src/out: is there 0 times"),
    (own(commonAnnotations={"lockstep/version": "v9.9.9"}), "lockstep/version: is 'v9.9.9'"),
    (own(resources=["https://evil.example/base"]), None),
    (own(resources=["../base"]), "annotations.lockstep/model: is None"),
    (own(resources=[]), "staging: there must be exactly one Deployment or InferenceService or LLMInferenceService, found none"),
    (write("staging/more/kustomization.yaml", "resources: [https://evil.example]\n", resources=[OWN_RELEASE, "more"]), None),
    (write("staging/p.yaml", yaml.safe_dump([{"op": "replace", "path": f"{CONTAINERS}/0/image", "value": EVIL}]), patches=[{"path": "p.yaml", "target": {"kind": "Deployment"}}]), "server.image: is "),
    (spoil.replace("base/objects.yaml", "- name: server", "- name: server\n          command: [sh]"), "server.command"),
    (spoil.replace("base/objects.yaml", "image: lockstep.invalid/server", "image: evil.example/x"), None),
    (spoil.link("staging/kustomization.yaml", "../production/kustomization.yaml"), None),
    (spoil.link("staging/extra", "../production"), None),
    (lambda tree: (tree / "staging" / "kustomization.yaml").unlink(), None),
    (lambda tree: put(tree, {OWN: b"\xff"}), None),
    (lambda tree: put(tree, {OWN: b"[]"}), None),
    # Files that are read whatever they are called.
    (write("staging/swap", SWAP, patches=[{"path": "swap"}]), "server.image: is "),
    (write("staging/.yaml", SWAP, patches=[{"path": ".yaml"}]), "server.image: is "),
    (write("staging/a.YAML", SWAP, patches=[{"path": "a.YAML"}]), "server.image: is "),
    (write("components/more", "patches: []", components=["../components/more"]), None),
    (write("staging/l.yaml", yaml.safe_dump({"kind": "List", "apiVersion": "v1", "items": [workload("Deployment", "x")]}), resources=[OWN_RELEASE, "l.yaml"]), "Deployment x: has the labels"),
    # A second server.
    (write("staging/again/kustomization.yaml", AGAIN, resources=[OWN_RELEASE, "again"]), "one Deployment or InferenceService"),
    (write("staging/again/kustomization.yaml", "namePrefix: a-\nresources: [../release/deployment]\n", resources=[OWN_RELEASE, "again"]), "one Deployment or InferenceService"),
    (beside(workload("Deployment")), "Deployment other: has the labels"),
    (beside(workload("StatefulSet")), "StatefulSet other: has the labels"),
    # The Service.
    (operations({"op": "replace", "path": "/spec/ports/0/targetPort", "value": 9}, kind="Service"), "Service server: leads elsewhere"),
    (operations({"op": "replace", "path": "/spec/ports", "value": [{"port": 80}]}, kind="Service"), "Service server: leads elsewhere"),
    (operations({"op": "replace", "path": "/spec/selector", "value": {"app": "x"}}, kind="Service"), "Service server: does not select"),
    (operations({"op": "add", "path": "/spec/externalName", "value": "evil.example"}, kind="Service"), "Service server: leads elsewhere"),
    (operations({"op": "replace", "path": "x/spec/ports/0", "value": {"port": 80}}, kind="Service"), "Service server: leads elsewhere"),
    (write("staging/s.yaml", yaml.safe_dump(ELSEWHERE), resources=[OWN_RELEASE, "s.yaml"]), "Service more: leads elsewhere"),
    (write("staging/s.yaml", yaml.safe_dump(SLICE), resources=[OWN_RELEASE, "s.yaml"]), "EndpointSlice x: is written by nobody"),
    (spoil.replace("base/objects.yaml", "targetPort: http", "targetPort: 9"), "Service server: leads elsewhere"),
    (spoil.replace("base/objects.yaml", "    app.kubernetes.io/name: server\n  ports", "    app: x\n  ports"), "Service server: does not select"),
    (sidecar(ports=[{"name": "http", "containerPort": 9}]), "container proxy: has the server's port"),
    # What runs in the server, or answers for it.
    (server(lifecycle={"postStart": {"exec": {"command": ["x"]}}}), "server.lifecycle: is "),
    (operations({"op": "add", "path": f"{CONTAINERS}/0/lifecycle/postStart", "value": {"exec": {"command": ["x"]}}}), "server.lifecycle: is "),
    (server(livenessProbe={"exec": {"command": ["x"]}}), "server.livenessProbe: differs"),
    (server(readinessProbe={"httpGet": {"port": 9}}), "server.readinessProbe: differs"),
    (server(workingDir="/tmp/x"), "server.workingDir: is '/tmp/x'"),
    (server(ports=[{"containerPort": 8080, "name": "x"}]), "server.ports: http is another"),
    (operations({"op": "replace", "path": f"{CONTAINERS}/0/name", "value": "x"}), "has no container server"),
    (merge({"volumes": [{"name": "evil", "configMap": {"name": "evil"}}], "containers": [{"name": "server", "volumeMounts": [{"name": "evil", "mountPath": CODE, "subPath": "x"}]}]}), "sitecustomize.py: the release does not"),
    (operations({"op": "add", "path": f"{CONTAINERS}/0/volumeMounts/-", "value": {"name": "tmp", "mountPath": CODE}}), "sitecustomize.py: the release does not"),
    (merge({"volumes": [{"name": "tmp", "configMap": {"name": "evil"}}]}), "pod.volumes.tmp: is more"),
    (operations({"op": "add", "path": "/spec/template/spec/volumes/0/configMap", "value": {"name": "evil"}}), "pod.volumes.*: is more"),
    # From beside it.
    (sidecar(volumeMounts=[{"name": "tmp", "mountPath": "/x"}]), "container proxy: mounts a volume"),
    (merge({"initContainers": [{"name": "first", "image": EVIL, "volumeMounts": [{"name": "tmp", "mountPath": "/x"}]}]}), "container first: mounts a volume"),
    (sidecar(securityContext={"privileged": True}), "container proxy: has more rights"),
    (sidecar(securityContext={"capabilities": {"add": ["NET_ADMIN"]}}), "container proxy: has more rights"),
    *((merge({key: True}), f"pod.{key}: is True") for key in ("shareProcessNamespace", "hostPID", "hostNetwork", "hostIPC")),
    (operations({"op": "add", "path": "/spec/template/spec/hostPID", "value": True}), "pod.hostPID: is True"),
    (merge({"volumes": [{"name": "x", "hostPath": {"path": "/"}}]}), "pod.volumes.x: is of the node"),
    # The base's image again, in place of the release's, and another for it.
    (server(image=PLACEHOLDER), "server.image: is 'lockstep.invalid/server'"),
    (with_named_server(server(image=PLACEHOLDER)), "server.image: is 'evil.example/x@"),
    (with_named_server(server(image=f"{PLACEHOLDER}:v1")), "server.image: is 'evil.example/x@"),
    (with_named_server(server(image=f"{PLACEHOLDER}@{IMAGE}")), "server.image: is 'evil.example/x@"),
    (with_named_server(server(image="lockstep-invalid/server")), "server.image: is 'evil.example/x@"),
    (with_named_server(operations({"op": "replace", "path": f"{CONTAINERS}/0/image", "value": PLACEHOLDER})), "server.image: is 'evil.example/x@"),
    (with_named_server(write("staging/p.yaml", SWAP.replace(EVIL, PLACEHOLDER), patches=[{"path": "p.yaml"}])), "server.image: is 'evil.example/x@"),
    (with_named_server(component("more", patches=[{"patch": SWAP.replace(EVIL, PLACEHOLDER)}])), "server.image: is 'evil.example/x@"),
    (with_named_server(component("more", replacements=[{"source": {"kind": "Deployment", "fieldPath": "metadata.name"}, "targets": [{"select": {"kind": "Deployment"}, "fieldPaths": [CONTAINERS[1:].replace("/", ".") + ".0.image"]}]}])), "server.image: is 'server'"),
    # Keys that kustomize takes from elsewhere in a file.
    (appended(f"- target: {{kind: Deployment}}\n  patch: |-\n    - {{op: replace, path: /spec/replicas, value: 2, <<: {{path: {CONTAINERS}/0/image, value: {EVIL}}}}}\n"), "server.image: is 'evil.example/x@"),
    (appended(f"- target: {{kind: Deployment}}\n  patch: '[]'\n  <<: {{patch: '- {{op: replace, path: {CONTAINERS}/0/image, value: {EVIL}}}'}}\n"), "server.image: is 'evil.example/x@"),
    (appended(f"images:\n- {{name: {PLACEHOLDER}, newName: {SERVER}, digest: '{OTHER}', <<: {{name: registry.example/team/router}}}}\n"), "server.image: is '"),
    (appended(f"<<: {{images: [{{name: registry.example/team/router, newName: evil.example/x, digest: '{OTHER}'}}]}}\n"), "server.image: is 'evil.example/x@"),
    # What leaves a cluster as it is.
    (patched({"spec": {"paused": True}}), "is paused: its pods follow no move"),
    (operations({"op": "add", "path": "/spec/paused", "value": True}), "is paused: its pods follow no move"),
    (spoil.replace("base/objects.yaml", "replicas: 1", "replicas: 1\n  paused: true"), "is paused: its pods follow no move"),
    # The component that copies.
    (both(spoil.replace("components/kserve/copied/kustomization.yaml", "fieldPath: metadata.annotations", "fieldPath: metadata.name"), own(resources=["release/kserve"])), None),
    # A file whose kind is not that of its target.
    (own(patches=[{"target": {"kind": "Deployment", "name": "server"}, "patch": SWAP.replace("kind: Deployment", "kind: Service").replace("apps/v1", "v1")}]), "server.image: is 'evil"),
    (write("staging/p.yaml", SWAP.replace("kind: Deployment", "kind: ConfigMap"), patches=[{"path": "p.yaml", "target": {"kind": "Deployment"}}]), "server.image: is 'evil"),
    (own(patches=[{"target": {"kind": "Service"}, "patch": yaml.safe_dump(TARGET_AS_PATCH | {"spec": {"selector": {"app": "x"}}})}]), "Service server: does not select"),
    (own(patches=[{"target": {"kind": "Service"}, "patch": yaml.safe_dump(TARGET_AS_PATCH | {"spec": {"ports": [{"port": 80, "targetPort": "http"}, {"port": 81}]}})}]), "Service server: leads elsewhere"),
    # Files that nothing names, and that tools read.
    (write("staging/Kustomization", "resources: []\n"), None),
    (write("base/kustomization.yml", "resources: []\n"), None),
    (write("staging/.argocd-source.yaml", yaml.safe_dump({"kustomize": {"images": [f"registry.example/team/router={EVIL}"]}})), None),
    (write("staging/.sourceignore", "kustomization.yaml\n"), None),
    (write(".sourceignore", "base\n"), None),
    (write("staging/Chart.yaml", "name: x\n"), None),
    # Objects that act on the server from beside it, or in its place.
    (removed("apps/v1", "Deployment"), "found none"),
]  # fmt: skip


def test_a_rewritten_file_that_says_the_same_is_accepted(tree: Path) -> None:
    own()(tree)
    assert failures(tree) == []


@pytest.mark.parametrize(("tamper", "of_objects"), TAMPERS)
def test_what_only_a_promotion_may_say_is_refused_and_seen_in_a_cluster(
    tree: Path, tamper: spoil.Spoil, of_objects: str | None
) -> None:
    tamper(tree)
    found = failures(tree)
    assert found
    assert all(UNRENDERED.search(failure) and "\n" not in failure for failure in found), found
    if of_objects is not None:
        programs.require("kustomize")
        said = deployed.failures(kubernetes_tools.build(tree / "staging"), "staging", rendered())
        assert any(re.search(of_objects, failure) for failure in said), said


REACHES: list[spoil.Spoil] = [
    own(resources=[OWN_RELEASE, "https://evil.example/x.yaml"]),
    own(configMapGenerator=[{"name": "x", "files": ["../../../etc/passwd"]}]),
    both(*(write(f"staging/a{n}/kustomization.yaml", f"resources: [../a{n + 1}]\n") for n in range(300)), own(resources=[OWN_RELEASE, "a0"])),
    write("staging/large", "x" * (1 << 20), configMapGenerator=[{"name": "x", "files": ["large"]}]),
    spoil.link("staging/secret.yaml", "/etc/passwd"),
]  # fmt: skip


@pytest.mark.parametrize("change", REACHES)
def test_what_kustomize_would_fetch_or_follow_is_refused(tree: Path, change: spoil.Spoil) -> None:
    change(tree)
    found = failures(tree)
    assert found
    assert all(UNRENDERED.search(failure) for failure in found), found


# Attacks: knobs that cannot be written.

GATEWAYED = {"image": GATEWAY}
KEYS = {"LOCKSTEP_GATEWAY_KEYS": "/etc/lockstep/keys"}
ROUTE = {"hosts": ["models.example.org"]}
INVALID: dict[str, tuple[dict[str, Any], str]] = {
    "a command": ({"command": ["sh"]}, "command: Extra inputs are not permitted"),
    "an image": ({"image": EVIL}, "image: Extra inputs"),
    "annotations": ({"annotations": {"sidecar.istio.io/inject": "true"}}, "annotations: Extra inputs"),
    "patches": ({"patches": [{"path": "x.yaml"}]}, "patches: Extra inputs"),
    "resources of kustomize": ({"resources": ["https://evil.example"]}, "resources: Input should be a valid dictionary"),
    "another variant": ({"variant": "../production"}, "variant: Input should be 'deployment', 'kserve', 'kserve-llm', 'rollout' or 'adapter'"),
    "no server": ({"replicas": 0}, "replicas: Input should be greater than or equal to 1"),
    "too many": ({"replicas": 1001}, "replicas: Input should be less than or equal to 1000"),
    "truth as a number": ({"replicas": True}, "replicas: Input should be a valid integer"),
    "an update that never ends": ({"update": "never"}, "update: Input should be 'surge', 'replace' or 'pause'"),
    "downtime that nobody allowed": ({"downtime": "denied"}, "downtime: Input should be 'allowed'"),
    "fewer GPUs than none": ({"capacity": -1}, "capacity: Input should be greater than or equal to 0"),
    "a server without a digest": ({"server": "evil.example/x:latest"}, "server: String should match"),
    "a server with two digests": ({"server": f"{EVIL}@{OTHER}"}, "server: String should match"),
    "a server that kustomize takes for the gateway's": (
        {"server": f"lockstep-invalid/gateway@{OTHER}", "gateway": {"image": EVIL}}, "server: lockstep-invalid/gateway@.*no image can have this name"
    ),
    "a server that the gateway's image replaces": (
        {"server": f"lockstep.invalid/gateway@{OTHER}", "gateway": {"image": EVIL}}, "server: lockstep.invalid/gateway@.*no image can have this name"
    ),
    "a directive of a patch": ({"pod": {"nodeSelector": {"$patch": "replace"}}}, "pod.nodeSelector.*: String should match"),
    "another environment's architecture": ({"pod": {"nodeSelector": {"kubernetes.io/arch": "amd64"}}}, "kubernetes.io/arch: a release sets it"),
    "GPUs past their knob": ({"resources": {"limits": {"nvidia.com/gpu": "1"}}}, "nvidia.com/gpu: write their number as `gpus`"),
    "a resource that is a path": ({"resources": {"limits": {"../../image": "1"}}}, "limits.../../image.*: String should match"),
    "a quantity that is text": ({"resources": {"limits": {"memory": EVIL}}}, "limits.memory: String should match"),
    "another object in resources": ({"resources": {"claims": []}}, "resources.claims: Extra inputs"),
    **{f"{key} of the pod": ({"pod": {key: value}}, f"pod.{key}: Extra inputs") for key, value in (
        *STALLING_PODS[:7], *POWERS, ("containers", []), ("volumes", []), ("initContainers", []), ("hostNetwork", True), ("labels", {}),
    )},
    "a label that a tool reads": ({"labels": {"kustomize.toolkit.fluxcd.io/reconcile": "disabled"}}, "labels.*: String should match"),
    "a label of the release": ({"labels": {overlays.VERSION: "v9.9.9"}}, "labels.*: String should match"),
    "a way out": ({"clients": [{"egress": {}}]}, "clients.0.egress.*: Input should be 'podSelector', 'namespaceSelector' or 'ipBlock'"),
    "a namespace of the cluster": ({"namespace": "kube-system"}, "namespace: 'kube-system': name one that is this environment's own"),
    "no namespace": ({"namespace": None}, "namespace: is missing: name one that is this environment's own"),
    "two namespaces": ({"namespace": ["a", "b"]}, "namespace: Input should be a valid string"),
    "a gateway without a digest": ({"gateway": {"image": "evil.example/x:1"}}, "gateway.image: String should match"),
    "a command of the gateway": ({"gateway": {**GATEWAYED, "command": ["sh"]}}, "gateway.command: Extra inputs"),
    **{f"the variable {name}": ({"gateway": {**GATEWAYED, "settings": {name: "/x"}}}, f"settings: {name}: is no setting of the gateway") for name in (
        "PYTHONPATH", "HTTP_PROXY", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "GOOGLE_EXTERNAL_ACCOUNT_ALLOW_EXECUTABLES",
    )},
    **{f"a setting that is {value!r}": ({"gateway": {**GATEWAYED, "settings": {"LOCKSTEP_GATEWAY_KEYS": value}}}, "settings.LOCKSTEP_GATEWAY_KEYS: String should match") for value in (
        "", " ", "''", '""', "\n", "a\nPYTHONPATH=/x",
    )},
    "requests counted as another environment's": (
        {"gateway": {**GATEWAYED, "settings": {"LOCKSTEP_GATEWAY_ENVIRONMENT": "production"}}},
        "LOCKSTEP_GATEWAY_ENVIRONMENT is the environment's name, or that of `canary_of`",
    ),
    "a route without a gateway": ({"route": ROUTE}, "need a gateway: add the section `gateway`"),
    "a route without keys": ({"gateway": GATEWAYED, "route": ROUTE}, "everyone who knows the host could ask: set LOCKSTEP_GATEWAY_KEYS"),
    **{f"a route with {key}": ({"gateway": {**GATEWAYED, "settings": KEYS}, "route": ROUTE | {key: value}}, f"route.{key}.*: ") for key, value in {
        "hosts": [], "filters": [], "rules": [], "useDefaultGateways": "All", "canary": {"namespace": "model-production", "percent": 51},
        "gateway": {"listener": ""},
    }.items()},
    "monitoring without a gateway": ({"monitoring": True}, "need a gateway: add the section `gateway`"),
    "a Rollout that passes over the verdict": ({"variant": "rollout", "update": "pause"}, "update: a Rollout replaces its pods step by step"),
    "an InferenceService without a number": ({"variant": "kserve", "replicas": None}, "replicas: with KServe there is a number"),
    "an LLMInferenceService without a number": ({"variant": "kserve-llm", "replicas": None}, "replicas: with KServe there is a number"),
    "an LLMInferenceService that pauses": ({"variant": "kserve-llm", "update": "pause"}, "update: pause: an LLMInferenceService cannot end all servers first: write `replace`"),
}  # fmt: skip


@pytest.mark.parametrize("case", INVALID)
def test_a_knob_that_would_change_the_release_cannot_be_written(case: str, tree: Path) -> None:
    knobs, said = INVALID[case]
    path = tree / "staging" / "environment.yaml"
    path.write_text(plain_yaml.dump(yaml.safe_load(path.read_text()) | knobs))
    (failure,) = failures(tree)
    assert re.search(f"staging/environment.yaml: .*{said}.*: see docs/reference/environment-files.md$", failure), (
        failure
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: &x [1]\nb: *x\n", "is not one plain YAML document"),
        ("namespace: x\n---\nnamespace: y\n", "is not one plain YAML document"),
        ("<<: {namespace: x}\n", "is not one plain YAML document: <<: a merge key"),
        ("namespace: x\nreplicas: 1" + ":0" * 200 + ".0\n", "int too large to convert to float"),
        ("[]\n", "Input should be a valid dictionary"),
        ("\udcff", "is not one plain YAML document"),
    ],
)
def test_a_file_of_knobs_that_tools_read_differently_is_refused(text: str, said: str, tree: Path) -> None:
    (tree / "staging" / "environment.yaml").write_bytes(text.encode(errors="surrogateescape"))
    (failure,) = failures(tree)
    assert said in failure
    assert "\n" not in failure


def test_without_knobs_the_page_is_named_and_the_command(tree: Path) -> None:
    (tree / "staging" / "environment.yaml").unlink()
    (failure,) = failures(tree)
    assert failure.endswith(
        "staging/environment.yaml: is missing: write it (docs/reference/environment-files.md), then `lockstep render staging`"
    )
