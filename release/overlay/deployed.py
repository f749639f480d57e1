"""Compares the objects of a cluster, or of `kustomize build`, with what a promotion wrote. Pure functions.

``overlays.check`` sees neither edits of an overlay nor changes in a cluster. Everything that the release sets (image,
annotations, command, paths, user, grace period) must be present unchanged. Everything else (replicas, resources,
labels, a proxy beside the server) is up to the environment, except what gives other access to the server or bypasses
it.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from checks import layout, plain_yaml
from release.overlay import gateway
from release.overlay.fields import at as _at
from release.overlay.fields import called as _called
from release.overlay.fields import dicts as _dicts
from release.overlay.overlays import CONTAINER, LABEL, PLACEHOLDER, PREFIX, SERVER

_KSERVE_CONTAINER = "kserve-container"  # what KServe asks the first container to be called
# Fields beside the image that decide what is served; if the release does not set one, the image decides.
_DECIDING = ("command", "args", "env", "envFrom")
_SHM = {"name": "shm", "mountPath": "/dev/shm"}  # noqa: S108 - where the base mounts it in the pod: no file of this machine
_SHARED = ("hostPID", "hostIPC", "hostNetwork", "shareProcessNamespace", "workerSpec", "model")  # of a pod
_KEYS = ("name", "mountPath")  # by which an element of a list is the same one


def failures(objects: Sequence[Mapping[str, Any]], environment: str, wanted: Mapping[Path, bytes]) -> list[str]:
    """How ``objects`` differ from ``wanted`` (of ``overlays.render`` or ``overlays.nothing``), one line each.

    ``objects`` are plain values of one environment, possibly with unrelated objects of its namespace.
    """
    patch = plain_yaml.load(wanted[layout.ENVIRONMENTS / environment / SERVER].decode())
    found = servers(objects)
    if patch is None:
        carrying = [item for item in objects if _is_server(item) or _labels(item).get(LABEL) == CONTAINER]
        found = [item for item in carrying if not any(_made_of(item, each) for each in carrying)]
        return [f"{_called(item)}: by git {environment} runs nothing in a cluster" for item in found]
    if len(found) != 1:
        there = ", ".join(map(_called, found)) or "none"
        return [f"{environment}: there must be exactly one Deployment or InferenceService, found {there}"]
    where, pod = _called(found[0]), _pod(found[0])
    intended = dict(patch["spec"]["template"]["spec"])
    (server,) = intended.pop("containers")
    container = _server(pod)
    if container is None:
        return [f"{where}: has no container {CONTAINER}"]
    annotations = patch["metadata"]["annotations"]
    return [
        f"{where}: {problem}"
        for problem in (
            *_differences(annotations, _at(found[0], "metadata", "annotations"), "annotations"),
            *_differences(intended, pod, "pod"),
            *_differences({key: value for key, value in server.items() if key != "name"}, container, "server"),
            *_image(server, container),
            *_deciding(server, container),
            *_mounts(server, container),
            *_volumes(intended, pod),
            *_probes(server, container),
            *_beside(container, pod),
            *_around(found[0], objects),
            *_paused(found[0], objects),
        )
    ]


def servers(objects: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The Deployments and InferenceServices that are a server, without those that the cluster made of another one."""
    marked = [item for item in objects if _is_server(item)]
    return [item for item in marked if not any(_made_of(item, owner) for owner in marked)]


def _is_server(item: Mapping[str, Any]) -> bool:
    """Whether an object is the server, by annotations or by the base's label: removing one of them hides nothing."""
    if item.get("kind") not in ("Deployment", "InferenceService"):
        return False
    annotations, labels = _at(item, "metadata", "annotations"), _at(item, "metadata", "labels")
    return any(str(key).startswith(PREFIX) for key in annotations) or labels.get(LABEL) == CONTAINER


def _pod(item: Mapping[str, Any]) -> Mapping[str, Any]:
    path = ("spec", "predictor") if item.get("kind") == "InferenceService" else ("spec", "template", "spec")
    return _at(item, *path)


def _server(pod: Mapping[str, Any]) -> Mapping[str, Any] | None:
    containers = pod.get("containers")
    names = (CONTAINER, _KSERVE_CONTAINER)
    listed = containers if isinstance(containers, list) else []
    return next((each for each in listed if isinstance(each, dict) and each.get("name") in names), None)


