"""The server as a build must produce it: the shipped base with the release in it. Pure functions.

``failures`` compares a Deployment or InferenceService with it, field by field. People may change the fields in ``POD``
and in the tables of the two kinds, each within its rule. Every other field is the release's: one that is missing,
different or additional is a failure. So a field of a later Kubernetes is refused until it is listed here.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from release.overlay.allowed import Rule, anything, between, keys, kind, one_of, rolls, shown
from release.overlay.overlays import ARCHITECTURE, CONTAINER, GPU, LABEL, VERSION

KSERVE_CONTAINER = "kserve-container"  # what KServe asks the first container to be called
SELECTED = {LABEL: CONTAINER}
_SHM = {"name": "shm", "mountPath": "/dev/shm"}  # noqa: S108 - in the pod
_HOURS = 6 * 3600  # the longest that a rollout may wait for anything
_ABSENT = object()
_KEYED = {"containers": "name", "volumes": "name", "volumeMounts": "mountPath"}  # lists without an order

_BASE_POD: dict[str, Any] = {
    "automountServiceAccountToken": False,
    "enableServiceLinks": False,
    "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
}
_BASE_CONTAINER: dict[str, Any] = {
    "securityContext": {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }
}  # fmt: skip
_PROBES = ("startupProbe", "readinessProbe", "livenessProbe")

# What people may say of a pod: where it runs and with how much, who pulls its image, how patient probes are.
POD: dict[str, Rule] = {
    **dict.fromkeys(("nodeSelector", "affinity"), kind(dict)),
    **dict.fromkeys(("tolerations", "topologySpreadConstraints", "imagePullSecrets", "resourceClaims"), kind(list)),
    **dict.fromkeys(("priorityClassName", "runtimeClassName", "schedulerName"), kind(str)),
    "securityContext.fsGroup": kind(int),
    "securityContext.fsGroupChangePolicy": kind(str),
    "securityContext.supplementalGroups": kind(list),
    "securityContext.runAsNonRoot": one_of(True),
}
CONTAINER_RULES: dict[str, Rule] = {"resources": kind(dict), "imagePullPolicy": one_of("IfNotPresent", "Always")}
PATIENCE: dict[str, Rule] = {
    "initialDelaySeconds": between(0, _HOURS),
    "periodSeconds": between(1, 3600),
    "timeoutSeconds": between(1, 3600),
    "failureThreshold": between(1, _HOURS),
    "successThreshold": between(1, 10),
}


def failures(item: Mapping[str, Any], patch: Mapping[str, Any], image: str | None) -> Iterator[str]:
    """How a Deployment or InferenceService differs from the release in ``patch`` (release/deployment/server.yaml).

    ``image`` is the server image that the environment names for weights alone.
    """
    wanted, free = (_deployment if item.get("kind") == "Deployment" else _inference_service)(patch, image)
    yield from differences(wanted, item, "", free)
    yield from _waits(item)


def labels(item: Mapping[str, Any]) -> Mapping[str, Any]:
    """The labels of its pods, by which Services select them."""
    path = ("predictor",) if item.get("kind") == "InferenceService" else ("template", "metadata")
    found: Any = item.get("spec")
    for key in (*path, "labels"):
        found = found.get(key) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}


def _deployment(patch: Mapping[str, Any], image: str | None) -> tuple[dict[str, Any], dict[str, Rule]]:
    pod, rules = _pod(patch, image, CONTAINER)
    labels, annotations = _labels(patch), patch["metadata"]["annotations"]
    wanted = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": CONTAINER, "labels": labels, "annotations": annotations},
        "spec": {
            "strategy": {},
            "selector": {"matchLabels": dict(SELECTED)},
            "template": {"metadata": {"labels": labels, "annotations": annotations}, "spec": pod},
        },
    }
    return wanted, {
        **_metadata("metadata", labels, annotations),
        "metadata.name": kind(str),
        "metadata.namespace": anything,  # ``objects`` compares it
        "spec.replicas": between(1, 1000),
        "spec.revisionHistoryLimit": between(0, 100),
        "spec.progressDeadlineSeconds": between(60, _HOURS),
        "spec.minReadySeconds": between(0, 3600),
        "spec.paused": one_of(False),
        "spec.strategy": rolls,
        "spec.selector.matchLabels": keys(SELECTED, server=True),
        **_metadata("spec.template.metadata", labels, annotations),
        **{f"spec.template.spec.{path}": rule for path, rule in rules.items()},
    }


def _inference_service(patch: Mapping[str, Any], image: str | None) -> tuple[dict[str, Any], dict[str, Rule]]:
    pod, rules = _pod(patch, image, KSERVE_CONTAINER)
    labels, annotations = _labels(patch), patch["metadata"]["annotations"]
    mode = {"serving.kserve.io/deploymentMode": "Standard"}
    (ours,) = pod["containers"]
    defaulted = [port | {"protocol": "TCP"} for port in ours["ports"]]  # as the component writes it out
    predictor = {"labels": labels, "annotations": annotations, "deploymentStrategy": {}, **pod}
    wanted = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": CONTAINER, "labels": labels, "annotations": {**annotations, **mode}},
        "spec": {"predictor": predictor},
    }
    return wanted, {
        **_metadata("metadata", labels, {**annotations, **mode}),
        "metadata.name": kind(str),
        "metadata.namespace": anything,
        "spec.predictor.labels": keys(labels, server=True),
        "spec.predictor.annotations": keys(annotations, server=True),
        "spec.predictor.minReplicas": between(1, 1000),
        "spec.predictor.maxReplicas": between(1, 1000),
        "spec.predictor.scaleTarget": between(1, 1 << 30),
        "spec.predictor.scaleMetric": kind(str),
        "spec.predictor.deploymentStrategy": rolls,
        f"spec.predictor.containers.{KSERVE_CONTAINER}.ports": one_of(ours["ports"], defaulted),
        **{f"spec.predictor.{path}": rule for path, rule in rules.items()},
    }


def _labels(patch: Mapping[str, Any]) -> dict[str, str]:
    """The labels that people may not change: the selected one, and the release's version."""
    return {**SELECTED, VERSION: patch["metadata"]["labels"][VERSION]}


