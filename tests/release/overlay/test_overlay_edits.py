"""What people may write in an environment: only its knobs. What only a promotion may say cannot be written as one."""

import copy
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from checks.storage import digest, layout, plain_yaml
from release import runtimes
from release.overlay import deployed, edits, overlays, shipped
from release.verbs.render import render
from tests import kubernetes_tools, programs, spoil
from tests.conftest import REPOSITORY
from tests.overlay_sample import (
    GATEWAY,
    IMAGE,
    KINDS,
    OTHER,
    SERVER,
    UNRENDERED,
    Files,
    edit,
    image,
    load,
    lying,
    pin,
    pointer,
    promoted,
    put,
    rendered,
    rewrite,
    serve,
)

pytestmark = pytest.mark.slow

EVIL = f"evil.example/x@{OTHER}"
KIND = {"deployment": "Deployment", "kserve": "InferenceService"}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of release/environments with a release promoted to staging."""
    found = shutil.copytree(REPOSITORY / layout.ENVIRONMENTS, tmp_path / layout.ENVIRONMENTS)
    put(found, rendered())
    return found


def failures(tree: Path, wanted: Files | None = None) -> list[str]:
    """What is said before a move of staging to a release, which is a baked server unless another is given."""
    return edits.failures("staging", lying(tree), wanted or rendered(), lambda: ())


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


def merge_spec(**spec: Any) -> spoil.Spoil:
    return patched({"spec": spec})


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
TRANSFORMER = (
    "apiVersion: builtin\nkind: ImageTagTransformer\nmetadata: {name: x}\nimageTag: {name: x, newTag: latest}\n"
)
# Annotations by which Argo CD and Flux leave an object as it is.
HOLDING = (
    ("argocd.argoproj.io/hook", "Skip"),
    ("kustomize.toolkit.fluxcd.io/reconcile", "disabled"),
    ("kustomize.toolkit.fluxcd.io/ssa", "IfNotPresent"),
)
STALLS: list[tuple[str, Any]] = [
    ("minReadySeconds", 315360000),
    ("progressDeadlineSeconds", 315360000),
    ("strategy", {"rollingUpdate": {"maxSurge": 0}}),
    ("replicas", 0),
    ("revisionHistoryLimit", -1),
]
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
CHANGING = (
    ("helm.sh/hook", "test"),
    ("keel.sh/policy", "major"),
    ("instrumentation.opentelemetry.io/inject-python", "true"),
    ("sidecar.istio.io/inject", "true"),
    ("serving.kserve.io/stop", "true"),
    ("argocd.argoproj.io/sync-options", "Prune=false"),
    ("client.lifecycle.config.k8s.io/mutation", "ignore"),
)
ACTING = (
    ("admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration"),
    ("admissionregistration.k8s.io/v1", "MutatingAdmissionPolicy"),
    ("kyverno.io/v1", "ClusterPolicy"),
    ("kyverno.io/v1", "Policy"),
    ("rbac.authorization.k8s.io/v1", "RoleBinding"),
    ("v1", "ServiceAccount"),
    ("v1", "Namespace"),
    ("v1", "Pod"),
    ("v1", "Endpoints"),
    ("v1", "LimitRange"),
    ("batch/v1", "CronJob"),
    ("networking.k8s.io/v1", "Ingress"),
    ("gateway.networking.k8s.io/v1", "Gateway"),
    ("networking.istio.io/v1", "VirtualService"),
    ("keda.sh/v1alpha1", "ScaledJob"),
    ("argoproj.io/v1alpha1", "Application"),
    ("other.example/v1", "Service"),
    ("other.example/v1", "Unknown"),
)
TARGET = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "server"}
TARGET_AS_PATCH = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "server"}}
OF_KSERVE: list[tuple[str, Any]] = [
    ("/spec/predictor/logger", {"url": "https://evil.example"}),
    ("/spec/predictor/canaryTrafficPercent", 0),
    ("/spec/predictor/minReplicas", 0),
    ("/spec/predictor/readinessGates", [{"conditionType": "x.example/never"}]),
    ("/spec/predictor/model", {"modelFormat": {"name": "x"}}),
    ("/spec/predictor/containers/0/image", EVIL),
    ("/spec/transformer", {"containers": []}),
    ("/metadata/annotations/serving.kserve.io~1stop", "true"),
    ("/metadata/annotations/serving.kserve.io~1deploymentMode", "Serverless"),
]
# Selectors of a NetworkPolicy by which Kubernetes selects the server's pods, or may.
OPENING: list[dict[str, Any]] = [
    {},
    {"podSelector": None},
    {"podSelector": {}},
    {"podSelector": {"matchLabels": None}},
    {"podSelector": {"matchLabels": {LABEL: "server"}}},
    {"podSelector": {"matchLabels": {"team": "routing"}}},
    {"podSelector": {"matchLabels": {"pod-template-hash": "7d9c5b8f6d"}}},
    {"podSelector": {"matchExpressions": [{"key": LABEL, "operator": "In", "values": ["server"]}]}},
    {"podSelector": {"matchExpressions": [{"key": LABEL, "operator": "NotIn", "values": ["gateway"]}]}},
    {"podSelector": {"matchExpressions": [{"key": "x", "operator": "DoesNotExist"}]}},
    {"podSelector": {"matchLabels": {LABEL: "server"}, "matchExpressions": [{"key": LABEL, "operator": "Exists"}]}},
]
OWN = layout.ENVIRONMENTS / "staging" / "kustomization.yaml"
OWN_RELEASE = "release/deployment"

# What is done, and what ``reconcile`` says where a cluster has it (None: it does not build, or nothing is said).
TAMPERS: list[tuple[spoil.Spoil, str | None]] = [
    (own(images=[{"name": "registry.example/team/router", "newTag": "latest"}]), "server.image: is "),
    (own(images=[{"name": "registry.example/team/router", "newName": "evil.example/x", "digest": OTHER}]), "server.image: is "),
    (own(Images=[{"name": "registry.example/team/router", "newTag": "latest"}]), "server.image: is "),
    (own(images=[{"name": PLACEHOLDER, "digest": OTHER, "NewTag": "latest"}]), None),
    (own(images=[{"name": PLACEHOLDER, "newTag": "v1"}]), None),
    (own(images=[{"name": PLACEHOLDER, "newName": SERVER}]), None),
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
    (merge({"volumes": [{"name": "weights", "persistentVolumeClaim": {"claimName": "x"}}]}), None),
    (merge({"containers": [{"name": "proxy", "image": "proxy:latest"}]}), None),
    (merge({}, annotations={"lockstep/version": "v9.9.9"}), "annotations.lockstep/version: is 'v9.9.9'"),
    (merge({}, annotations=None), "annotations.lockstep/model: is None"),
    (operations({"op": "replace", "path": f"{CONTAINERS}/0/image", "value": EVIL}), "server.image: is "),
    (operations({"op": "replace", "path": f"{CONTAINERS}/0", "value": {"name": "x", "image": EVIL}}), "has no container server"),
    (operations({"op": "replace", "path": f"{CONTAINERS}/-1", "value": {"name": "x", "image": EVIL}}), None),
    (operations({"op": "replace", "path": CONTAINERS, "value": [{"name": "server", "image": EVIL}]}), "server.image: is "),
    (operations({"op": "add", "path": f"{CONTAINERS}/0", "value": {"name": "x", "image": EVIL}}), None),
    (operations({"op": "add", "path": f"{CONTAINERS}/-", "value": {"name": "server", "image": EVIL}}), None),
    (operations({"op": "add", "path": f"{CONTAINERS}/0/command", "value": ["sh"]}), "server.command"),
    (operations({"op": "copy", "from": "/metadata/labels", "path": "/spec/x"}), None),
    (operations({"op": "replace", "path": "/metadata/annotations/lockstep~1version", "value": "v9.9.9"}), "lockstep/version: is 'v9.9.9'"),
    (operations({"op": "remove", "path": "/metadata/annotations"}), "annotations.lockstep/model: is None"),
    (operations({"op": "remove", "path": "/spec/template/spec/containers/0/volumeMounts/1/mountPath"}), "volumeMounts./usr/src/out: is there 0 times"),
    (own(commonAnnotations={"lockstep/version": "v9.9.9"}), "lockstep/version: is 'v9.9.9'"),
    (own(resources=["https://evil.example/base"]), None),
    (own(resources=["github.com/evil/x?ref=main"]), None),
    (own(resources=["../production/release/deployment"]), None),
    (own(resources=["../production"]), None),
    (own(resources=["release/deployment", "release/kserve"]), None),
    (own(resources=["../base"]), "annotations.lockstep/model: is None"),
    (own(resources=[]), "staging: there must be exactly one Deployment or InferenceService, found none"),
    (own(resources=["release/deployment", "../../../elsewhere"]), None),
    (own(components=["../../../elsewhere"]), None),
    (own(patches=[{"path": "patch.txt"}]), None),
    (own(patches=[{"Path": "../x.yaml"}]), None),
    (own(patches=[{"patch": "a: &x [1]\nb: *x"}]), None),
    (own(patches=[{"patch": "a: 1\n---\nb: 2"}]), None),
    (own(replacements=[]), None),
    (own(helmCharts=[{"name": "x"}]), None),
    (own(generators=["x.yaml"]), None),
    (write("staging/t.yaml", TRANSFORMER, transformers=["t.yaml"]), None),
    (own(bases=["../base"]), None),
    (own(patchesStrategicMerge=["x.yaml"]), None),
    (own(openapi={"path": "x"}), None),
    (write("staging/more/kustomization.yaml", "resources: [https://evil.example]\n", resources=[OWN_RELEASE, "more"]), None),
    (write("staging/p.yaml", yaml.safe_dump([{"op": "replace", "path": f"{CONTAINERS}/0/image", "value": EVIL}]), patches=[{"path": "p.yaml", "target": {"kind": "Deployment"}}]), "server.image: is "),
    (spoil.replace("base/deployment.yaml", "- name: server", "- name: server\n          command: [sh]"), "server.command"),
    (spoil.replace("base/deployment.yaml", "image: lockstep.invalid/server", "image: evil.example/x"), None),
    (spoil.link("staging/kustomization.yaml", "../production/kustomization.yaml"), None),
    (spoil.link("staging/extra", "../production"), None),
    (lambda tree: (tree / "staging" / "kustomization.yaml").unlink(), None),
    (lambda tree: put(tree, {OWN: b"\xff"}), None),
    (lambda tree: put(tree, {OWN: b"[]"}), None),
    # Files that are read whatever they are called.
    (write("staging/swap", SWAP, patches=[{"path": "swap"}]), "server.image: is "),
    (write("staging/.yaml", SWAP, patches=[{"path": ".yaml"}]), "server.image: is "),
    (write("staging/a.YAML", SWAP, patches=[{"path": "a.YAML"}]), "server.image: is "),
    (write("staging/Kustomization", SWAP, patches=[{"path": "Kustomization"}]), None),
    (write("staging/more", SWAP.replace("name: server", "name: other"), resources=[OWN_RELEASE, "more"]), None),
    (write("components/more", "patches: []", components=["../components/more"]), None),
    (own(resources=[OWN_RELEASE, "gone"]), None),
    (own(resources=[OWN_RELEASE, "gone.yaml"]), None),
    (write("staging/l.yaml", yaml.safe_dump({"kind": "List", "apiVersion": "v1", "items": [workload("Deployment", "x")]}), resources=[OWN_RELEASE, "l.yaml"]), "Deployment x: has the labels"),
    # A second server.
    (write("staging/again/kustomization.yaml", AGAIN, resources=[OWN_RELEASE, "again"]), "one Deployment or InferenceService"),
    (write("staging/again/kustomization.yaml", "namePrefix: a-\nresources: [../release/deployment]\n", resources=[OWN_RELEASE, "again"]), "one Deployment or InferenceService"),
    (beside(workload("Deployment")), "Deployment other: has the labels"),
    (beside(workload("StatefulSet")), "StatefulSet other: has the labels"),
    (own(labels=[{"pairs": {LABEL: "x"}, "includeTemplates": True}]), None),
    (own(labels=[{"pairs": {"image": "x"}, "fields": [{"path": "spec/template/spec/containers", "kind": "Deployment", "create": True}]}]), None),
    # The Service.
    (operations({"op": "replace", "path": "/spec/ports/0/targetPort", "value": 9}, kind="Service"), "Service server: leads elsewhere"),
    (operations({"op": "replace", "path": "/spec/ports", "value": [{"port": 80}]}, kind="Service"), "Service server: leads elsewhere"),
    (operations({"op": "replace", "path": "/spec/selector", "value": {"app": "x"}}, kind="Service"), "Service server: does not select"),
    (operations({"op": "add", "path": "/spec/externalName", "value": "evil.example"}, kind="Service"), "Service server: leads elsewhere"),
    (operations({"op": "replace", "path": "x/spec/ports/0", "value": {"port": 80}}, kind="Service"), "Service server: leads elsewhere"),
    (write("staging/s.yaml", yaml.safe_dump(ELSEWHERE), resources=[OWN_RELEASE, "s.yaml"]), "Service more: leads elsewhere"),
    (write("staging/s.yaml", yaml.safe_dump(SLICE), resources=[OWN_RELEASE, "s.yaml"]), "EndpointSlice x: is written by nobody"),
    (spoil.replace("base/service.yaml", "targetPort: http", "targetPort: 9"), "Service server: leads elsewhere"),
    (spoil.replace("base/service.yaml", "    app.kubernetes.io/name: server\n  ports", "    app: x\n  ports"), "Service server: does not select"),
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
    (merge({"ephemeralContainers": [{"name": "x", "image": EVIL}]}), None),
    # The base's image again, in place of the release's, and another for it.
    (server(image=PLACEHOLDER), "server.image: is 'lockstep.invalid/server'"),
    (with_named_server(server(image=PLACEHOLDER)), "server.image: is 'evil.example/x@"),
    (with_named_server(server(image=f"{PLACEHOLDER}:v1")), "server.image: is 'evil.example/x@"),
    (with_named_server(server(image=f"{PLACEHOLDER}@{IMAGE}")), "server.image: is 'evil.example/x@"),
    (with_named_server(server(image="lockstep-invalid/server")), "server.image: is 'evil.example/x@"),
    (with_named_server(operations({"op": "replace", "path": f"{CONTAINERS}/0/image", "value": PLACEHOLDER})), "server.image: is 'evil.example/x@"),
    (with_named_server(operations({"op": "replace", "path": f"{CONTAINERS}/0/im~0age", "value": PLACEHOLDER}, {"op": "test", "path": f"{CONTAINERS}/0/image", "value": "x"})), None),
    (with_named_server(operations({"op": "add", "path": f"{CONTAINERS}/-", "value": {"name": "kserve-container", "image": PLACEHOLDER}})), None),
    (with_named_server(write("staging/p.yaml", SWAP.replace(EVIL, PLACEHOLDER), patches=[{"path": "p.yaml"}])), "server.image: is 'evil.example/x@"),
    (with_named_server(component("more", patches=[{"patch": SWAP.replace(EVIL, PLACEHOLDER)}])), "server.image: is 'evil.example/x@"),
    (with_named_server(component("more", replacements=[{"source": {"kind": "Deployment", "fieldPath": "metadata.name"}, "targets": [{"select": {"kind": "Deployment"}, "fieldPaths": [CONTAINERS[1:].replace("/", ".") + ".0.image"]}]}])), "server.image: is 'server'"),
    (with_named_server(sidecar(image=f"{PLACEHOLDER}@{IMAGE}")), None),
    (with_named_server(spoil.replace("base/deployment.yaml", "- name: server", f"- name: first\n          image: {PLACEHOLDER}\n        - name: server")), None),
    (with_named_server(spoil.replace("base/deployment.yaml", "containers:", f"initContainers: [{{name: server, image: {PLACEHOLDER}}}]\n      containers:")), None),
    (spoil.replace("base/deployment.yaml", "apiVersion: apps/v1", "apiVersion: other.example/v1"), None),
    (spoil.replace("base/deployment.yaml", "apiVersion: apps/v1\nkind: Deployment", "apiVersion: ''\nkind: [Deployment]"), None),
    (component("more", images=[NAMED]), None),
    (spoil.replace("base/kustomization.yaml", "resources:", f"images: [{{name: {PLACEHOLDER}, newName: evil.example/x, digest: '{OTHER}'}}]\nresources:"), None),
    (own(images=[{"name": PLACEHOLDER, "digest": OTHER}]), None),
    (own(images=[NAMED | {"newName": ""}]), None),
    (own(images=[NAMED | {"newName": ["x"]}]), None),
    (own(images=[NAMED | {"newName": None}]), None),
    (write("staging/c.yaml", "images: [{path: metadata/name, kind: Deployment}]\n", configurations=["c.yaml"]), None),
    (own(vars=[{"name": "X"}]), None),
    # Keys that kustomize takes from elsewhere in a file.
    (appended(f"- target: {{kind: Deployment}}\n  patch: |-\n    - {{op: replace, path: /spec/replicas, value: 2, <<: {{path: {CONTAINERS}/0/image, value: {EVIL}}}}}\n"), "server.image: is 'evil.example/x@"),
    (appended(f"- target: {{kind: Deployment}}\n  patch: '[]'\n  <<: {{patch: '- {{op: replace, path: {CONTAINERS}/0/image, value: {EVIL}}}'}}\n"), "server.image: is 'evil.example/x@"),
    (appended(f"images:\n- {{name: {PLACEHOLDER}, newName: {SERVER}, digest: '{OTHER}', <<: {{name: registry.example/team/router}}}}\n"), "server.image: is '"),
    (appended(f"<<: {{images: [{{name: registry.example/team/router, newName: evil.example/x, digest: '{OTHER}'}}]}}\n"), "server.image: is 'evil.example/x@"),
    (appended("- target: {kind: Deployment}\n  patch: '- {op: replace, path: /spec/replicas, value: 1" + ":0" * 200 + ".0}'\n"), None),
    # What leaves a cluster as it is.
    (patched({"spec": {"paused": True}}), "is paused: its pods follow no move"),
    (operations({"op": "add", "path": "/spec/paused", "value": True}), "is paused: its pods follow no move"),
    (spoil.replace("base/deployment.yaml", "replicas: 1", "replicas: 1\n  paused: true"), "is paused: its pods follow no move"),
    *((merge({}, annotations={key: value}), None) for key, value in HOLDING),
    (own(commonAnnotations=dict([HOLDING[0]])), None),
    (operations({"op": "add", "path": "/metadata/annotations/" + HOLDING[0][0].replace("/", "~1"), "value": HOLDING[0][1]}), None),
    # The component that copies.
    (both(spoil.replace("components/kserve/copied/kustomization.yaml", "fieldPath: metadata.annotations", "fieldPath: metadata.name"), own(resources=["release/kserve"])), None),
    (both(spoil.replace("components/kserve/kustomization.yaml", "value: kserve-container", "value: other"), own(resources=["release/kserve"])), None),
    (both(spoil.replace("components/kserve/kustomization.yaml", "$patch: delete", "$patch: replace"), own(resources=["release/kserve"])), None),
    # Another environment's place in the cluster.
    (own(namespace="model-production"), None),
    (own(namespace="kube-system"), None),
    (own(namespace=None), None),
    (own(namespace=["x"]), None),
    # What keeps a rollout from ever ending.
    *((merge_spec(**{key: value}), None) for key, value in STALLS),
    *((merge({key: value}), None) for key, value in STALLING_PODS),
    (server(readinessProbe={"initialDelaySeconds": 315360000}), None),
    (server(readinessProbe={"periodSeconds": 3600, "successThreshold": 10}), None),
    (server(imagePullPolicy="Never"), None),
    # Who the server is.
    *((server(securityContext=value), None) for value in ({"runAsUser": 0}, {"readOnlyRootFilesystem": False}, {"allowPrivilegeEscalation": True})),
    *((merge({key: value}), None) for key, value in POWERS),
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
    # Tools that read labels and annotations.
    *((merge({}, annotations={key: value}), None) for key, value in CHANGING),
    *((patched({"spec": {"template": {"metadata": {"annotations": {key: value}}}}}), None) for key, value in CHANGING),
    (merge({}, labels={"kustomize.toolkit.fluxcd.io/reconcile": "disabled"}), None),
    (patched({"spec": {"template": {"metadata": {"labels": {"sidecar.istio.io/inject": "true"}}}}}), None),
    # Objects that act on the server from beside it, or in its place.
    *((an(api, kind), None) for api, kind in ACTING),
    (an("batch/v1", "Job", annotations={"argocd.argoproj.io/hook": "PreSync"}), None),
    (an("autoscaling/v2", "HorizontalPodAutoscaler", {"scaleTargetRef": TARGET, "minReplicas": 0, "maxReplicas": 1}), None),
    (an("autoscaling/v2", "HorizontalPodAutoscaler", {"scaleTargetRef": TARGET, "minReplicas": 1, "maxReplicas": 4}), None),
    (own(labels=[{"pairs": {overlays.VERSION: "v9.9.9"}, "includeTemplates": True}]), None),
    (an("autoscaling/v2", "HorizontalPodAutoscaler", {"scaleTargetRef": TARGET | {"name": "x"}, "maxReplicas": 1}), None),
    (an("keda.sh/v1alpha1", "ScaledObject", {"scaleTargetRef": TARGET, "triggers": []}), None),
    (operations({"op": "replace", "path": "/spec/ingress", "value": []}, kind="NetworkPolicy"), None),
    (operations({"op": "add", "path": "/spec/egress", "value": [{}]}, kind="NetworkPolicy"), None),
    *((an("networking.k8s.io/v1", "NetworkPolicy", {"policyTypes": ["Egress"], "egress": [{}]} | selector), None) for selector in OPENING),
    (both(own(resources=["release/kserve"]), lambda tree: rewrite(tree, lambda value: value["resources"].append("more.yaml")), lambda tree: (tree / "staging/more.yaml").write_text(yaml.safe_dump({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "x"}, "spec": {"podSelector": {"matchLabels": {"serving.kserve.io/inferenceservice": "server"}}, "egress": [{}]}}))), None),
    (operations({"op": "replace", "path": "/spec/podSelector", "value": {"matchLabels": {"a": "b"}}}, kind="NetworkPolicy"), None),
    (removed("networking.k8s.io/v1", "NetworkPolicy"), None),
    (removed("v1", "Service"), None),
    (removed("apps/v1", "Deployment"), "found none"),
    *((operations({"op": "add", "path": f"/spec/{key}", "value": value}, kind="Service"), None) for key, value in (("externalIPs", ["10.0.0.1"]), ("publishNotReadyAddresses", True))),
    (sidecar(ports=[{"containerPort": 8080}]), None),
    (merge({"containers": [{"name": "proxy", "image": f"proxy.example/p@{IMAGE}"}]}), None),
    (merge({"volumes": [{"name": "cache", "emptyDir": {}}]}), None),
    (merge({"initContainers": [{"name": "first", "image": f"proxy.example/p@{IMAGE}"}]}), None),
    (operations({"op": "add", "path": f"{CONTAINERS}/-", "value": {"name": "proxy", "image": f"proxy.example/p@{IMAGE}"}}), None),
    (an("v1", "ConfigMap", finalizers=["x.example/y"]), None),
    # The same in KServe's object.
    *((kserve({"op": "add", "path": path, "value": value}), None) for path, value in OF_KSERVE),
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
    write("staging/github.com/evil/x/kustomization.yaml", "resources: []\n", resources=[OWN_RELEASE, "github.com/evil/x"]),
    write("staging/x.git/kustomization.yaml", "resources: []\n", resources=[OWN_RELEASE, "x.git"]),
    own(components=["git@evil.example:x/y"]),
    own(resources=[OWN_RELEASE, "https://evil.example/x.yaml"]),
    own(resources=[OWN_RELEASE, "/etc"]),
    own(patches=[{"path": "https://evil.example/p.yaml"}]),
    own(configMapGenerator=[{"name": "x", "files": ["a=https://evil.example/x"]}]),
    own(configMapGenerator=[{"name": "x", "files": ["../../../etc/passwd"]}]),
    own(configMapGenerator=[{"name": "x", "envs": ["https://evil.example/x"]}]),
    own(configMapGenerator=[{"name": "x", "env": "https://evil.example/x"}]),
    own(secretGenerator=[{"name": "x", "Files": ["https://evil.example/x"]}]),
    component("more", replacements=[{"path": "https://evil.example/x"}]),
    component("more", resources=["https://evil.example/x"]),
    component("more", generators=["x.yaml"]),
    own(resources=[OWN_RELEASE, "."]),
    write("staging/a/kustomization.yaml", "resources: [../b]\n", lambda tree: write("staging/b/kustomization.yaml", "resources: [../a]\n")(tree), resources=[OWN_RELEASE, "a"]),
    component("more", components=["../gpu", "../gpu"]),
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
    "another variant": ({"variant": "../production"}, "variant: Input should be 'deployment', 'kserve' or 'rollout'"),
    "no server": ({"replicas": 0}, "replicas: Input should be greater than or equal to 1"),
    "too many": ({"replicas": 1001}, "replicas: Input should be less than or equal to 1000"),
    "truth as a number": ({"replicas": True}, "replicas: Input should be a valid integer"),
    "an update that never ends": ({"update": "never"}, "update: Input should be 'surge', 'replace' or 'pause'"),
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
    "no namespace": ({"namespace": None}, "namespace: Input should be a valid string"),
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
    "an InferenceService without a number": ({"variant": "kserve", "replicas": None}, "replicas: an InferenceService has a number"),
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


# The knobs.

FREE: dict[str, tuple[dict[str, Any], Callable[[dict[str, Any]], Any], Any]] = {
    "namespace": ({"namespace": "other"}, lambda item: item["metadata"]["namespace"], "other"),
    "replicas": ({"replicas": 3}, lambda item: item["spec"]["replicas"], 3),
    "a scaler": ({"replicas": None}, lambda item: item["spec"].get("replicas"), None),
    "an old server ends first": (
        {"update": "replace"}, lambda item: item["spec"]["strategy"],
        {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}},
    ),
    "a pause": ({"update": "pause"}, lambda item: item["spec"]["strategy"], {"type": "Recreate"}),
    "GPUs": (
        {"gpus": 2, "pod": {"tolerations": [{"operator": "Exists"}]}},
        lambda item: (_first(item)["resources"]["limits"]["nvidia.com/gpu"], len(_pod(item)["tolerations"])), ("2", 2),
    ),
    "no root": ({"run_as_non_root": True}, lambda item: _pod(item)["securityContext"]["runAsNonRoot"], True),
    "resources": (
        {"resources": {"limits": {"cpu": "4", "memory": "64Gi"}, "requests": {"cpu": "500m"}}},
        lambda item: _first(item)["resources"],
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
                {"maxSkew": 1, "topologyKey": "x", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {LABEL: "server"}}}
            ],
        }},
        lambda item: (_pod(item)["nodeSelector"], _pod(item)["imagePullSecrets"], len(_pod(item)["topologySpreadConstraints"])),
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


@pytest.mark.parametrize(
    "knobs", [{}, {"replicas": 2, "update": "replace", "gpus": 1, "pod": {"nodeSelector": {"a": "b"}}}]
)
@pytest.mark.parametrize("variant", ["deployment", "kserve", "rollout"])
@pytest.mark.parametrize("runtime", runtimes.names())
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
    assert edits.failures("staging", lying(tree), rendered(), lambda: (), compare_others=False) == []
    (tree / "production" / "environment.yaml").write_text("namespace: 5\n")
    assert failures(tree) == []  # production's own move reports that


def test_the_command_writes_what_is_compared(tmp_path: Path, tree: Path) -> None:
    path = tree / "staging" / "environment.yaml"
    path.write_text(path.read_text().replace("replicas: 1", "replicas: 4"))
    (failure,) = failures(tree)
    assert failure.endswith("kustomization.yaml: is not what environment.yaml gives: run `lockstep render staging`")
    assert render(tmp_path, "staging") == layout.ENVIRONMENTS / "staging" / "kustomization.yaml"
    assert failures(tree) == []


# What is shipped.


def test_the_digests_of_shipped_files_are_those_of_the_files() -> None:
    folder = REPOSITORY / layout.ENVIRONMENTS
    paths = [path for name in overlays.SHARED for path in (folder / name).rglob("*") if path.is_file()]
    assert {path.relative_to(REPOSITORY): digest.of_bytes(path.read_bytes()) for path in paths} == shipped.DIGESTS


def test_the_shipped_environments_are_rendered() -> None:
    found = lying(REPOSITORY / layout.ENVIRONMENTS)
    for name in ("staging", "production"):
        assert edits.failures(name, found, overlays.nothing(name), lambda: ()) == []


# What a cluster has.


def _pod(item: dict[str, Any]) -> dict[str, Any]:
    found = item["spec"]["predictor"] if item["kind"] == "InferenceService" else item["spec"]["template"]["spec"]
    assert isinstance(found, dict)
    return found


def _first(item: dict[str, Any]) -> dict[str, Any]:
    found = _pod(item)["containers"][0]
    assert isinstance(found, dict)
    return found


DRIFT: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda item: _first(item).update(image="registry.example/team/router:v1.4.0"), "server.image: is 'registry.example/team/router:v1.4.0', the release says"),
    (lambda item: _first(item).update(image=f"registry.example/team/router@{OTHER}"), "server.image: is "),
    (lambda item: _first(item).pop("image"), "server.image: is None"),
    (lambda item: _first(item).update(args=["x"]), "server.args: the release sets none"),
    (lambda item: _first(item).pop("volumeMounts"), "server.volumeMounts.*: is there 0 times"),
    (lambda item: _first(item)["readinessProbe"]["httpGet"].update(path="/"), "server.readinessProbe.httpGet.path: is '/'"),
    (lambda item: _pod(item).update(terminationGracePeriodSeconds=1), "pod.terminationGracePeriodSeconds: is 1"),
    (lambda item: _pod(item).update(containers="x"), "has no container server"),
    (lambda item: _pod(item).update(volumes=None), "pod.volumes.shm: is there 0 times"),
    (lambda item: item["metadata"]["annotations"].pop("lockstep/model"), "annotations.lockstep/model: is None"),
    (lambda item: item["metadata"].pop("annotations"), "annotations.lockstep/model: is None"),
    (lambda item: item["metadata"].pop("labels"), ""),
    (lambda item: item.update(kind="Rollout"), "found none"),
    (lambda item: item.pop("spec"), "has no container server"),
    (lambda item: item["spec"].update(paused=False), ""),
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("change", "message"), DRIFT)
def test_what_drifted_in_a_cluster_is_named(
    kind: str, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    items = promoted("staging", "tgi", "baked", kind)
    (item,) = [each for each in items if each["kind"] == KIND[kind]]
    change(item)
    found = deployed.failures(items, "staging", rendered())
    assert any(re.search(message, failure) for failure in found) if message else not found, found


def test_a_deployment_that_is_paused_follows_no_move_whoever_made_it() -> None:
    items = promoted("staging", "tgi", "baked", "kserve")
    (owner,) = [each for each in items if each["kind"] == "InferenceService"]
    owner["metadata"]["uid"] = "1"
    of_it = [{"uid": "1", "controller": True}]
    made = {"kind": "Deployment", "metadata": {"name": "p", "ownerReferences": of_it}, "spec": {"paused": True}}
    assert deployed.failures([*items, made], "staging", rendered()) == [
        "InferenceService server: Deployment p is paused: its pods follow no move"
    ]
    made["spec"] = {}
    assert deployed.failures([*items, made], "staging", rendered()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": PLACEHOLDER}, "server.image: is not named: write it as `server`"),
        ({"image": f"{SERVER}:latest"}, "server.image: .* is not pinned by digest"),
        ({"args": ["/models/other"]}, "server.args: is \\['/models/other'\\]"),
        ({"command": None}, "server.command: is None"),
        ({"env": []}, "server.env.*: is there 0 times"),
    ],
)
def test_the_server_of_weights_that_come_alone_is_pinned_and_started_as_its_runtime_says(
    change: dict[str, Any], message: str
) -> None:
    items = promoted("staging", "vllm", "weights", "deployment")
    (item,) = [each for each in items if each["kind"] == "Deployment"]
    _first(item).update(change)
    found = deployed.failures(items, "staging", rendered("staging", "vllm", "weights"))
    assert any(re.search(message, failure) for failure in found), found


def test_a_server_where_nothing_was_promoted_and_a_second_one_are_gaps() -> None:
    items = promoted("staging", "tgi", "baked", "deployment")
    assert deployed.failures(items, "staging", overlays.nothing("staging")) == [
        "Deployment server: by git staging runs nothing in a cluster"
    ]
    (item,) = [each for each in items if each["kind"] == "Deployment"]
    second = copy.deepcopy(item) | {"metadata": item["metadata"] | {"name": "second"}}
    assert deployed.failures([*items, second], "staging", rendered()) == [
        "staging: there must be exactly one Deployment or InferenceService, found Deployment server, Deployment second"
    ]