def _image(server: Mapping[str, Any], container: Mapping[str, Any]) -> Iterator[str]:
    """For weights alone the environment names the server image, which must have a digest."""
    image = str(container.get("image"))
    if "image" in server:
        return  # compared already
    if image.startswith(PLACEHOLDER):
        yield f"server.image: is not named: pin it in `images:` of the environment, as {PLACEHOLDER}"
    elif "@sha256:" not in image:
        yield f"server.image: {image!r} is not pinned by digest"


def _deciding(server: Mapping[str, Any], container: Mapping[str, Any]) -> Iterator[str]:
    """Command, arguments and variables must be those of the release."""
    for key in _DECIDING:
        here = container.get(key)
        if key == "env" and "env" in server:
            known = {each["name"] for each in server["env"]}
            here = [each for each in here or [] if not isinstance(each, dict) or each.get("name") not in known]
        elif key in server:
            if here != server[key]:
                yield f"server.{key}: is {here!r}"
            continue
        if here:
            yield f"server.{key}: the release sets none of {here!r}"


def _mounts(server: Mapping[str, Any], container: Mapping[str, Any]) -> Iterator[str]:
    """Nothing else may be mounted in the server, over its weights or its code."""
    ours = [_SHM, *server["volumeMounts"]]
    for each in _dicts(container, "volumeMounts"):
        said = {key: value for key, value in each.items() if value not in (False, "Disabled", "None")}  # defaults
        if said not in ours:
            yield f"server.volumeMounts: {each.get('mountPath')}: the release does not mount it so"
    if container.get("volumeDevices"):
        yield "server.volumeDevices: the release has none"


def _volumes(intended: Mapping[str, Any], pod: Mapping[str, Any]) -> Iterator[str]:
    wanted = {each["name"]: each for each in intended["volumes"]}
    for each in _dicts(pod, "volumes"):
        if "hostPath" in each:
            yield f"pod.volumes.{each.get('name')}: is of the node"
        elif (ours := wanted.get(str(each.get("name")))) and each.keys() != ours.keys():
            yield f"pod.volumes.{each['name']}: is more than the release says"


def _probes(server: Mapping[str, Any], container: Mapping[str, Any]) -> Iterator[str]:
    """Commands that run in the server beside its own, its ports, and the probes that decide about it."""
    if container.get("lifecycle") != server["lifecycle"]:
        yield f"server.lifecycle: is {container.get('lifecycle')!r}"
    for key in ("workingDir", "terminationMessagePath"):
        if container.get(key) not in (None, "/dev/termination-log"):
            yield f"server.{key}: is {container[key]!r}"
    for key in ("startupProbe", "readinessProbe", "livenessProbe"):
        probe = _at(container, key)
        here = {name: value for name, value in _at(probe, "httpGet").items() if (name, value) != ("scheme", "HTTP")}
        if here != server[key]["httpGet"] | {"port": "http"} or {"exec", "grpc", "tcpSocket"} & probe.keys():
            yield f"server.{key}: differs from the release"
    if [each for each in _dicts(container, "ports") if each.get("name") == "http" and "hostPort" not in each] != [
        each for each in _dicts(container, "ports") if each.get("containerPort") == server["ports"][0]["containerPort"]
    ]:
        yield "server.ports: http is another port"


def _beside(container: Mapping[str, Any], pod: Mapping[str, Any]) -> Iterator[str]:
    """A container beside the server may share only the network, and must not answer in its place."""
    yield from (f"pod.{key}: is {pod[key]!r}" for key in _SHARED if pod.get(key))
    rooms = {each.get("name") for each in _dicts(container, "volumeMounts")}
    listed = [each for key in ("containers", "initContainers", "ephemeralContainers") for each in _dicts(pod, key)]
    for each in listed:
        security = _at(each, "securityContext")
        if security.get("privileged") or _at(security, "capabilities").get("add"):
            yield f"container {each.get('name')}: has more rights than a container has"
        if each is container:
            continue
        if rooms & {mount.get("name") for mount in _dicts(each, "volumeMounts")}:
            yield f"container {each.get('name')}: mounts a volume of the server"
        if any(port.get("name") == "http" for port in _dicts(each, "ports")):
            yield f"container {each.get('name')}: has the server's port, http"


