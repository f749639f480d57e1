"""What people may write in an environment, and what only a promotion may: told from the files, and from what they build."""

import copy
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from checks import layout
from release import deployed, edits, overlays
from tests import kubernetes_tools
from tests.conftest import REPOSITORY
from tests.overlay_sample import IMAGE, KINDS, OTHER, SERVER, edit, image, lying, pin, pointer, promoted, put, rendered

pytestmark = pytest.mark.slow

EVIL = f"evil.example/x@{OTHER}"
KIND = {"deployment": "Deployment", "kserve": "InferenceService"}
POD = {"deployment": "/spec/template/spec", "kserve": "/spec/predictor"}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of release/environments with a release promoted to staging."""
    found = shutil.copytree(REPOSITORY / layout.ENVIRONMENTS, tmp_path / layout.ENVIRONMENTS)
    put(found, rendered())
    return found


def patched(value: dict[str, Any]) -> Callable[[Path], None]:
    """A patch of the Deployment, merged."""
    text = yaml.safe_dump({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "server"}} | value)
    return lambda tree: edit(tree, "staging", lambda found: found["patches"].append({"patch": text}))


def own(**fields: Any) -> Callable[[Path], None]:
    return lambda tree: edit(tree, "staging", lambda value: value.update(fields))


def operations(*ops: dict[str, Any], kind: str = "Deployment") -> Callable[[Path], None]:
    patch = {"target": {"kind": kind}, "patch": yaml.safe_dump(list(ops))}
    return lambda tree: edit(tree, "staging", lambda value: value["patches"].append(patch))


def merge(pod: dict[str, Any], **more: Any) -> Callable[[Path], None]:
    return patched({"metadata": {"name": "server"} | more, "spec": {"template": {"spec": pod}}})


def server(**fields: Any) -> Callable[[Path], None]:
    return merge({"containers": [{"name": "server"} | fields]})


def write(
    name: str, text: str, then: Callable[[Path], object] = lambda _: None, **fields: Any
) -> Callable[[Path], None]:
    def do(tree: Path) -> None:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text)
        own(**fields)(tree)
        then(tree)

    return do


def replace(name: str, old: str, new: str) -> Callable[[Path], None]:
    def do(tree: Path) -> None:
        text = (tree / name).read_text()
        assert old in text
        (tree / name).write_text(text.replace(old, new, 1))

    return do


def link(name: str, target: str) -> Callable[[Path], None]:
    def do(tree: Path) -> None:
        (tree / name).unlink(missing_ok=True)
        (tree / name).symlink_to(target)

    return do


def workload(kind: str) -> Callable[[Path], None]:
    """Another one beside the server, with an image that people may name."""
    template = {"metadata": {"labels": {LABEL: "server"}}, "spec": {"containers": [{"name": "x", "image": EVIL}]}}
    value = {
        "apiVersion": "apps/v1", "kind": kind, "metadata": {"name": "other"},
        "spec": {"selector": {"matchLabels": {LABEL: "server"}}, "template": template},
    }  # fmt: skip
    return write("staging/other.yaml", yaml.safe_dump(value), resources=[OWN_RELEASE, "other.yaml"])


def appended(text: str) -> Callable[[Path], None]:
    """Text after what people wrote in the environment's own file, as it lies in git."""

    def do(tree: Path) -> None:
        path = tree / "staging" / "kustomization.yaml"
        path.write_text(f"{path.read_text().rstrip()}\n{text}")

    return do


def with_named_server(change: Callable[[Path], None]) -> Callable[[Path], None]:
    """The same where people still name a server, as for weights alone; ``edits`` must not need it to be absent."""

    def do(tree: Path) -> None:
        change(tree)
        edit(tree, "staging", lambda value: value.update(images=[NAMED]))

    return do


def component(name: str, **fields: Any) -> Callable[[Path], None]:
    """One more of people's components, which the environment names."""
    text = yaml.safe_dump({"apiVersion": "kustomize.config.k8s.io/v1alpha1", "kind": "Component"} | fields)
    return write(f"components/{name}/kustomization.yaml", text, components=[f"../components/{name}"])


def sidecar(**fields: Any) -> Callable[[Path], None]:
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
OWN = layout.ENVIRONMENTS / "staging" / "kustomization.yaml"
OWN_RELEASE = "release/deployment"

