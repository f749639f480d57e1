"""What people may write in an environment: what only a promotion may say is refused, in whatever file it stands."""

import copy
import functools
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from checks import digest, layout
from checks.errors import MachineRefused
from release import runtimes
from release.overlay import deployed, edits, kustomize, objects, overlays, shipped, sources
from tests import kubernetes_tools, programs, spoil
from tests.conftest import REPOSITORY
from tests.overlay_sample import (
    IMAGE,
    KINDS,
    OTHER,
    SERVER,
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
    return edits.failures("staging", lying(tree), wanted or rendered(), ("staging", "production"))


def patched(value: dict[str, Any]) -> spoil.Spoil:
    """A patch of the Deployment, merged."""
    text = yaml.safe_dump({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "server"}} | value)
    return lambda tree: edit(tree, "staging", lambda found: found["patches"].append({"patch": text}))


def own(**fields: Any) -> spoil.Spoil:
    return lambda tree: edit(tree, "staging", lambda value: value.update(fields))


def operations(*ops: dict[str, Any], kind: str = "Deployment") -> spoil.Spoil:
    patch = {"target": {"kind": kind}, "patch": yaml.safe_dump(list(ops))}
    return lambda tree: edit(tree, "staging", lambda value: value["patches"].append(patch))


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
        edit(tree, "staging", lambda value: value.update(images=[NAMED]))

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
    return lambda tree: edit(tree, "staging", lambda value: value["patches"].append({"patch": text}))


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
OF_KSERVE: list[tuple[str, Any, str]] = [
    ("/spec/predictor/logger", {"url": "https://evil.example"}, "spec.predictor.logger: is"),
    ("/spec/predictor/canaryTrafficPercent", 0, "spec.predictor.canaryTrafficPercent: is"),
    ("/spec/predictor/minReplicas", 0, "spec.predictor.minReplicas: is 0"),
    ("/spec/predictor/readinessGates", [{"conditionType": "x.example/never"}], "spec.predictor.readinessGates: is"),
    ("/spec/predictor/model", {"modelFormat": {"name": "x"}}, "spec.predictor.model: is"),
    ("/spec/predictor/containers/0/image", EVIL, "kserve-container.image: is 'evil"),
    ("/spec/transformer", {"containers": []}, "spec.transformer: is"),
    ("/metadata/annotations/serving.kserve.io~1stop", "true", "serving.kserve.io/stop: a tool"),
    ("/metadata/annotations/serving.kserve.io~1deploymentMode", "Serverless", "serving.kserve.io/deploymentMode is"),
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

# What is done, what is said before a move, what ``reconcile`` says where a cluster has it (None: it does not build, or
# nothing is said).
TAMPERS: list[tuple[spoil.Spoil, str, str | None]] = [
    (own(images=[{"name": "registry.example/team/router", "newTag": "latest"}]), "images: only lockstep.invalid/server", "server.image: is "),
    (own(images=[{"name": "registry.example/team/router", "newName": "evil.example/x", "digest": OTHER}]), "images: only", "server.image: is "),
    (own(Images=[{"name": "registry.example/team/router", "newTag": "latest"}]), "Images: an environment may not use it", "server.image: is "),
    (own(images=[{"name": PLACEHOLDER, "digest": OTHER, "NewTag": "latest"}]), "images: only", None),
    (own(images=[{"name": PLACEHOLDER, "newTag": "v1"}]), "images: only", None),
    (own(images=[{"name": PLACEHOLDER, "newName": SERVER}]), "images: only", None),
    (server(image=EVIL), "server.image: is 'evil", "server.image: is "),
    (server(image="evil.example/x:latest"), "server.image: is 'evil.example/x:latest'", "server.image: is "),
    (server(command=["sh"]), "server.command: is .*, the release has none", "server.command: the release sets none"),
    (server(args=["--model=/tmp/x"]), "server.args: is .*, the release has none", "server.args: the release sets none"),
    (server(env=[{"name": "MODEL_ID", "value": "/tmp/x"}]), "server.env: is .*, the release has none", "server.env: the release sets none"),
    (server(envFrom=[{"configMapRef": {"name": "x"}}]), "server.envFrom: is .*, the release has none", "server.envFrom: the release sets none"),
    (server(volumeMounts=[{"name": "tmp", "mountPath": "/models"}]), "server.volumeMounts.*models.*: is .*, the release has none", "server.volumeMounts: /models: the release does not"),
    (server(volumeMounts=[{"name": "tmp", "mountPath": "/tmp/../models/x"}]), "server.volumeMounts.*models.*: is .*, the release has none", "server.volumeMounts: .*models.*: the release does not"),
    (server(volumeMounts=[{"name": "tmp", "mountPath": "//models/"}]), "server.volumeMounts.*models.*: is .*, the release has none", "server.volumeMounts: .*models.*: the release does not"),
    (merge({"containers": [{"name": "server", "$patch": "delete"}, {"name": "other", "image": EVIL}]}), "containers.server: is missing", "has no container server"),
    (merge({"volumes": [{"name": "weights", "persistentVolumeClaim": {"claimName": "x"}}]}), "volumes.weights: is .*, the release has none", None),
    (merge({"containers": [{"name": "proxy", "image": "proxy:latest"}]}), "containers.proxy: is .*, the release has none", None),
    (merge({}, annotations={"lockstep/version": "v9.9.9"}), "annotations: lockstep/version is 'v9.9.9', the release says", "annotations.lockstep/version: is 'v9.9.9'"),
    (merge({}, annotations=None), "metadata.annotations: is missing", "annotations.lockstep/model: is None"),
    (operations({"op": "replace", "path": f"{CONTAINERS}/0/image", "value": EVIL}), "server.image: is 'evil", "server.image: is "),
    (operations({"op": "replace", "path": f"{CONTAINERS}/0", "value": {"name": "x", "image": EVIL}}), "containers.server: is missing", "has no container server"),
    (operations({"op": "replace", "path": f"{CONTAINERS}/-1", "value": {"name": "x", "image": EVIL}}), "containers.server: is missing", None),
    (operations({"op": "replace", "path": CONTAINERS, "value": [{"name": "server", "image": EVIL}]}), "server.securityContext: is missing", "server.image: is "),
    (operations({"op": "add", "path": f"{CONTAINERS}/0", "value": {"name": "x", "image": EVIL}}), "containers.x: is .*, the release has none", None),
    (operations({"op": "add", "path": f"{CONTAINERS}/-", "value": {"name": "server", "image": EVIL}}), "containers: two entries have the same name", None),
    (operations({"op": "add", "path": f"{CONTAINERS}/0/command", "value": ["sh"]}), "server.command: is ", "server.command"),
    (operations({"op": "copy", "from": "/metadata/labels", "path": "/spec/x"}), "spec.x: is .*, the release has none", None),
    (operations({"op": "replace", "path": "/metadata/annotations/lockstep~1version", "value": "v9.9.9"}), "annotations: lockstep/version is 'v9.9.9'", "lockstep/version: is 'v9.9.9'"),
    (operations({"op": "remove", "path": "/metadata/annotations"}), "metadata.annotations: is missing", "annotations.lockstep/model: is None"),
    (operations({"op": "remove", "path": "/spec/template/spec/containers/0/volumeMounts/1/mountPath"}), "volumeMounts: two entries have the same mountPath, or one has none", "volumeMounts./usr/src/out: is there 0 times"),
    (own(commonAnnotations={"lockstep/version": "v9.9.9"}), "lockstep/version: only a promotion", "lockstep/version: is 'v9.9.9'"),
    (own(resources=["https://evil.example/base"]), "'https://evil.example/base': name a folder", None),
    (own(resources=["github.com/evil/x?ref=main"]), "'github.com/evil/x\\?ref=main': name a folder", None),
    (own(resources=["../production/release/deployment"]), "resources: name one of", None),
    (own(resources=["../production"]), "'../production': name a folder", None),
    (own(resources=["release/deployment", "release/kserve"]), "resources: name one of", None),
    (own(resources=["../base"]), "resources: name one of", "annotations.lockstep/model: is None"),
    (own(resources=[]), "resources: name one of", "staging: there must be exactly one Deployment or InferenceService, found none"),
    (own(resources=["release/deployment", "../../../elsewhere"]), "'../../../elsewhere': name a folder", None),
    (own(components=["../../../elsewhere"]), "'../../../elsewhere': name a folder", None),
    (own(patches=[{"path": "patch.txt"}]), "'patch.txt': name a .yaml file", None),
    (own(patches=[{"Path": "../x.yaml"}]), "patches: write patch, path, target", None),
    (own(patches=[{"patch": "a: &x [1]\nb: *x"}]), "patches: a patch is not one plain YAML document", None),
    (own(patches=[{"patch": "a: 1\n---\nb: 2"}]), "patches: a patch is not one plain YAML document", None),
    (own(replacements=[]), "replacements: an environment may not use it", None),
    (own(helmCharts=[{"name": "x"}]), "helmCharts: an environment may not use it", None),
    (own(generators=["x.yaml"]), "generators: an environment may not use it", None),
    (write("staging/t.yaml", TRANSFORMER, transformers=["t.yaml"]), "transformers: an environment may not use it", None),
    (own(bases=["../base"]), "bases: an environment may not use it", None),
    (own(patchesStrategicMerge=["x.yaml"]), "patchesStrategicMerge: an environment may not use it", None),
    (own(openapi={"path": "x"}), "openapi: an environment may not use it", None),
    (write("staging/more/kustomization.yaml", "resources: [https://evil.example]\n", resources=[OWN_RELEASE, "more"]), "more/kustomization.yaml: 'https:", None),
    (write("staging/p.yaml", yaml.safe_dump([{"op": "replace", "path": f"{CONTAINERS}/0/image", "value": EVIL}]), patches=[{"path": "p.yaml", "target": {"kind": "Deployment"}}]), "server.image: is 'evil", "server.image: is "),
    (spoil.replace("base/deployment.yaml", "- name: server", "- name: server\n          command: [sh]"), "server.command: is ", "server.command"),
    (spoil.replace("base/deployment.yaml", "image: lockstep.invalid/server", "image: evil.example/x"), "base/deployment.yaml: image: 'evil.example/x'", None),
    (both(spoil.replace("components/gpu/kustomization.yaml", "op: add", "op: move"), own(components=["../components/gpu"])), "kustomize build: Error", None),
    (spoil.link("staging/kustomization.yaml", "../production/kustomization.yaml"), "staging/kustomization.yaml: is not a regular file", None),
    (spoil.link("staging/extra", "../production"), "staging/extra: is not a regular file", None),
    (lambda tree: (tree / "staging" / "kustomization.yaml").unlink(), "staging/kustomization.yaml: is missing", None),
    (lambda tree: put(tree, {OWN: b"\xff"}), "kustomization.yaml: is not one plain YAML", None),
    (lambda tree: put(tree, {OWN: b"[]"}), "kustomization.yaml: is not a mapping", None),
    # Files that are read whatever they are called.
    (write("staging/swap", SWAP, patches=[{"path": "swap"}]), "'swap': name a .yaml file", "server.image: is "),
    (write("staging/.yaml", SWAP, patches=[{"path": ".yaml"}]), "'.yaml': name a .yaml file", "server.image: is "),
    (write("staging/a.YAML", SWAP, patches=[{"path": "a.YAML"}]), "'a.YAML': name a .yaml file", "server.image: is "),
    (write("staging/Kustomization", SWAP, patches=[{"path": "Kustomization"}]), "'Kustomization': name a .yaml file", None),
    (write("staging/more", SWAP.replace("name: server", "name: other"), resources=[OWN_RELEASE, "more"]), "'more': name a folder with a kustomization", None),
    (write("components/more", "patches: []", components=["../components/more"]), "'../components/more': name a folder", None),
    (own(resources=[OWN_RELEASE, "gone"]), "'gone': name a folder", None),
    (own(resources=[OWN_RELEASE, "gone.yaml"]), "'gone.yaml': name a folder", None),
    (write("staging/l.yaml", yaml.safe_dump({"kind": "List", "apiVersion": "v1", "items": [workload("Deployment", "x")]}), resources=[OWN_RELEASE, "l.yaml"]), "Deployment server, Deployment x", "Deployment x: has the labels"),
    # A second server.
    (write("staging/again/kustomization.yaml", AGAIN, resources=[OWN_RELEASE, "again"]), "'../../base': name a folder", "one Deployment or InferenceService"),
    (write("staging/again/kustomization.yaml", "namePrefix: a-\nresources: [../release/deployment]\n", resources=[OWN_RELEASE, "again"]), "'../release/deployment': name a folder", "one Deployment or InferenceService"),
    (beside(workload("Deployment")), "found Deployment other, Deployment server", "Deployment other: has the labels"),
    (beside(workload("StatefulSet")), "StatefulSet other: an environment brings no StatefulSet", "StatefulSet other: has the labels"),
    (own(labels=[{"pairs": {LABEL: "x"}, "includeTemplates": True}]), "labels: app.kubernetes.io/name is 'x'", None),
    (own(labels=[{"pairs": {"image": "x"}, "fields": [{"path": "spec/template/spec/containers", "kind": "Deployment", "create": True}]}]), "labels: write includeSelectors, includeTemplates, pairs", None),
    # The Service.
    (operations({"op": "replace", "path": "/spec/ports/0/targetPort", "value": 9}, kind="Service"), "Service server: spec.ports: .*: leads elsewhere", "Service server: leads elsewhere"),
    (operations({"op": "replace", "path": "/spec/ports", "value": [{"port": 80}]}, kind="Service"), "Service server: spec.ports: .*: leads elsewhere", "Service server: leads elsewhere"),
    (operations({"op": "replace", "path": "/spec/selector", "value": {"app": "x"}}, kind="Service"), "Service server: spec.selector: .*: does not select", "Service server: does not select"),
    (operations({"op": "add", "path": "/spec/externalName", "value": "evil.example"}, kind="Service"), "Service server: spec.externalName: leads elsewhere", "Service server: leads elsewhere"),
    (operations({"op": "replace", "path": "x/spec/ports/0", "value": {"port": 80}}, kind="Service"), "Service server: spec.ports: .*: leads elsewhere", "Service server: leads elsewhere"),
    (write("staging/s.yaml", yaml.safe_dump(ELSEWHERE), resources=[OWN_RELEASE, "s.yaml"]), "Service more: spec.ports: .*: leads elsewhere", "Service more: leads elsewhere"),
    (write("staging/s.yaml", yaml.safe_dump(SLICE), resources=[OWN_RELEASE, "s.yaml"]), "an environment brings no EndpointSlice", "EndpointSlice x: is written by nobody"),
    (spoil.replace("base/service.yaml", "targetPort: http", "targetPort: 9"), "Service server: spec.ports: .*: leads elsewhere", "Service server: leads elsewhere"),
    (spoil.replace("base/service.yaml", "    app.kubernetes.io/name: server\n  ports", "    app: x\n  ports"), "Service server: spec.selector: .*: does not select", "Service server: does not select"),
    (sidecar(ports=[{"name": "http", "containerPort": 9}]), "containers.proxy: is ", "container proxy: has the server's port"),
    # What runs in the server, or answers for it.
    (server(lifecycle={"postStart": {"exec": {"command": ["x"]}}}), "server.lifecycle.postStart: is ", "server.lifecycle: is "),
    (operations({"op": "add", "path": f"{CONTAINERS}/0/lifecycle/postStart", "value": {"exec": {"command": ["x"]}}}), "server.lifecycle.postStart: is ", "server.lifecycle: is "),
    (server(livenessProbe={"exec": {"command": ["x"]}}), "server.livenessProbe.exec: is ", "server.livenessProbe: differs"),
    (server(readinessProbe={"httpGet": {"port": 9}}), "server.readinessProbe.httpGet.port: is 9", "server.readinessProbe: differs"),
    (server(workingDir="/tmp/x"), "server.workingDir: is ", "server.workingDir: is '/tmp/x'"),
    (server(ports=[{"containerPort": 8080, "name": "x"}]), "server.ports: is ", "server.ports: http is another"),
    (operations({"op": "replace", "path": f"{CONTAINERS}/0/name", "value": "x"}), "containers.server: is missing", "has no container server"),
    (merge({"volumes": [{"name": "evil", "configMap": {"name": "evil"}}], "containers": [{"name": "server", "volumeMounts": [{"name": "evil", "mountPath": CODE, "subPath": "x"}]}]}), "sitecustomize.py: is .*, the release has none", "sitecustomize.py: the release does not"),
    (operations({"op": "add", "path": f"{CONTAINERS}/0/volumeMounts/-", "value": {"name": "tmp", "mountPath": CODE}}), "sitecustomize.py: is .*, the release has none", "sitecustomize.py: the release does not"),
    (merge({"volumes": [{"name": "tmp", "configMap": {"name": "evil"}}]}), "volumes.tmp.configMap: is ", "pod.volumes.tmp: is more"),
    (operations({"op": "add", "path": "/spec/template/spec/volumes/0/configMap", "value": {"name": "evil"}}), "volumes.shm.configMap: is ", "pod.volumes.*: is more"),
    # From beside it.
    (sidecar(volumeMounts=[{"name": "tmp", "mountPath": "/x"}]), "containers.proxy: is ", "container proxy: mounts a volume"),
    (merge({"initContainers": [{"name": "first", "image": EVIL, "volumeMounts": [{"name": "tmp", "mountPath": "/x"}]}]}), "initContainers: is ", "container first: mounts a volume"),
    (sidecar(securityContext={"privileged": True}), "containers.proxy: is ", "container proxy: has more rights"),
    (sidecar(securityContext={"capabilities": {"add": ["NET_ADMIN"]}}), "containers.proxy: is ", "container proxy: has more rights"),
    *((merge({key: True}), f"spec.{key}: is True, the release has none", f"pod.{key}: is True") for key in ("shareProcessNamespace", "hostPID", "hostNetwork", "hostIPC")),
    (operations({"op": "add", "path": "/spec/template/spec/hostPID", "value": True}), "spec.hostPID: is True", "pod.hostPID: is True"),
    (merge({"volumes": [{"name": "x", "hostPath": {"path": "/"}}]}), "volumes.x: is .*hostPath", "pod.volumes.x: is of the node"),
    (merge({"ephemeralContainers": [{"name": "x", "image": EVIL}]}), "ephemeralContainers: is ", None),
    # The base's image again, in place of the release's, and another for it.
    (server(image=PLACEHOLDER), "server.image: is 'lockstep.invalid/server'", "server.image: is 'lockstep.invalid/server'"),
    (with_named_server(server(image=PLACEHOLDER)), "server.image: is 'evil", "server.image: is 'evil.example/x@"),
    (with_named_server(server(image=f"{PLACEHOLDER}:v1")), "server.image: is 'evil", "server.image: is 'evil.example/x@"),
    (with_named_server(server(image=f"{PLACEHOLDER}@{IMAGE}")), "server.image: is 'evil", "server.image: is 'evil.example/x@"),
    (with_named_server(server(image="lockstep-invalid/server")), "server.image: is 'evil", "server.image: is 'evil.example/x@"),
    (with_named_server(operations({"op": "replace", "path": f"{CONTAINERS}/0/image", "value": PLACEHOLDER})), "server.image: is 'evil", "server.image: is 'evil.example/x@"),
    (with_named_server(operations({"op": "replace", "path": f"{CONTAINERS}/0/im~0age", "value": PLACEHOLDER}, {"op": "test", "path": f"{CONTAINERS}/0/image", "value": "x"})), "kustomize build: Error: replace operation does not apply", None),
    (with_named_server(operations({"op": "add", "path": f"{CONTAINERS}/-", "value": {"name": "kserve-container", "image": PLACEHOLDER}})), "containers.kserve-container: is ", None),
    (with_named_server(write("staging/p.yaml", SWAP.replace(EVIL, PLACEHOLDER), patches=[{"path": "p.yaml"}])), "server.image: is 'evil", "server.image: is 'evil.example/x@"),
    (with_named_server(component("more", patches=[{"patch": SWAP.replace(EVIL, PLACEHOLDER)}])), "server.image: is 'evil", "server.image: is 'evil.example/x@"),
    (with_named_server(component("more", replacements=[{"source": {"kind": "Deployment", "fieldPath": "metadata.name"}, "targets": [{"select": {"kind": "Deployment"}, "fieldPaths": [CONTAINERS[1:].replace("/", ".") + ".0.image"]}]}])), "server.image: is 'server'", "server.image: is 'server'"),
    (with_named_server(sidecar(image=f"{PLACEHOLDER}@{IMAGE}")), "containers.proxy: is ", None),
    (with_named_server(spoil.replace("base/deployment.yaml", "- name: server", f"- name: first\n          image: {PLACEHOLDER}\n        - name: server")), "containers.first: is ", None),
    (with_named_server(spoil.replace("base/deployment.yaml", "containers:", f"initContainers: [{{name: server, image: {PLACEHOLDER}}}]\n      containers:")), "initContainers: is ", None),
    (spoil.replace("base/deployment.yaml", "apiVersion: apps/v1", "apiVersion: other.example/v1"), "kustomize build: Error", None),
    (spoil.replace("base/deployment.yaml", "apiVersion: apps/v1\nkind: Deployment", "apiVersion: ''\nkind: [Deployment]"), "kustomize build: Error", None),
    (component("more", images=[NAMED]), "more/kustomization.yaml: images: the environment's own kustomization.yaml", None),
    (spoil.replace("base/kustomization.yaml", "resources:", f"images: [{{name: {PLACEHOLDER}, newName: evil.example/x, digest: '{OTHER}'}}]\nresources:"), "base/kustomization.yaml: images: the environment's own", None),
    (own(images=[{"name": PLACEHOLDER, "digest": OTHER}]), "images: only", None),
    (own(images=[NAMED | {"newName": ""}]), "images: only", None),
    (own(images=[NAMED | {"newName": ["x"]}]), "images: only", None),
    (own(images=[NAMED | {"newName": None}]), "images: only", None),
    (write("staging/c.yaml", "images: [{path: metadata/name, kind: Deployment}]\n", configurations=["c.yaml"]), "configurations: an environment may not use it", None),
    (own(vars=[{"name": "X"}]), "vars: an environment may not use it", None),
    # Keys that kustomize takes from elsewhere in a file.
    (appended(f"  - target: {{kind: Deployment}}\n    patch: |-\n      - {{op: replace, path: /spec/replicas, value: 2, <<: {{path: {CONTAINERS}/0/image, value: {EVIL}}}}}\n"), "patches: a patch is not one plain YAML document: <<: a merge key", "server.image: is 'evil.example/x@"),
    (appended(f"  - target: {{kind: Deployment}}\n    patch: '[]'\n    <<: {{patch: '- {{op: replace, path: {CONTAINERS}/0/image, value: {EVIL}}}'}}\n"), "kustomization.yaml: is not one plain YAML document: <<: a merge key", "server.image: is 'evil.example/x@"),
    (appended(f"images:\n- {{name: {PLACEHOLDER}, newName: {SERVER}, digest: '{OTHER}', <<: {{name: registry.example/team/router}}}}\n"), "<<: a merge key", "server.image: is '"),
    (appended(f"<<: {{images: [{{name: registry.example/team/router, newName: evil.example/x, digest: '{OTHER}'}}]}}\n"), "<<: a merge key", "server.image: is 'evil.example/x@"),
    (appended("  - target: {kind: Deployment}\n    patch: '- {op: replace, path: /spec/replicas, value: 1" + ":0" * 200 + ".0}'\n"), "patches: a patch is not one plain YAML document: int too large to convert to float", None),
    # What leaves a cluster as it is.
    (patched({"spec": {"paused": True}}), "spec.paused: is True", "is paused: its pods follow no move"),
    (operations({"op": "add", "path": "/spec/paused", "value": True}), "spec.paused: is True", "is paused: its pods follow no move"),
    (spoil.replace("base/deployment.yaml", "replicas: 1", "replicas: 1\n  paused: true"), "spec.paused: is True", "is paused: its pods follow no move"),
    *((merge({}, annotations={key: value}), f"{key}: a tool would leave the object as it is", None) for key, value in HOLDING),
    (own(commonAnnotations=dict([HOLDING[0]])), f"Service server: metadata.annotations: {HOLDING[0][0]}: a tool would", None),
    (operations({"op": "add", "path": "/metadata/annotations/" + HOLDING[0][0].replace("/", "~1"), "value": HOLDING[0][1]}), "annotations: argocd.argoproj.io/hook: a tool would", None),
    # The component that copies.
    (both(spoil.replace("components/kserve/copied/kustomization.yaml", "fieldPath: metadata.annotations", "fieldPath: metadata.name"), own(resources=["release/kserve"])), "annotations: lockstep/model is None", None),
    (both(spoil.replace("components/kserve/kustomization.yaml", "value: kserve-container", "value: other"), own(resources=["release/kserve"])), "containers.kserve-container: is missing", None),
    (both(spoil.replace("components/kserve/kustomization.yaml", "$patch: delete", "$patch: replace"), own(resources=["release/kserve"])), "exactly one Deployment or InferenceService, found", None),
    # Another environment's place in the cluster.
    (own(namespace="model-production"), "namespace: 'model-production' is the namespace of production too", None),
    (own(namespace="kube-system"), "namespace: 'kube-system': name one", None),
    (own(namespace=None), "namespace: 'None': name one", None),
    (own(namespace=["x"]), "namespace: .*: name one", None),
    # What keeps a rollout from ever ending.
    *((merge_spec(**{key: value}), f"spec.{key}: is", None) for key, value in STALLS),
    *((merge({key: value}), f"template.spec.{key}: is", None) for key, value in STALLING_PODS),
    (server(readinessProbe={"initialDelaySeconds": 315360000}), "readinessProbe.initialDelaySeconds: is 315360000", None),
    (server(readinessProbe={"periodSeconds": 3600, "successThreshold": 10}), "readinessProbe: waits longer than", None),
    (server(imagePullPolicy="Never"), "server.imagePullPolicy: is 'Never'", None),
    # Who the server is.
    *((server(securityContext=value), "server.securityContext.*: is", None) for value in ({"runAsUser": 0}, {"readOnlyRootFilesystem": False}, {"allowPrivilegeEscalation": True})),
    *((merge({key: value}), f"template.spec.{key}.*: is", None) for key, value in POWERS),
    # A file whose kind is not that of its target.
    (own(patches=[{"target": {"kind": "Deployment", "name": "server"}, "patch": SWAP.replace("kind: Deployment", "kind: Service").replace("apps/v1", "v1")}]), "server.image: is 'evil", "server.image: is 'evil"),
    (write("staging/p.yaml", SWAP.replace("kind: Deployment", "kind: ConfigMap"), patches=[{"path": "p.yaml", "target": {"kind": "Deployment"}}]), "server.image: is 'evil", "server.image: is 'evil"),
    (own(patches=[{"target": {"kind": "Service"}, "patch": yaml.safe_dump(TARGET_AS_PATCH | {"spec": {"selector": {"app": "x"}}})}]), "Service server: spec.selector: .*: does not select", "Service server: does not select"),
    (own(patches=[{"target": {"kind": "Service"}, "patch": yaml.safe_dump(TARGET_AS_PATCH | {"spec": {"ports": [{"port": 80, "targetPort": "http"}, {"port": 81}]}})}]), "Service server: spec.ports: .*: leads elsewhere", "Service server: leads elsewhere"),
    # Files that nothing names, and that tools read.
    (write("staging/Kustomization", "resources: []\n"), "staging/Kustomization: call the one kustomization", None),
    (write("base/kustomization.yml", "resources: []\n"), "base/kustomization.yml: call the one kustomization", None),
    (write("staging/.argocd-source.yaml", yaml.safe_dump({"kustomize": {"images": [f"registry.example/team/router={EVIL}"]}})), ".argocd-source.yaml: Argo CD and Flux take settings", None),
    (write("staging/.sourceignore", "kustomization.yaml\n"), ".sourceignore: Argo CD and Flux take settings", None),
    (write(".sourceignore", "base\n"), ".sourceignore: Argo CD and Flux take settings", None),
    (write("staging/Chart.yaml", "name: x\n"), "staging/Chart.yaml: call the one kustomization", None),
    # Tools that read labels and annotations.
    *((merge({}, annotations={key: value}), f"annotations: {key}: ", None) for key, value in CHANGING),
    *((patched({"spec": {"template": {"metadata": {"annotations": {key: value}}}}}), f"template.metadata.annotations: {key}: ", None) for key, value in CHANGING),
    (merge({}, labels={"kustomize.toolkit.fluxcd.io/reconcile": "disabled"}), "labels: kustomize.toolkit.fluxcd.io/reconcile: a tool", None),
    (patched({"spec": {"template": {"metadata": {"labels": {"sidecar.istio.io/inject": "true"}}}}}), "labels: sidecar.istio.io/inject: tools change pods", None),
    # Objects that act on the server from beside it, or in its place.
    *((an(api, kind), f"an environment brings no {kind}", None) for api, kind in ACTING),
    (an("batch/v1", "Job", annotations={"argocd.argoproj.io/hook": "PreSync"}), "an environment brings no Job", None),
    (an("autoscaling/v2", "HorizontalPodAutoscaler", {"scaleTargetRef": TARGET, "minReplicas": 0, "maxReplicas": 1}), "spec.minReplicas: is 0", None),
    (an("autoscaling/v2", "HorizontalPodAutoscaler", {"scaleTargetRef": TARGET, "minReplicas": 1, "maxReplicas": 4}), "its Deployment has spec.replicas, which would undo each scaling", None),
    (own(labels=[{"pairs": {overlays.VERSION: "v9.9.9"}, "includeTemplates": True}]), "template.metadata.labels: app.kubernetes.io/version is 'v9.9.9', the release says 'v1.4.0'", None),
    (an("autoscaling/v2", "HorizontalPodAutoscaler", {"scaleTargetRef": TARGET | {"name": "x"}, "maxReplicas": 1}), "spec.scaleTargetRef: is", None),
    (an("keda.sh/v1alpha1", "ScaledObject", {"scaleTargetRef": TARGET, "triggers": []}), "spec.minReplicaCount: is 0", None),
    (operations({"op": "replace", "path": "/spec/ingress", "value": []}, kind="NetworkPolicy"), "no NetworkPolicy lets a request in", None),
    (operations({"op": "add", "path": "/spec/egress", "value": [{}]}, kind="NetworkPolicy"), "NetworkPolicy server: spec.egress", None),
    *((an("networking.k8s.io/v1", "NetworkPolicy", {"policyTypes": ["Egress"], "egress": [{}]} | selector), "NetworkPolicy x: spec.egress: .*a server sends nothing", None) for selector in OPENING),
    (both(own(resources=["release/kserve"]), lambda tree: edit(tree, "staging", lambda value: value["resources"].append("more.yaml")), lambda tree: (tree / "staging/more.yaml").write_text(yaml.safe_dump({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "x"}, "spec": {"podSelector": {"matchLabels": {"serving.kserve.io/inferenceservice": "server"}}, "egress": [{}]}}))), "NetworkPolicy x: spec.egress: .*a server sends nothing", None),
    (operations({"op": "replace", "path": "/spec/podSelector", "value": {"matchLabels": {"a": "b"}}}, kind="NetworkPolicy"), "no NetworkPolicy closes its way out", None),
    (removed("networking.k8s.io/v1", "NetworkPolicy"), "no NetworkPolicy closes its way out", None),
    (removed("v1", "Service"), "no Service leads to it", None),
    (removed("apps/v1", "Deployment"), "there must be exactly one Deployment or InferenceService, found none", "found none"),
    *((operations({"op": "add", "path": f"/spec/{key}", "value": value}, kind="Service"), f"Service server: spec.{key}: leads elsewhere", None) for key, value in (("externalIPs", ["10.0.0.1"]), ("publishNotReadyAddresses", True))),
    (sidecar(ports=[{"containerPort": 8080}]), "containers.proxy: is", None),
    (merge({"containers": [{"name": "proxy", "image": f"proxy.example/p@{IMAGE}"}]}), "containers.proxy: is", None),
    (merge({"volumes": [{"name": "cache", "emptyDir": {}}]}), "volumes.cache: is", None),
    (merge({"initContainers": [{"name": "first", "image": f"proxy.example/p@{IMAGE}"}]}), "initContainers: is", None),
    (operations({"op": "add", "path": f"{CONTAINERS}/-", "value": {"name": "proxy", "image": f"proxy.example/p@{IMAGE}"}}), "containers.proxy: is", None),
    (an("v1", "ConfigMap", finalizers=["x.example/y"]), "metadata: finalizers: only", None),
    # The same in KServe's object.
    *((kserve({"op": "add", "path": path, "value": value}), said, None) for path, value, said in OF_KSERVE),
]  # fmt: skip


