"""Compares the objects of a cluster, or of `kustomize build`, with what a promotion wrote. Pure functions.

``overlays.check`` sees neither edits of an overlay nor changes in a cluster. Everything that the release sets (image,
annotations, command, paths, user, grace period) must be present unchanged. Everything else (replicas, resources,
labels, a proxy beside the server) is up to the environment, except what gives other access to the server or bypasses
it.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from checks.records.record import problems
from checks.storage import layout, plain_yaml
from release.overlay import adapter_component, gateway, overlays
from release.overlay.fields import at, called, dicts
from release.overlay.overlays import CONTAINER, LABEL, PLACEHOLDER, PREFIX, SERVER

# The server's container in each kind of workload. KServe asks for names of its own.
_CONTAINERS = {
    "Deployment": CONTAINER,
    "InferenceService": "kserve-container",
    "LLMInferenceService": "main",
}
_PODS = {
    "InferenceService": ("spec", "predictor"),
    "LLMInferenceService": ("spec", "template"),
}
# Fields of an LLMInferenceService that are compared, or neither change the pod nor lead its requests elsewhere.
_LLM_FIELDS = (
    "model", "storageInitializer", "replicas", "rolloutStrategy", "annotations", "template",
)  # fmt: skip
_PRESET = "kserve-config-llm-template"  # KServe merges the one in the server's namespace into it.
_EMPTY_PRESETS: tuple[Mapping[str, Any], ...] = ({}, {"model": {}}, {"model": {"uri": ""}})
# Fields beside the image that decide what is served; if the release does not set one, the image decides.
_DECIDING = ("command", "args", "env", "envFrom")
_SHM = {"name": "shm", "mountPath": "/dev/shm"}  # noqa: S108 - where the base mounts it in the pod: no file of this machine
# These fields of a pod let it reach what the kustomization does not show.
_SHARED = ("hostPID", "hostIPC", "hostNetwork", "shareProcessNamespace", "workerSpec", "model")
_KEYS = ("name", "mountPath")  # Elements of two lists are the same one if such a key agrees.


def failures(
    objects: Sequence[Mapping[str, Any]], environment: str, wanted: Mapping[Path, bytes]
) -> list[str]:
    """List how ``objects`` differ from ``wanted`` (of ``overlays.render`` or ``overlays.nothing``), one line each.

    ``objects`` are plain values of one environment, possibly with unrelated objects of its namespace.
    """
    patch = plain_yaml.load(wanted[layout.ENVIRONMENTS / environment / SERVER].decode())
    if patch is None:
        carrying = [
            item for item in objects if _is_server(item) or _labels(item).get(LABEL) == CONTAINER
        ]
        running = [
            item for item in carrying if not any(_made_of(item, owner) for owner in carrying)
        ]
        return [
            f"{called(item)}: by git {environment} runs nothing in a cluster" for item in running
        ]
    marked = servers(objects)
    if len(marked) != 1:
        names = ", ".join(map(called, marked)) or "none"
        return [
            f"{environment}: there must be exactly one {' or '.join(_CONTAINERS)}, found {names}"
        ]
    workload = marked[0]
    name = called(workload)
    pod = at(workload, *_PODS.get(workload["kind"], ("spec", "template", "spec")))
    intended = dict(patch["spec"]["template"]["spec"])
    (server,) = intended.pop("containers")
    server_name = _CONTAINERS[workload["kind"]]
    named = (entry for entry in dicts(pod, "containers") if entry.get("name") == server_name)
    container = next(named, None)
    if container is None:
        return [f"{name}: has no container {server_name}"]
    annotations = patch["metadata"]["annotations"]
    return [
        f"{name}: {problem}"
        for problem in (
            *_differences(annotations, at(workload, "metadata", "annotations"), "annotations"),
            *_differences(intended, pod, "pod"),
            *_differences(
                {key: value for key, value in server.items() if key != "name"}, container, "server"
            ),
            *_image(server, container),
            *_deciding(server, container),
            *_mounts(server, container),
            *_volumes(intended, pod),
            *_probes(server, container),
            *_beside(container, pod),
            *_around(workload, objects),
            *_paused(workload, objects),
            *(
                _llm(workload, overlays.model(wanted, environment), objects)
                if workload["kind"] == "LLMInferenceService"
                else ()
            ),
        )
    ]


def adapters(wanted: Mapping[Path, bytes], environment: str) -> tuple[str, ...]:
    """Return each NAME=FOLDER that the server in ``wanted`` (of ``overlays.render`` or ``joined``) loads."""
    patch = plain_yaml.load(wanted[layout.ENVIRONMENTS / environment / SERVER].decode())
    (server,) = patch["spec"]["template"]["spec"]["containers"]
    return adapter_component.loaded(server)


def servers(objects: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the workloads that are a server, but for those made of another one."""
    marked = [item for item in objects if _is_server(item)]
    return [item for item in marked if not any(_made_of(item, owner) for owner in marked)]