# What is done, what is said of the files, what is said of the objects (None: they do not build, or nothing is wrong with them).
TAMPERS: list[tuple[Callable[[Path], None], str, str | None]] = [
    (own(images=[{"name": "registry.example/team/router", "newTag": "latest"}]), "images: only lockstep.invalid/server", "server.image: is "),
    (own(images=[{"name": "registry.example/team/router", "newName": "evil.example/x", "digest": OTHER}]), "images: only", "server.image: is "),
    (own(Images=[{"name": "registry.example/team/router", "newTag": "latest"}]), "Images: an environment may not use it", "server.image: is "),
    (own(images=[{"name": PLACEHOLDER, "digest": OTHER, "NewTag": "latest"}]), "images: only", None),
    (own(images=[{"name": PLACEHOLDER, "newTag": "v1"}]), "images: only", None),
    (own(images=[{"name": PLACEHOLDER, "newName": SERVER}]), "images: only", None),
    (server(image=EVIL), "image: 'evil.example/x@", "server.image: is "),
    (server(image="evil.example/x:latest"), "image: 'evil.example/x:latest'", "server.image: is "),
    (server(command=["sh"]), "command: what the server is started with", "server.command: the release sets none"),
    (server(args=["--model=/tmp/x"]), "args: what the server", "server.args: the release sets none"),
    (server(env=[{"name": "MODEL_ID", "value": "/tmp/x"}]), "env: what the server", "server.env: the release sets none"),
    (server(envFrom=[{"configMapRef": {"name": "x"}}]), "envFrom: what the server", "server.envFrom: the release sets none"),
    (server(volumeMounts=[{"name": "tmp", "mountPath": "/models"}]), "volumeMounts: tmp: the release alone", "server.volumeMounts: /models: the release does not"),
    (server(volumeMounts=[{"name": "tmp", "mountPath": "/tmp/../models/x"}]), "volumeMounts: tmp: the release alone", "server.volumeMounts: .*models.*: the release does not"),
    (server(volumeMounts=[{"name": "tmp", "mountPath": "//models/"}]), "volumeMounts: tmp: the release alone", "server.volumeMounts: .*models.*: the release does not"),
    (merge({"containers": [{"name": "server", "$patch": "delete"}, {"name": "other", "image": EVIL}]}), r"\$patch: replaces", "has no container server"),
    (merge({"volumes": [{"name": "weights", "persistentVolumeClaim": {"claimName": "x"}}]}), "name: weights: the release brings", None),
    (merge({"containers": [{"name": "proxy", "image": "proxy:latest"}]}), "image: 'proxy:latest'", None),
    (merge({}, annotations={"lockstep/version": "v9.9.9"}), "lockstep/version: only a promotion", "annotations.lockstep/version: is 'v9.9.9'"),
    (merge({}, annotations=None), "annotations: replaces or removes", "annotations.lockstep/model: is None"),
    (operations({"op": "replace", "path": f"{CONTAINERS}/0/image", "value": EVIL}), "replace .*/image: is of what", "server.image: is "),
    (operations({"op": "replace", "path": f"{CONTAINERS}/0", "value": {"name": "x", "image": EVIL}}), "replace .*/0: is of", "has no container server"),
    (operations({"op": "replace", "path": f"{CONTAINERS}/-1", "value": {"name": "x", "image": EVIL}}), "replace .*/-1: is of", None),
    (operations({"op": "replace", "path": CONTAINERS, "value": [{"name": "server", "image": EVIL}]}), "replace .*containers: is of", "server.image: is "),
    (operations({"op": "add", "path": f"{CONTAINERS}/0", "value": {"name": "x", "image": EVIL}}), "add .*/0: is of", None),
    (operations({"op": "add", "path": f"{CONTAINERS}/-", "value": {"name": "server", "image": EVIL}}), "image: 'evil", None),
    (operations({"op": "add", "path": f"{CONTAINERS}/0/command", "value": ["sh"]}), "add .*/command: is of", "server.command"),
    (operations({"op": "copy", "from": "/metadata/labels", "path": "/spec/x"}), "copy /spec/x: is of", None),
    (operations({"op": "replace", "path": "/metadata/annotations/lockstep~1version", "value": "v9.9.9"}), "lockstep~1version: is of", "lockstep/version: is 'v9.9.9'"),
    (operations({"op": "remove", "path": "/metadata/annotations"}), "remove /metadata/annotations: is of", "annotations.lockstep/model: is None"),
    (operations({"op": "remove", "path": "/spec/template/spec/containers/0/volumeMounts/1/mountPath"}), "mountPath: is of", "volumeMounts./usr/src/out: is there 0 times"),
    (own(commonAnnotations={"lockstep/version": "v9.9.9"}), "lockstep/version: only a promotion", "lockstep/version: is 'v9.9.9'"),
    (own(resources=["https://evil.example/base"]), "'https://evil.example/base': name a folder", None),
    (own(resources=["github.com/evil/x?ref=main"]), "'github.com/evil/x\\?ref=main': name a folder", None),
    (own(resources=["../production/release/deployment"]), "resources: name one of", None),
    (own(resources=["../production"]), "'../production': name a folder", None),
    (own(resources=["release/deployment", "release/kserve"]), "resources: name one of", None),
    (own(resources=["../base"]), "resources: name one of", "annotations.lockstep/model: is None"),
    (own(resources=[]), "resources: name one of", "staging: one Deployment or InferenceService is to run the release, there is none"),
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
    (write("staging/p.yaml", yaml.safe_dump([{"op": "replace", "path": f"{CONTAINERS}/0/image", "value": EVIL}]), patches=[{"path": "p.yaml", "target": {"kind": "Deployment"}}]), "p.yaml: replace .*image: is of", "server.image: is "),
    (replace("base/deployment.yaml", "image: lockstep.invalid/server", "image: evil.example/x"), "base/deployment.yaml: image: 'evil.example/x'", None),
    (replace("base/deployment.yaml", "- name: server", "- name: server\n          command: [sh]"), "base/deployment.yaml: command: what", "server.command"),
    (replace("components/gpu/kustomization.yaml", "op: add", "op: move"), "gpu/kustomization.yaml: move ", None),
    (link("staging/kustomization.yaml", "../production/kustomization.yaml"), "staging/kustomization.yaml: is not a regular file", None),
    (link("staging/extra", "../production"), "staging/extra: is not a regular file", None),
    (lambda tree: (tree / "staging" / "kustomization.yaml").unlink(), "staging/kustomization.yaml: is missing", None),
    (lambda tree: put(tree, {OWN: b"\xff"}), "kustomization.yaml: is not one plain YAML", None),
    (lambda tree: put(tree, {OWN: b"[]"}), "kustomization.yaml: is no mapping", None),
    # Files that are read whatever they are called.
    (write("staging/swap", SWAP, patches=[{"path": "swap"}]), "'swap': name a .yaml file", "server.image: is "),
    (write("staging/.yaml", SWAP, patches=[{"path": ".yaml"}]), "'.yaml': name a .yaml file", "server.image: is "),
    (write("staging/a.YAML", SWAP, patches=[{"path": "a.YAML"}]), "'a.YAML': name a .yaml file", "server.image: is "),
    (write("staging/Kustomization", SWAP, patches=[{"path": "Kustomization"}]), "'Kustomization': name a .yaml file", None),
    (write("staging/more", SWAP.replace("name: server", "name: other"), resources=[OWN_RELEASE, "more"]), "'more': name a folder with a kustomization", None),
    (write("components/more", "patches: []", components=["../components/more"]), "'../components/more': name a folder", None),
    (own(resources=[OWN_RELEASE, "gone"]), "'gone': name a folder", None),
    (own(resources=[OWN_RELEASE, "gone.yaml"]), "'gone.yaml': name a folder", None),
    (write("staging/l.yaml", "kind: List\napiVersion: v1\nitems: [{apiVersion: v1, kind: ConfigMap, metadata: {name: x}}]\n", resources=[OWN_RELEASE, "l.yaml"]), "kind: List: write one object", None),
    # A second server.
    (write("staging/again/kustomization.yaml", AGAIN, resources=[OWN_RELEASE, "again"]), "'../../base': name a folder", "one Deployment or InferenceService"),
    (write("staging/again/kustomization.yaml", "namePrefix: a-\nresources: [../release/deployment]\n", resources=[OWN_RELEASE, "again"]), "'../release/deployment': name a folder", "one Deployment or InferenceService"),
    (workload("Deployment"), "other.yaml: app.kubernetes.io/name: is how the Service finds", "Deployment other: has the labels"),
    (workload("StatefulSet"), "other.yaml: app.kubernetes.io/name: is how", "StatefulSet other: has the labels"),
    (own(labels=[{"pairs": {LABEL: "server"}, "includeTemplates": True}]), "app.kubernetes.io/name: is how", None),
    (own(labels=[{"pairs": {"image": "x"}, "fields": [{"path": "spec/template/spec/containers", "kind": "Deployment", "create": True}]}]), "labels: write includeSelectors, includeTemplates, pairs", None),
    # The Service.
    (operations({"op": "replace", "path": "/spec/ports/0/targetPort", "value": 9}, kind="Service"), "targetPort: is of", "Service server: leads elsewhere"),
    (operations({"op": "replace", "path": "/spec/ports", "value": [{"port": 80}]}, kind="Service"), "/spec/ports: is of", "Service server: leads elsewhere"),
    (operations({"op": "replace", "path": "/spec/selector", "value": {"app": "x"}}, kind="Service"), "/spec/selector: is of", "Service server: does not select"),
    (operations({"op": "add", "path": "/spec/externalName", "value": "evil.example"}, kind="Service"), "externalName: is of", "Service server: leads elsewhere"),
    (operations({"op": "replace", "path": "x/spec/ports/0", "value": {"port": 80}}, kind="Service"), "x/spec/ports/0: is of", "Service server: leads elsewhere"),
    (write("staging/s.yaml", yaml.safe_dump(ELSEWHERE), resources=[OWN_RELEASE, "s.yaml"]), "s.yaml: kind: Service", "Service more: leads elsewhere"),
    (write("staging/s.yaml", yaml.safe_dump(SLICE), resources=[OWN_RELEASE, "s.yaml"]), "s.yaml: kind: EndpointSlice", "EndpointSlice x: is written by nobody"),
    (replace("base/service.yaml", "targetPort: http", "targetPort: 9"), "base/service.yaml: targetPort: 9", "Service server: leads elsewhere"),
    (replace("base/service.yaml", "    app.kubernetes.io/name: server\n  ports", "    app: x\n  ports"), "base/service.yaml: selector: is of", "Service server: does not select"),
    (sidecar(ports=[{"name": "http", "containerPort": 9}]), "ports: http is the server's", "container proxy: has the server's port"),
    # What runs in the server, or answers for it.
    (server(lifecycle={"postStart": {"exec": {"command": ["x"]}}}), "lifecycle: what", "server.lifecycle: is "),
    (operations({"op": "add", "path": f"{CONTAINERS}/0/lifecycle/postStart", "value": {"exec": {"command": ["x"]}}}), "postStart: is of", "server.lifecycle: is "),
    (server(livenessProbe={"exec": {"command": ["x"]}}), "livenessProbe: what the server is asked", "server.livenessProbe: asks"),
    (server(readinessProbe={"httpGet": {"port": 9}}), "readinessProbe: what the server is asked", "server.readinessProbe: asks"),
    (server(workingDir="/tmp/x"), "workingDir: what", "server.workingDir: is '/tmp/x'"),
    (server(ports=[{"containerPort": 8080, "name": "x"}]), "ports: what", "server.ports: http is another"),
    (operations({"op": "replace", "path": f"{CONTAINERS}/0/name", "value": "x"}), "0/name: is of", "has no container server"),
    (merge({"volumes": [{"name": "evil", "configMap": {"name": "evil"}}], "containers": [{"name": "server", "volumeMounts": [{"name": "evil", "mountPath": CODE, "subPath": "x"}]}]}), "volumeMounts: evil: the release alone", "sitecustomize.py: the release does not"),
    (operations({"op": "add", "path": f"{CONTAINERS}/0/volumeMounts/-", "value": {"name": "tmp", "mountPath": CODE}}), "volumeMounts/-: is of", "sitecustomize.py: the release does not"),
    (merge({"volumes": [{"name": "tmp", "configMap": {"name": "evil"}}]}), "volumes: tmp: is a volume of the server", "pod.volumes.tmp: is more"),
    (operations({"op": "add", "path": "/spec/template/spec/volumes/0/configMap", "value": {"name": "evil"}}), "configMap: is of", "pod.volumes.*: is more"),
    # From beside it.
    (sidecar(volumeMounts=[{"name": "tmp", "mountPath": "/x"}]), "volumeMounts: tmp: is a volume of the server", "container proxy: mounts a volume"),
    (merge({"initContainers": [{"name": "first", "image": EVIL, "volumeMounts": [{"name": "tmp", "mountPath": "/x"}]}]}), "volumeMounts: tmp: is a volume", "container first: mounts a volume"),
    (sidecar(securityContext={"privileged": True}), "privileged: leads into", "container proxy: has more rights"),
    (sidecar(securityContext={"capabilities": {"add": ["NET_ADMIN"]}}), "add: leads into", "container proxy: has more rights"),
    *((merge({key: True}), f"{key}: leads into", f"pod.{key}: is True") for key in ("shareProcessNamespace", "hostPID", "hostNetwork", "hostIPC")),
    (operations({"op": "add", "path": "/spec/template/spec/hostPID", "value": True}), "hostPID: is of", "pod.hostPID: is True"),
    (merge({"volumes": [{"name": "x", "hostPath": {"path": "/"}}]}), "hostPath: leads into", "pod.volumes.x: is of the node"),
    (merge({"ephemeralContainers": [{"name": "x", "image": EVIL}]}), "ephemeralContainers: leads into", None),
    # The base's image again, in place of the release's, and another for it.
    (server(image=PLACEHOLDER), "image: 'lockstep.invalid/server': the release brings", "server.image: is 'lockstep.invalid/server'"),
    (with_named_server(server(image=PLACEHOLDER)), "image: 'lockstep.invalid/server': the release brings", "server.image: is 'evil.example/x@"),
    (with_named_server(server(image=f"{PLACEHOLDER}:v1")), "image: 'lockstep.invalid/server:v1'", "server.image: is 'evil.example/x@"),
    (with_named_server(server(image=f"{PLACEHOLDER}@{IMAGE}")), "image: 'lockstep.invalid/server@sha256:b", "server.image: is 'evil.example/x@"),
    (with_named_server(server(image="lockstep-invalid/server")), "image: 'lockstep-invalid/server'", "server.image: is 'evil.example/x@"),
    (with_named_server(operations({"op": "replace", "path": f"{CONTAINERS}/0/image", "value": PLACEHOLDER})), "replace .*/image: is of what", "server.image: is 'evil.example/x@"),
    (with_named_server(operations({"op": "replace", "path": f"{CONTAINERS}/0/im~0age", "value": PLACEHOLDER}, {"op": "test", "path": f"{CONTAINERS}/0/image", "value": "x"})), "test .*/image: is of what", None),
    (with_named_server(operations({"op": "add", "path": f"{CONTAINERS}/-", "value": {"name": "kserve-container", "image": PLACEHOLDER}})), "image: 'lockstep.invalid/server'", None),
    (with_named_server(write("staging/p.yaml", SWAP.replace(EVIL, PLACEHOLDER), patches=[{"path": "p.yaml"}])), "p.yaml: image: 'lockstep.invalid/server'", "server.image: is 'evil.example/x@"),
    (with_named_server(component("more", patches=[{"patch": SWAP.replace(EVIL, PLACEHOLDER)}])), "more/kustomization.yaml: image: 'lockstep.invalid/server'", "server.image: is 'evil.example/x@"),
    (with_named_server(component("more", replacements=[{"source": {"kind": "Deployment", "fieldPath": "metadata.name"}, "targets": [{"select": {"kind": "Deployment"}, "fieldPaths": [CONTAINERS[1:].replace("/", ".") + ".0.image"]}]}])), "replacements: an environment may not use it", "server.image: is 'server'"),
    (with_named_server(sidecar(image=f"{PLACEHOLDER}@{IMAGE}")), "image: 'lockstep.invalid/server@sha256:b", None),
    (with_named_server(replace("base/deployment.yaml", "- name: server", f"- name: first\n          image: {PLACEHOLDER}\n        - name: server")), "base/deployment.yaml: image: 'lockstep.invalid/server'", None),
    (with_named_server(replace("base/deployment.yaml", "containers:", f"initContainers: [{{name: server, image: {PLACEHOLDER}}}]\n      containers:")), "base/deployment.yaml: image: 'lockstep.invalid/server'", None),
    (replace("base/deployment.yaml", "apiVersion: apps/v1", "apiVersion: other.example/v1"), "base/deployment.yaml: image: 'lockstep.invalid/server'", None),
    (replace("base/deployment.yaml", "apiVersion: apps/v1\nkind: Deployment", "apiVersion: ''\nkind: [Deployment]"), "base/deployment.yaml: image: 'lockstep.invalid/server'", None),
    (component("more", images=[NAMED]), "more/kustomization.yaml: images: the environment's own kustomization.yaml", None),
    (replace("base/kustomization.yaml", "resources:", f"images: [{{name: {PLACEHOLDER}, newName: evil.example/x, digest: '{OTHER}'}}]\nresources:"), "base/kustomization.yaml: images: the environment's own", None),
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
    (patched({"spec": {"paused": True}}), "paused: a cluster would not follow", "is paused: its pods follow no move"),
    (operations({"op": "add", "path": "/spec/paused", "value": True}), "add /spec/paused: is of", "is paused: its pods follow no move"),
    (replace("base/deployment.yaml", "replicas: 1", "replicas: 1\n  paused: true"), "base/deployment.yaml: paused: a cluster would not", "is paused: its pods follow no move"),
    *((merge({}, annotations={key: value}), f"{key}: a cluster would not follow", None) for key, value in HOLDING),
    (own(commonAnnotations=dict([HOLDING[0]])), f"{HOLDING[0][0]}: a cluster would not", None),
    (operations({"op": "add", "path": "/metadata/annotations/" + HOLDING[0][0].replace("/", "~1"), "value": HOLDING[0][1]}), "annotations/.*: is of what", None),
    # The component that copies.
    (replace("components/kserve/copied/kustomization.yaml", "fieldPath: metadata.annotations", "fieldPath: metadata.name"), "replacements: copies", None),
    (replace("components/kserve/kustomization.yaml", "value: kserve-container", "value: other"), "0/name: is of", None),
    (replace("components/kserve/kustomization.yaml", "$patch: delete", "$patch: replace"), "replaces or removes", None),
]  # fmt: skip