def _around(server: Mapping[str, Any], objects: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Objects that send the server's requests elsewhere, as far as they are among ``objects``."""
    yield from (
        f"spec.{key}: redirects the server's requests"
        for key in ("transformer", "explainer")
        if _at(server, "spec", key)
    )
    labels = _labels(server)
    services = [item for item in objects if item.get("kind") == "Service"]
    made = [item for item in services if _made_of(item, server)]  # by KServe: it selects by a label of its own
    selecting = [item for item in services if _selects(item, labels)]
    for item in services:
        if item in made:
            continue
        if item not in selecting:
            metadata = _at(item, "metadata")
            if CONTAINER in (_at(metadata, "labels").get(LABEL), metadata.get("name")):
                yield f"{_called(item)}: does not select the server"
        elif "externalName" in _at(item, "spec") or any(
            port.get("targetPort") != "http" for port in _dicts(_at(item, "spec"), "ports")
        ):
            yield f"{_called(item)}: leads elsewhere than to the server's port, http"
        elif _at(item, "metadata").get("name") == gateway.NAME:
            yield f"{_called(item)}: leads past the gateway, where no API key is asked for"
    for item in objects:
        if item.get("kind") in ("Endpoints", "EndpointSlice"):
            yield f"{_called(item)}: is written by nobody: a Service finds the server by its label"
    ours = family(server, objects)
    others = [item for item in objects if not any(item is each for each in ours)]
    found = [
        item
        for item in others
        if (here := _labels(item)).get(LABEL) == CONTAINER or any(_selects(each, here) for each in (*selecting, *made))
    ]
    yield from (
        f"{_called(item)}: has the labels by which the server is found"
        for item in found
        if not any(_made_of(item, each) for each in found)  # pods of what is told already
    )


def _paused(server: Mapping[str, Any], objects: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A paused Deployment matches git, but its pods still run the earlier release."""
    for item in family(server, objects):
        if item.get("kind") == "Deployment" and _at(item, "spec").get("paused"):
            yield f"{'' if item is server else f'{_called(item)} '}is paused: its pods follow no move"


def _labels(item: Mapping[str, Any]) -> Mapping[str, Any]:
    """The labels of the pods that an object creates, or of the pod itself."""
    if item.get("kind") == "InferenceService":
        return {**_at(item, "metadata", "labels"), **_at(item, "spec", "predictor", "labels")}
    if item.get("kind") == "Pod":
        return _at(item, "metadata", "labels")
    spec = _at(item, "spec")
    return _at(_at(spec, "jobTemplate", "spec") or spec, "template", "metadata", "labels")


def _selects(service: Mapping[str, Any], labels: Mapping[str, Any]) -> bool:
    selector = _at(service, "spec", "selector")
    return bool(selector) and selector.items() <= labels.items()


def family(server: Mapping[str, Any], objects: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The server and everything that the cluster created from it, directly or not, down to its pods."""
    ours, pending = [server], [server]
    while pending:
        owner = pending.pop()
        more = [item for item in objects if _made_of(item, owner) and not any(item is each for each in ours)]
        ours += more
        pending += more
    return ours


def _made_of(item: Mapping[str, Any], owner: Mapping[str, Any]) -> bool:
    """Whether the cluster created an object from ``owner``, as KServe creates a Deployment of an InferenceService.

    A Rollout without a pod of its own counts as made of the Deployment that it names, since it runs that pod.
    """
    if item.get("kind") == "Rollout" and owner.get("kind") == "Deployment" and "template" not in _at(item, "spec"):
        workload = _at(item, "spec", "workloadRef")
        return (workload.get("kind"), workload.get("name")) == ("Deployment", _at(owner, "metadata").get("name"))
    uid = _at(owner, "metadata").get("uid")
    owners = _dicts(_at(item, "metadata"), "ownerReferences")
    return uid is not None and any(each.get("uid") == uid and each.get("controller") is True for each in owners)


def _differences(wanted: Any, found: Any, where: str) -> Iterator[str]:
    """Where ``found`` lacks or changes a value of ``wanted``; additional values are ignored."""
    if isinstance(wanted, dict):
        here = found if isinstance(found, Mapping) else {}
        for key, value in wanted.items():
            yield from _differences(value, here.get(key), f"{where}.{key}")
    elif isinstance(wanted, list) and wanted and isinstance(wanted[0], dict):
        listed = [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []
        for value in wanted:
            key = next(name for name in reversed(_KEYS) if name in value)
            same = [each for each in listed if each.get(key) == value[key]]
            if len(same) == 1:
                yield from _differences(value, same[0], f"{where}.{value[key]}")
            else:
                yield f"{where}.{value[key]}: is there {len(same)} times"
    elif wanted != found:
        yield f"{where}: is {found!r}, the release says {wanted!r}"