def _is_server(item: Mapping[str, Any]) -> bool:
    """Return whether an object is the server, by annotations or by the base's label: removing one hides nothing."""
    if item.get("kind") not in _CONTAINERS:
        return False
    annotations, labels = at(item, "metadata", "annotations"), at(item, "metadata", "labels")
    return any(str(key).startswith(PREFIX) for key in annotations) or labels.get(LABEL) == CONTAINER


def _image(server: Mapping[str, Any], container: Mapping[str, Any]) -> Iterator[str]:
    """Check that the server image of weights alone is named, by a digest."""
    image = str(container.get("image"))
    if "image" in server:
        return  # compared already
    if image.startswith(PLACEHOLDER):
        yield "server.image: is not named: write it as `server` in environment.yaml"
    elif "@sha256:" not in image:
        yield f"server.image: {image!r} is not pinned by digest"


def _deciding(server: Mapping[str, Any], container: Mapping[str, Any]) -> Iterator[str]:
    """Check that command, arguments and variables are those of the release."""
    for key in _DECIDING:
        here = container.get(key)
        if key == "env" and "env" in server:
            known = {variable["name"] for variable in server["env"]}
            here = [
                variable
                for variable in here or []
                if not isinstance(variable, dict) or variable.get("name") not in known
            ]
        elif key in server:
            if here != server[key]:
                yield f"server.{key}: is {here!r}"
            continue
        if here:
            yield f"server.{key}: the release sets none of {here!r}"


def _mounts(server: Mapping[str, Any], container: Mapping[str, Any]) -> Iterator[str]:
    """Check that nothing else is mounted in the server, over its weights or its code."""
    ours = [_SHM, *server["volumeMounts"]]
    for mount in dicts(container, "volumeMounts"):
        # Values that are Kubernetes' defaults state nothing.
        stated = {
            key: value for key, value in mount.items() if value not in (False, "Disabled", "None")
        }
        if stated not in ours:
            yield f"server.volumeMounts: {mount.get('mountPath')}: the release does not mount it so"
    if container.get("volumeDevices"):
        yield "server.volumeDevices: the release has none"


def _volumes(intended: Mapping[str, Any], pod: Mapping[str, Any]) -> Iterator[str]:
    wanted = {volume["name"]: volume for volume in intended["volumes"]}
    for volume in dicts(pod, "volumes"):
        if "hostPath" in volume:
            yield f"pod.volumes.{volume.get('name')}: is of the node"
        elif (ours := wanted.get(str(volume.get("name")))) and volume.keys() != ours.keys():
            yield f"pod.volumes.{volume['name']}: is more than the release says"