@pytest.mark.parametrize(("tamper", "of_files", "of_objects"), TAMPERS)
def test_what_only_a_promotion_may_say_is_a_gap_in_the_files_and_in_what_they_build(
    tree: Path, tamper: Callable[[Path], None], of_files: str, of_objects: str | None
) -> None:
    tamper(tree)
    found = edits.gaps("staging", lying(tree), alone=False)
    assert any(re.search(of_files, gap) for gap in found), found
    assert all("\n" not in gap for gap in found)
    if of_objects is not None:
        said = deployed.gaps(kubernetes_tools.build(tree / "staging"), "staging", rendered())
        assert any(re.search(of_objects, gap) for gap in said), said


FREE: list[Callable[[Path], None]] = [
    own(namespace="other", namePrefix="a-", nameSuffix="-b"),
    own(labels=[{"pairs": {"team": "routing"}, "includeSelectors": True}]),
    own(components=["../components/gpu"]),
    own(configMapGenerator=[{"name": "mine", "literals": ["a=b"]}]),
    own(images=[{"name": PLACEHOLDER, "newName": SERVER, "digest": OTHER}]),
    write("staging/job.yaml", yaml.safe_dump({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "first", "annotations": {"argocd.argoproj.io/hook": "PreSync"}}, "spec": {}}), resources=[OWN_RELEASE, "job.yaml"]),
    patched({"spec": {"paused": False}}),
    server(resources={"limits": {"memory": "64Gi"}}),
    merge({"nodeSelector": {"pool": "gpu"}, "priorityClassName": "high", "imagePullSecrets": [{"name": "pull"}]}),
    merge({"containers": [{"name": "proxy", "image": f"proxy.example/p@{IMAGE}", "env": [{"name": "A", "value": "b"}]}]}),
    merge({"volumes": [{"name": "cache", "emptyDir": {}}], "containers": [{"name": "proxy", "image": f"proxy.example/p@{IMAGE}", "volumeMounts": [{"name": "cache", "mountPath": "/cache"}]}]}),
    merge({"volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "8Gi"}}], "initContainers": [{"name": "first", "image": f"proxy.example/p@{IMAGE}"}]}),
    write("staging/network.yaml", yaml.safe_dump({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "narrow"}, "spec": {"podSelector": {"matchLabels": {LABEL: "server"}}, "policyTypes": ["Ingress"]}}), resources=[OWN_RELEASE, "network.yaml"]),
    write("staging/more/kustomization.yaml", "configMapGenerator: [{name: more, files: [data]}]\n", resources=[OWN_RELEASE, "more"], then=lambda tree: (tree / "staging/more/data").write_text("image: any")),
    write("staging/notes", "image: evil"),
    operations({"op": "add", "path": f"{CONTAINERS}/-", "value": {"name": "proxy", "image": f"proxy.example/p@{IMAGE}"}}),
    operations({"op": "replace", "path": f"{CONTAINERS}/0/startupProbe/failureThreshold", "value": 720}),
    write("staging/policy.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata: {image: x@y}\n".replace("image", "picture"), resources=[OWN_RELEASE, "policy.yaml"]),
    replace("base/deployment.yaml", "memory: 8Gi", "memory: 80Gi"),
]  # fmt: skip


