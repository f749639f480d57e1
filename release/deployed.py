"""Whether a cluster runs what a promotion wrote: its objects, or those of `kustomize build`, held to it. Pure.

An overlay is edited by people, and a cluster by anybody; ``release.overlays.check`` sees neither. What the release says
(image, annotations, command, paths, user, grace) must come out as it was written. What it does not speak of (replicas,
resources, labels, a proxy beside the server) is the environment's own.
"""

import posixpath
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from checks import layout
from release.overlays import CONTAINER, PLACEHOLDER, PREFIX, SERVER

_LABEL = "app.kubernetes.io/name"
_KSERVE_CONTAINER = "kserve-container"  # what KServe asks the first container to be called
# What decides what is served beside the image; a release that does not speak of it leaves it to the image.
_DECIDING = ("command", "args", "env", "envFrom")
_KEYS = ("name", "mountPath")  # by which an element of a list is the same one


def gaps(objects: Sequence[Mapping[str, Any]], environment: str, wanted: Mapping[Path, bytes]) -> list[str]:
    """How ``objects`` differ from ``wanted``, what ``overlays.render`` or ``overlays.nothing`` gives; one line a gap.

    ``objects`` are plain values of one environment, with whatever else lies in its namespace.
    """
    patch = yaml.safe_load(wanted[layout.ENVIRONMENTS / environment / SERVER])
    found = [item for item in objects if _is_server(item)]
    if patch is None:
        return [f"{_called(item)}: nothing has been promoted to {environment} for a cluster" for item in found]
    if len(found) != 1:
        there = ", ".join(map(_called, found)) or "none"
        return [f"{environment}: one Deployment or InferenceService is to run the release, there is {there}"]
    where, pod = _called(found[0]), _pod(found[0])
    intended = dict(patch["spec"]["template"]["spec"])
    (server,) = intended.pop("containers")
    container = _server(pod)
    if container is None:
        return [f"{where}: has no container {CONTAINER}"]
    told = patch["metadata"]["annotations"]
    return [
        f"{where}: {problem}"
        for problem in (
            *_differences(told, _at(found[0], "metadata", "annotations"), "annotations"),
            *_differences(intended, pod, "pod"),
            *_differences({key: value for key, value in server.items() if key != "name"}, container, "server"),
            *_image(server, container),
            *_deciding(server, container),
            *_covered(server, container),
        )
    ]


def _is_server(item: Mapping[str, Any]) -> bool:
    """By its annotations, or by the label of the base: taking one of them away hides nothing."""
    if item.get("kind") not in ("Deployment", "InferenceService"):
        return False
    told, labels = _at(item, "metadata", "annotations"), _at(item, "metadata", "labels")
    return any(str(key).startswith(PREFIX) for key in told) or labels.get(_LABEL) == CONTAINER


def _pod(item: Mapping[str, Any]) -> Mapping[str, Any]:
    path = ("spec", "predictor") if item.get("kind") == "InferenceService" else ("spec", "template", "spec")
    return _at(item, *path)


def _server(pod: Mapping[str, Any]) -> Mapping[str, Any] | None:
    containers = pod.get("containers")
    names = (CONTAINER, _KSERVE_CONTAINER)
    listed = containers if isinstance(containers, list) else []
    return next((each for each in listed if isinstance(each, dict) and each.get("name") in names), None)


def _image(server: Mapping[str, Any], container: Mapping[str, Any]) -> Iterator[str]:
    """Where the release mounts weights, the environment names the server that they run in: by digest."""
    image = str(container.get("image"))
    if "image" in server:
        return  # compared already
    if image.startswith(PLACEHOLDER):
        yield f"server.image: is not named: pin it in `images:` of the environment, as {PLACEHOLDER}"
    elif "@sha256:" not in image:
        yield f"server.image: {image!r} is not pinned by digest"


def _deciding(server: Mapping[str, Any], container: Mapping[str, Any]) -> Iterator[str]:
    """Nothing but the release says what is started, and by which settings."""
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


def _covered(server: Mapping[str, Any], container: Mapping[str, Any]) -> Iterator[str]:
    """Nothing is mounted over the weights, nor below or above them."""
    ours = {each["mountPath"] for each in server["volumeMounts"]} | {"/dev/shm"}  # noqa: S108 - of the base
    for each in container.get("volumeMounts") or []:
        path = str(each.get("mountPath")) if isinstance(each, dict) else ""
        if path not in ours and posixpath.normpath(f"//{path}").lstrip("/").split("/")[0] in ("", "models"):
            yield f"server.volumeMounts: {path} is mounted over the weights"


def _differences(wanted: Any, found: Any, where: str) -> Iterator[str]:
    """Where ``found`` lacks what ``wanted`` says; more than that is no difference."""
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


def _at(item: Mapping[str, Any], *path: str) -> Mapping[str, Any]:
    """The mapping at ``path``; an empty one where there is none."""
    for key in path:
        value = item.get(key)
        if not isinstance(value, Mapping):
            return {}
        item = value
    return item


def _called(item: Mapping[str, Any]) -> str:
    return f"{item.get('kind')} {_at(item, 'metadata').get('name')}"