def _probes(server: Mapping[str, Any], container: Mapping[str, Any]) -> Iterator[str]:
    """Check the commands that run in the server beside its own, its ports, and the probes that decide about it."""
    if container.get("lifecycle") != server["lifecycle"]:
        yield f"server.lifecycle: is {container.get('lifecycle')!r}"
    for key in ("workingDir", "terminationMessagePath"):
        if container.get(key) not in (None, "/dev/termination-log"):
            yield f"server.{key}: is {container[key]!r}"
    for key in ("startupProbe", "readinessProbe", "livenessProbe"):
        probe = at(container, key)
        here = {
            name: value
            for name, value in at(probe, "httpGet").items()
            if (name, value) != ("scheme", "HTTP")
        }
        if (
            here != server[key]["httpGet"] | {"port": "http"}
            or {"exec", "grpc", "tcpSocket"} & probe.keys()
        ):
            yield f"server.{key}: differs from the release"
    if [
        port
        for port in dicts(container, "ports")
        if port.get("name") == "http" and "hostPort" not in port
    ] != [
        port
        for port in dicts(container, "ports")
        if port.get("containerPort") == server["ports"][0]["containerPort"]
    ]:
        yield "server.ports: http is another port"


def _beside(container: Mapping[str, Any], pod: Mapping[str, Any]) -> Iterator[str]:
    """Check that a container beside the server shares only the network, and does not answer in its place."""
    yield from (f"pod.{key}: is {pod[key]!r}" for key in _SHARED if pod.get(key))
    rooms = {mount.get("name") for mount in dicts(container, "volumeMounts")}
    listed = [
        other
        for key in ("containers", "initContainers", "ephemeralContainers")
        for other in dicts(pod, key)
    ]
    for other in listed:
        security = at(other, "securityContext")
        if security.get("privileged") or at(security, "capabilities").get("add"):
            yield f"container {other.get('name')}: has more rights than a container has"
        if other is container:
            continue
        if rooms & {mount.get("name") for mount in dicts(other, "volumeMounts")}:
            yield f"container {other.get('name')}: mounts a volume of the server"
        if any(port.get("name") == "http" for port in dicts(other, "ports")):
            yield f"container {other.get('name')}: has the server's port, http"