@pytest.mark.parametrize("change", FREE)
def test_what_is_the_environments_own_is_no_gap(tree: Path, change: Callable[[Path], None]) -> None:
    change(tree)
    assert edits.gaps("staging", lying(tree), alone=False) == []
    assert deployed.gaps(kubernetes_tools.build(tree / "staging"), "staging", rendered()) == []


def test_the_repositorys_own_environments_have_no_gap() -> None:
    found = lying(REPOSITORY / layout.ENVIRONMENTS)
    assert [gap for name in ("staging", "production") for gap in edits.gaps(name, found, alone=False)] == []


@pytest.mark.parametrize("kind", KINDS)
def test_lists_of_an_inference_service_are_not_replaced_unseen(tree: Path, kind: str) -> None:
    other = {"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService", "metadata": {"name": "server"}}
    value = other | {"spec": {"predictor": {"containers": [{"name": "x", "image": EVIL}]}}}
    pin(tree, "staging", resources=["release/kserve"], patches=[{"patch": yaml.safe_dump(value)}])
    assert any("predictor: replaces whole lists" in gap for gap in edits.gaps("staging", lying(tree), alone=False))
    items = kubernetes_tools.build(tree / "staging")
    assert deployed.gaps(items, "staging", rendered()) == ["InferenceService server: has no container server"]