def _metadata(where: str, labels: Mapping[str, str], annotations: Mapping[str, str]) -> dict[str, Rule]:
    return {f"{where}.labels": keys(labels, server=True), f"{where}.annotations": keys(annotations, server=True)}


def _pod(patch: Mapping[str, Any], image: str | None, name: str) -> tuple[dict[str, Any], dict[str, Rule]]:
    """The pod of the base with the release in it, and the fields that people may change; ``name``: of the container."""
    release = patch["spec"]["template"]["spec"]
    (ours,) = release["containers"]
    container = {
        **_BASE_CONTAINER,
        "image": image,
        **ours,
        "name": name,
        "volumeMounts": [_SHM, *ours["volumeMounts"]],
        **{probe: {"httpGet": {"port": "http", **ours[probe]["httpGet"]}} for probe in _PROBES},
    }
    volumes = [
        {**each, "emptyDir": {"medium": "Memory", **each["emptyDir"]}} if each["name"] == "shm" else each
        for each in release["volumes"]
    ]
    rules = {
        **POD,
        **({"nodeSelector": _nodes(release["nodeSelector"])} if "nodeSelector" in release else {}),
        **{f"containers.{name}.{key}": rule for key, rule in CONTAINER_RULES.items()},
        **({f"containers.{name}.resources": _gpus(ours["resources"]["limits"][GPU])} if "resources" in ours else {}),
        **{f"containers.{name}.{probe}.{key}": rule for probe in _PROBES for key, rule in PATIENCE.items()},
        **{
            f"volumes.{each['name']}.emptyDir.sizeLimit": kind(str, int)
            for each in volumes
            if "emptyDir" in each and each["name"] != "shm"
        },
    }
    security = {**_BASE_POD["securityContext"], **release.get("securityContext", {})}
    return {**release, **_BASE_POD, "securityContext": security, "volumes": volumes, "containers": [container]}, rules


def _gpus(count: str) -> Rule:
    """Any resources with this number of GPUs, which the server is told to use (``serve.shards``)."""

    def rule(value: Any) -> str | None:
        limits = value.get("limits") if isinstance(value, dict) else None
        found = limits.get(GPU) if isinstance(limits, dict) else None
        if str(found) == count:
            return None
        return f'limits.{GPU} is {shown(found)}, serve.shards is {count}: patch it to "{count}" in the environment'

    return rule


def _nodes(wanted: Mapping[str, str]) -> Rule:
    """Any selector with the architecture that the image is for (``serve.platform``)."""

    def rule(value: Any) -> str | None:
        found = value.get(ARCHITECTURE) if isinstance(value, dict) else None
        if found == wanted[ARCHITECTURE]:
            return None
        return f'{ARCHITECTURE} is {shown(found)}, but serve.platform needs "{wanted[ARCHITECTURE]}"'

    return rule


def differences(wanted: Any, found: Any, at: str, free: Mapping[str, Rule]) -> Iterator[str]:
    """Each field where ``found`` differs from ``wanted`` and that no rule in ``free`` allows."""
    if at in free and found is not _ABSENT:
        if problem := free[at](found):
            yield f"{at}: {problem}"
    elif isinstance(wanted, dict) and isinstance(found, Mapping):
        for key in dict.fromkeys((*wanted, *found)):
            below = f"{at}.{key}".lstrip(".")
            yield from differences(wanted.get(key, _ABSENT), found.get(key, _ABSENT), below, free)
    elif isinstance(wanted, list) and isinstance(found, list) and (key := _KEYED.get(at.rpartition(".")[2])):
        listed = _by(key, found)
        if listed is None:
            yield f"{at}: two entries have the same {key}, or one has none"
        else:
            yield from differences(_by(key, wanted), listed, at, free)
    elif type(wanted) is not type(found) or wanted != found:
        said = "has none" if wanted is _ABSENT else f"says {shown(wanted)}"
        yield f"{at}: is {'missing' if found is _ABSENT else shown(found)}, the release {said}"


def _by(key: str, listed: list[Any]) -> dict[str, Any] | None:
    """The entries of a list by the field that identifies them; None if one lacks it."""
    found = {each[key]: each for each in listed if isinstance(each, dict) and isinstance(each.get(key), str)}
    return found if len(found) == len(listed) else None


def _waits(item: Mapping[str, Any]) -> Iterator[str]:
    """Probes with delays so long that a rollout would never end."""
    spec = item.get("spec")
    pod = spec if isinstance(spec, dict) else {}
    for key in ("predictor",) if item.get("kind") == "InferenceService" else ("template", "spec"):
        pod = pod[key] if isinstance(pod.get(key), dict) else {}
    for container in pod["containers"] if isinstance(pod.get("containers"), list) else []:
        for probe in _PROBES:
            found = container.get(probe) if isinstance(container, dict) else None
            if not isinstance(found, dict):
                continue
            first, period, times, passes = (
                value if type(value := found.get(key, 1)) is int else 1
                for key in ("initialDelaySeconds", "periodSeconds", "failureThreshold", "successThreshold")
            )
            if first + period * max(times, passes) > _HOURS:
                yield f"{probe}: waits longer than {_HOURS} s"