@pytest.mark.parametrize(("tamper", "of_files", "of_objects"), TAMPERS)
def test_what_only_a_promotion_may_say_is_refused_and_seen_in_a_cluster(
    tree: Path, tamper: spoil.Spoil, of_files: str, of_objects: str | None
) -> None:
    tamper(tree)
    programs.require("kustomize")
    found = failures(tree)
    assert any(re.search(of_files, failure) for failure in found), found
    assert all("\n" not in failure for failure in found)
    if of_objects is not None:
        said = deployed.failures(kubernetes_tools.build(tree / "staging"), "staging", rendered())
        assert any(re.search(of_objects, failure) for failure in said), said


FREE: list[spoil.Spoil] = [
    own(namespace="other", namePrefix="a-", nameSuffix="-b"),
    own(labels=[{"pairs": {"team": "routing"}, "includeSelectors": True}]),
    own(components=["../components/gpu"]),
    own(configMapGenerator=[{"name": "mine", "literals": ["a=b"]}]),
    own(images=[{"name": PLACEHOLDER, "newName": SERVER, "digest": OTHER}]),
    patched({"spec": {"paused": False}}),
    server(resources={"limits": {"memory": "64Gi"}}),
    merge({"nodeSelector": {"pool": "gpu"}, "priorityClassName": "high", "imagePullSecrets": [{"name": "pull"}]}),
    merge({"volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "8Gi"}}]}),
    merge({"tolerations": [{"operator": "Exists"}], "affinity": {}, "runtimeClassName": "nvidia", "securityContext": {"fsGroup": 5}}),
    merge({}, labels={"team": "routing"}, annotations={"prometheus.io/scrape": "true", "argocd.argoproj.io/sync-wave": "1", "note": "x"}),
    merge_spec(minReadySeconds=30, progressDeadlineSeconds=3600, revisionHistoryLimit=1, replicas=3),
    merge_spec(strategy={"rollingUpdate": {"maxSurge": 0, "maxUnavailable": "50%"}}),
    operations({"op": "replace", "path": "/spec/strategy", "value": {"type": "Recreate"}}),
    both(own(patches=[]), an("autoscaling/v2", "HorizontalPodAutoscaler", {"scaleTargetRef": TARGET, "minReplicas": 1, "maxReplicas": 4}), patched({"spec": {"replicas": None}})),
    an("monitoring.coreos.com/v1", "ServiceMonitor", {"selector": {}, "endpoints": [{"port": "http"}]}),
    an("external-secrets.io/v1", "ExternalSecret", annotations={"argocd.argoproj.io/sync-wave": "-1"}),
    operations({"op": "add", "path": "/spec/ingress/0/from", "value": [{"podSelector": {}}]}, kind="NetworkPolicy"),
    operations({"op": "add", "path": "/spec/type", "value": "LoadBalancer"}, {"op": "add", "path": "/metadata/annotations", "value": {"service.beta.kubernetes.io/x": "y"}}, kind="Service"),
    own(labels=[{"pairs": {LABEL: "server"}, "includeTemplates": True}]),
    an("networking.k8s.io/v1", "NetworkPolicy", {"podSelector": {"matchLabels": {LABEL: "other"}}, "egress": [{}]}),
    write("staging/network.yaml", yaml.safe_dump({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "narrow"}, "spec": {"podSelector": {"matchLabels": {LABEL: "server"}}, "policyTypes": ["Ingress"]}}), resources=[OWN_RELEASE, "network.yaml"]),
    write("staging/more/kustomization.yaml", "configMapGenerator: [{name: more, files: [data]}]\n", resources=[OWN_RELEASE, "more"], then=lambda tree: (tree / "staging/more/data").write_text("image: any")),
    write("staging/notes", "image: evil"),
    operations({"op": "replace", "path": f"{CONTAINERS}/0/startupProbe/failureThreshold", "value": 720}),
    write("staging/policy.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata: {image: x@y}\n".replace("image", "picture"), resources=[OWN_RELEASE, "policy.yaml"]),
    spoil.replace("base/deployment.yaml", "memory: 8Gi", "memory: 80Gi"),
]  # fmt: skip


@pytest.mark.parametrize("change", FREE)
def test_what_is_the_environments_own_is_no_gap(tree: Path, change: spoil.Spoil) -> None:
    programs.require("kustomize")
    change(tree)
    assert failures(tree) == []
    assert deployed.failures(kubernetes_tools.build(tree / "staging"), "staging", rendered()) == []


@pytest.mark.parametrize("kind", KINDS)
def test_lists_of_an_inference_service_are_not_replaced_unseen(tree: Path, kind: str) -> None:
    other = {"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService", "metadata": {"name": "server"}}
    value = other | {"spec": {"predictor": {"containers": [{"name": "x", "image": EVIL}]}}}
    pin(tree, "staging", resources=["release/kserve"], patches=[{"patch": yaml.safe_dump(value)}])
    items = kubernetes_tools.build(tree / "staging")
    assert any("containers.kserve-container: is missing" in failure for failure in failures(tree))
    assert deployed.failures(items, "staging", rendered()) == ["InferenceService server: has no container server"]


def test_weights_that_come_alone_run_in_the_server_that_the_environment_names_and_in_no_other(tree: Path) -> None:
    alone = rendered(shape="weights")
    (failure,) = failures(tree, alone)
    assert failure.endswith("name their server as lockstep.invalid/server, by digest")
    pin(tree, "staging")
    assert failures(tree, alone) == []
    put(tree, alone)
    (item,) = [each for each in kubernetes_tools.build(tree / "staging") if each["kind"] == "Deployment"]
    assert _first(item)["image"] == f"{SERVER}@{OTHER}"
    spoil.replace("base/deployment.yaml", "image: lockstep.invalid/server", f"image: {EVIL}")(tree)
    (failure,) = failures(tree, alone)
    assert "base/deployment.yaml: image: 'evil.example/x@" in failure
    spoil.replace("base/deployment.yaml", f"image: {EVIL}", "image: lockstep.invalid/server")(tree)
    server(image=EVIL)(tree)
    (failure,) = failures(tree, alone)
    assert re.search("server.image: is 'evil.example/x@.*', the release says 'registry.example/servers", failure)


@pytest.mark.parametrize("shape", ["baked", "weights"])
def test_an_image_in_a_folder_of_one_machine_is_checked_as_one_in_a_registry(tree: Path, shape: str) -> None:
    there = pointer(image=f"oci:.lockstep/image@{IMAGE}")
    wanted = overlays.checked("staging", there, image(shape=shape), load("tgi"), serve())
    check = functools.partial(edits.failures, "staging", wanted=wanted, pulled=False)
    assert check(found=lying(tree)) == []
    programs.require("kustomize")
    server(livenessProbe={"exec": {"command": ["sh"]}})(tree)
    (failure,) = check(found=lying(tree))
    assert failure.endswith("server.livenessProbe.exec: is {'command': ['sh']}, the release has none")


# What is shipped.


def test_the_digests_of_shipped_files_are_those_of_the_files() -> None:
    folder = REPOSITORY / layout.ENVIRONMENTS
    paths = [path for name in overlays.SHARED for path in (folder / name).rglob("*") if path.is_file()]
    found = {path.relative_to(folder).as_posix(): digest.of_bytes(path.read_bytes()) for path in paths}
    assert found == shipped.DIGESTS


@pytest.mark.parametrize("components", [[], ["../components/gpu"]])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", ["baked", "weights"])
@pytest.mark.parametrize("runtime", runtimes.names())
def test_what_is_known_without_a_build_builds_to_the_release(
    tree: Path, runtime: str, shape: str, kind: str, components: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = rendered("staging", runtime, shape)
    pin(tree, "staging", namespace="other", resources=[f"release/{kind}"], components=components)
    with monkeypatch.context() as context:
        context.setattr(kustomize, "PROGRAM", "no-such-program")
        assert failures(tree, wanted) == []
    read = sources.read("staging", lying(tree) | wanted)
    programs.require("kustomize")
    built = kustomize.build(read.files, layout.ENVIRONMENTS / "staging")
    assert not isinstance(built, str)
    patch = yaml.safe_load(wanted[layout.ENVIRONMENTS / "staging" / overlays.SERVER])
    assert objects.failures(built, patch, "other", f"{SERVER}@{OTHER}") == []


UNKNOWN: list[spoil.Spoil] = [
    own(namePrefix="a-"),
    own(patches=[{"target": {"kind": "Deployment", "name": "server"}, "patch": "- {op: replace, path: /spec/replicas, value: 0}"}]),
    own(patches=[{"target": {"kind": "Deployment", "name": "server"}, "patch": "- {op: replace, path: /spec/paused, value: 1}"}]),
    spoil.replace("base/deployment.yaml", "memory: 8Gi", "memory: 80Gi"),
    spoil.replace("components/gpu/kustomization.yaml", 'value: "1"', 'value: "2"'),
    component("more"),
]  # fmt: skip


@pytest.mark.parametrize("change", UNKNOWN)
def test_other_files_need_kustomize_and_say_how_to_get_it(
    tree: Path, change: spoil.Spoil, monkeypatch: pytest.MonkeyPatch
) -> None:
    own(components=["../components/gpu"])(tree)
    change(tree)
    monkeypatch.setattr(kustomize, "PROGRAM", "no-such-program")
    with pytest.raises(MachineRefused, match=r"not installed, and the files of .*staging are not .*ships; install"):
        failures(tree)


# Before kustomize starts.

REACHES: list[tuple[spoil.Spoil, str]] = [
    (write("staging/github.com/evil/x/kustomization.yaml", "resources: []\n", resources=[OWN_RELEASE, "github.com/evil/x"]), "'github.com/evil/x': name a folder"),
    (write("staging/x.git/kustomization.yaml", "resources: []\n", resources=[OWN_RELEASE, "x.git"]), "'x.git': name a folder"),
    (own(components=["git@evil.example:x/y"]), "'git@evil.example:x/y': name a folder"),
    (own(resources=[OWN_RELEASE, "https://evil.example/x.yaml"]), "'https://evil.example/x.yaml': name a folder"),
    (own(resources=[OWN_RELEASE, "/etc"]), "'/etc': name a folder"),
    (own(patches=[{"path": "https://evil.example/p.yaml"}]), "'https://evil.example/p.yaml': name a .yaml file"),
    (own(configMapGenerator=[{"name": "x", "files": ["a=https://evil.example/x"]}]), "name a file that is there"),
    (own(configMapGenerator=[{"name": "x", "files": ["../../../etc/passwd"]}]), "name a file that is there"),
    (own(configMapGenerator=[{"name": "x", "envs": ["https://evil.example/x"]}]), "name a file that is there"),
    (own(configMapGenerator=[{"name": "x", "env": "https://evil.example/x"}]), "configMapGenerator: write"),
    (own(secretGenerator=[{"name": "x", "Files": ["https://evil.example/x"]}]), "secretGenerator: write"),
    (component("more", replacements=[{"path": "https://evil.example/x"}]), "replacements: write"),
    (component("more", resources=["https://evil.example/x"]), "'https://evil.example/x': name a folder"),
    (component("more", generators=["x.yaml"]), "generators: an environment may not use it"),
    (own(resources=[OWN_RELEASE, "."]), "'.': name a folder"),
    (write("staging/a/kustomization.yaml", "resources: [../b]\n", lambda tree: write("staging/b/kustomization.yaml", "resources: [../a]\n")(tree), resources=[OWN_RELEASE, "a"]), "named a second time"),
    (component("more", components=["../gpu", "../gpu"]), "named a second time"),
    (both(*(write(f"staging/a{n}/kustomization.yaml", f"resources: [../a{n + 1}]\n") for n in range(300)), own(resources=[OWN_RELEASE, "a0"])), "keep below 100 files"),
    (write("staging/large", "x" * (1 << 20), configMapGenerator=[{"name": "x", "files": ["large"]}]), "keep below .* 1048576 bytes"),
    (spoil.link("staging/secret.yaml", "/etc/passwd"), "staging/secret.yaml: is not a regular file"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), REACHES)
def test_what_kustomize_would_fetch_or_follow_is_refused_before_it_starts(
    tree: Path, change: spoil.Spoil, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(tree)
    monkeypatch.setattr(kustomize, "PROGRAM", "no-such-program")
    found = failures(tree)
    assert any(re.search(message, failure) for failure in found), found


def test_a_build_is_bounded_and_finds_neither_programs_nor_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, told = tmp_path / "kustomize", tmp_path / "told"
    monkeypatch.setattr(kustomize, "PROGRAM", str(program))
    home = layout.ENVIRONMENTS / "staging"

    def build(script: str) -> list[dict[str, Any]] | str:
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        return kustomize.build({home / "kustomization.yaml": b"a"}, home)

    assert build(f'echo "$PATH|$HOME|$HTTPS_PROXY|$#" >{told}; echo "a: 1"; echo ---; echo "b: 2"') == [
        {"a": 1},
        {"b": 2},
    ]
    assert re.fullmatch(r"(\S*/lockstep-\S*/home)\|\1\|http://127.0.0.1:9\|2\n", told.read_text())
    assert build("echo 'Error: no' >&2; exit 1") == "kustomize build: Error: no"
    assert build("echo '- a'") == "builds to something that is not an object"
    assert str(build("echo 'a: !!x 1'")).startswith("builds to ")
    monkeypatch.setattr(kustomize, "_LARGEST", 3)
    assert build("echo aaaa") == "builds to 5 bytes: keep below 3"
    monkeypatch.setattr(kustomize, "_DEADLINE", 0.2)
    assert build("exec /bin/sleep 30") == "kustomize build takes longer than 0.2 s"


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
        ({"image": PLACEHOLDER}, "server.image: is not named: pin it in `images:`"),
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