def test_weights_that_come_alone_need_a_server_that_the_environment_names(tree: Path) -> None:
    (gap,) = edits.gaps("staging", lying(tree), alone=True)
    assert gap.endswith("name their server as lockstep.invalid/server, by digest")
    pin(tree, "staging")
    assert edits.gaps("staging", lying(tree), alone=True) == []
    put(tree, rendered(shape="weights"))
    server = _first(next(item for item in kubernetes_tools.build(tree / "staging") if item["kind"] == "Deployment"))
    assert server["image"] == f"{SERVER}@{OTHER}"
    assert overlays.alone(pointer(), image(shape="weights"))
    assert not overlays.alone(pointer(), image(shape="baked"))
    assert not overlays.alone(pointer(image=f"oci:.lockstep/image@{IMAGE}"), image(shape="weights"))


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
    (lambda item: item.update(kind="Rollout"), "there is none"),
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
    found = deployed.gaps(items, "staging", rendered())
    assert any(re.search(message, gap) for gap in found) if message else not found, found


def test_a_deployment_that_is_paused_follows_no_move_whoever_made_it() -> None:
    items = promoted("staging", "tgi", "baked", "kserve")
    (owner,) = [each for each in items if each["kind"] == "InferenceService"]
    owner["metadata"]["uid"] = "1"
    of_it = [{"uid": "1", "controller": True}]
    made = {"kind": "Deployment", "metadata": {"name": "p", "ownerReferences": of_it}, "spec": {"paused": True}}
    assert deployed.gaps([*items, made], "staging", rendered()) == [
        "InferenceService server: Deployment p is paused: its pods follow no move"
    ]
    made["spec"] = {}
    assert deployed.gaps([*items, made], "staging", rendered()) == []


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
    found = deployed.gaps(items, "staging", rendered("staging", "vllm", "weights"))
    assert any(re.search(message, gap) for gap in found), found


def test_a_server_where_nothing_was_promoted_and_a_second_one_are_gaps() -> None:
    items = promoted("staging", "tgi", "baked", "deployment")
    assert deployed.gaps(items, "staging", overlays.nothing("staging")) == [
        "Deployment server: by git staging runs nothing in a cluster"
    ]
    (item,) = [each for each in items if each["kind"] == "Deployment"]
    second = copy.deepcopy(item) | {"metadata": item["metadata"] | {"name": "second"}}
    assert deployed.gaps([*items, second], "staging", rendered()) == [
        "staging: one Deployment or InferenceService is to run the release, there is Deployment server, Deployment second"
    ]