def _around(server: Mapping[str, Any], objects: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Find objects that send the server's requests elsewhere, as far as they are among ``objects``."""
    yield from (
        f"spec.{key}: redirects the server's requests"
        for key in ("transformer", "explainer")
        if at(server, "spec", key)
    )
    labels = _labels(server)
    services = [item for item in objects if item.get("kind") == "Service"]
    # KServe makes these Services, which select by a label of its own.
    made = [item for item in services if _made_of(item, server)]
    selecting = [item for item in services if _selects(item, labels)]
    for item in services:
        if item in made:
            continue
        if item not in selecting:
            metadata = at(item, "metadata")
            if CONTAINER in (at(metadata, "labels").get(LABEL), metadata.get("name")):
                yield f"{called(item)}: does not select the server"
        elif "externalName" in at(item, "spec") or any(
            port.get("targetPort") != "http" for port in dicts(at(item, "spec"), "ports")
        ):
            yield f"{called(item)}: leads elsewhere than to the server's port, http"
        elif at(item, "metadata").get("name") == gateway.NAME:
            yield f"{called(item)}: leads past the gateway, where no API key is asked for"
    for item in objects:
        if item.get("kind") in ("Endpoints", "EndpointSlice"):
            yield f"{called(item)}: is written by nobody: a Service finds the server by its label"
    ours = family(server, objects)
    others = [item for item in objects if not any(item is member for member in ours)]
    labelled = [
        item
        for item in others
        if _labels(item).get(LABEL) == CONTAINER
        or any(_selects(service, _labels(item)) for service in (*selecting, *made))
    ]
    yield from (
        f"{called(item)}: has the labels by which the server is found"
        for item in labelled
        if not any(_made_of(item, owner) for owner in labelled)  # Pods of what is reported already.
    )


def _llm(
    server: Mapping[str, Any], model: Mapping[str, Any], objects: Sequence[Mapping[str, Any]]
) -> Iterator[str]:
    """Check what an LLMInferenceService has beside its pod, and that no preset of KServe changes the pod."""
    spec = at(server, "spec")
    yield from _differences(model, spec.get("model"), "spec.model")
    more = sorted({key for key, value in at(spec, "model").items() if value} - model.keys())
    presets = [item for item in objects if item.get("kind") == "LLMInferenceServiceConfig"]
    names = [at(item, "metadata").get("name") for item in presets]
    initializer = spec.get("storageInitializer")
    yield from problems(
        (more, f"spec.model: the release sets no {', '.join(more)}"),
        (initializer != {"enabled": False}, f"spec.storageInitializer: is {initializer!r}"),
        *(
            (value and key not in _LLM_FIELDS, f"spec.{key}: the release sets none")
            for key, value in spec.items()
        ),
        (
            _PRESET not in names,
            f"LLMInferenceServiceConfig {_PRESET}: is missing: KServe adds its own to the pod",
        ),
        *(
            (
                at(item, "spec") not in _EMPTY_PRESETS,
                f"{called(item)}: must be empty: KServe adds it to the pod",
            )
            for item in presets
        ),
    )


def _paused(server: Mapping[str, Any], objects: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Find paused Deployments, which match git although their pods still run the earlier release."""
    for item in family(server, objects):
        if item.get("kind") == "Deployment" and at(item, "spec").get("paused"):
            yield f"{'' if item is server else f'{called(item)} '}is paused: its pods follow no move"


def _labels(item: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the labels of the pods that an object creates, or of the pod itself."""
    if item.get("kind") == "InferenceService":
        return {**at(item, "metadata", "labels"), **at(item, "spec", "predictor", "labels")}
    if item.get("kind") == "LLMInferenceService":
        # KServe gives pods the object's own name as this label.
        return {LABEL: at(item, "metadata").get("name"), **at(item, "spec", "labels")}
    if item.get("kind") == "Pod":
        return at(item, "metadata", "labels")
    spec = at(item, "spec")
    return at(at(spec, "jobTemplate", "spec") or spec, "template", "metadata", "labels")


def _selects(service: Mapping[str, Any], labels: Mapping[str, Any]) -> bool:
    selector = at(service, "spec", "selector")
    return bool(selector) and selector.items() <= labels.items()


def family(
    server: Mapping[str, Any], objects: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """Return the server and everything that the cluster created from it, directly or not, down to its pods."""
    ours, pending = [server], [server]
    while pending:
        owner = pending.pop()
        more = [
            item
            for item in objects
            if _made_of(item, owner) and not any(item is member for member in ours)
        ]
        ours += more
        pending += more
    return ours


def _made_of(item: Mapping[str, Any], owner: Mapping[str, Any]) -> bool:
    """Return whether the cluster made an object of ``owner``, as KServe makes a Deployment of an InferenceService.

    A Rollout without a pod of its own counts as made of the Deployment that it names, since it runs that pod.
    """
    if (
        item.get("kind") == "Rollout"
        and owner.get("kind") == "Deployment"
        and "template" not in at(item, "spec")
    ):
        workload = at(item, "spec", "workloadRef")
        return (workload.get("kind"), workload.get("name")) == (
            "Deployment",
            at(owner, "metadata").get("name"),
        )
    uid = at(owner, "metadata").get("uid")
    owners = dicts(at(item, "metadata"), "ownerReferences")
    return uid is not None and any(
        reference.get("uid") == uid and reference.get("controller") is True for reference in owners
    )


def _differences(wanted: Any, present: Any, field: str) -> Iterator[str]:
    """List where ``present`` lacks or changes a value of ``wanted``; additional values are ignored."""
    if isinstance(wanted, dict):
        here = present if isinstance(present, Mapping) else {}
        for key, value in wanted.items():
            yield from _differences(value, here.get(key), f"{field}.{key}")
    elif isinstance(wanted, list) and wanted and isinstance(wanted[0], dict):
        listed = (
            [entry for entry in present if isinstance(entry, dict)]
            if isinstance(present, list)
            else []
        )
        for value in wanted:
            key = next(name for name in reversed(_KEYS) if name in value)
            same = [entry for entry in listed if entry.get(key) == value[key]]
            if len(same) == 1:
                yield from _differences(value, same[0], f"{field}.{value[key]}")
            else:
                yield f"{field}.{value[key]}: is there {len(same)} times"
    elif wanted != present:
        yield f"{field}: is {present!r}, the release says {wanted!r}"
