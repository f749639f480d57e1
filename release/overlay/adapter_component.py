"""The component that adds the adapter of one environment to the server of another. Pure functions.

An environment of the variant ``adapter`` has no server. The environment that lists its project in ``adapters`` of
environment.yaml builds its folder as a component of kustomize: the image of the adapter becomes a volume, and its name
goes behind ``--lora-modules``, the last argument of that server. So a move of the adapter changes only files of its own
project, and replaces the pods of the server. KServe's ``spec.model.lora.adapters`` takes no image by digest, so its
kinds get volume and argument in their pod, too.
"""

import json
import posixpath
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from checks.storage import layout, plain_yaml
from release.adapters.registry.reference import Reference

HEADER = "# Written by `lockstep promote`: edits are refused, and overwritten by the next move.\n"
# Behind the name of an adapter: the one that is to follow it, on the same server.
CANARY = "-canary"
MODULES = "--lora-modules"  # vLLM reads each argument behind it as NAME=FOLDER.
# The pod of the server in each kind of workload. kustomize ignores a patch whose target is missing.
_PODS = {
    "Deployment": "/spec/template/spec",
    "InferenceService": "/spec/predictor",
    "LLMInferenceService": "/spec/template",
}
COMPONENT = {"apiVersion": "kustomize.config.k8s.io/v1alpha1", "kind": "Component"}
NO_COMPONENT = (HEADER + plain_yaml.dump({**COMPONENT, "resources": []})).encode()


def names(name: str, path: str, canary: str = "") -> dict[str, str]:
    """Return the folder in the server by each name that requests have: the release's, and the one that it moves.

    ``name``: serve.name; ``path``: of the model in its image, which ends in the first digits of its digest. ``canary``:
    ``CANARY`` for the adapter that is to follow another one, which has that name alone.
    """
    folder = f"{_mount(name + canary)}{path}/{layout.SHIPPED_ADAPTER}"
    return {name + canary: folder} if canary else {posixpath.basename(path): folder, name: folder}


def volume(path: str, canary: str = "") -> str:
    """Return the name of the volume, which may have fewer characters than that of a model."""
    return f"adapter{canary}-{path.rpartition('-')[2]}"


def component(name: str, path: str, image: Reference, canary: str = "") -> bytes:
    """Return the component that adds the adapter ``name`` in ``image``, in which its model is at ``path``."""
    patches = [
        {
            "target": {"kind": kind, "name": "server"},
            "patch": json.dumps(_added(pod, name, path, image, canary)),
        }
        for kind, pod in _PODS.items()
    ]
    return (HEADER + plain_yaml.dump({**COMPONENT, "patches": patches})).encode()


def _added(pod: str, name: str, path: str, image: Reference, canary: str) -> list[dict[str, Any]]:
    of_image = {"reference": str(image), "pullPolicy": "IfNotPresent"}
    volume_name, folders = volume(path, canary), names(name, path, canary)
    mount = {"name": volume_name, "mountPath": _mount(name + canary), "readOnly": True}
    container = f"{pod}/containers/0"
    added: list[tuple[str, Any]] = [
        (f"{pod}/volumes/-", {"name": volume_name, "image": of_image}),
        (f"{container}/volumeMounts/-", mount),
        *((f"{container}/args/-", f"{key}={folder}") for key, folder in folders.items()),
    ]
    return [{"op": "add", "path": place, "value": value} for place, value in added]


def joined(patch: Mapping[str, Any], components: Iterable[bytes]) -> dict[str, Any]:
    """Return a release's patch of the Deployment with what ``components`` (of ``component``) add to the server."""
    whole: dict[str, Any] = json.loads(json.dumps(patch))
    for data in components:
        for written in plain_yaml.load(data.decode()).get("patches", ())[
            :1
        ]:  # The Deployment's comes first.
            for operation in json.loads(written["patch"]):
                place: Any = whole
                for key in operation["path"].strip("/").split("/")[:-1]:
                    place = place[int(key) if isinstance(place, list) else key]
                place.append(operation["value"])
    return whole


def loaded(container: Mapping[str, Any]) -> tuple[str, ...]:
    """Return each NAME=FOLDER behind ``--lora-modules`` of a server."""
    arguments = container.get("args") or []
    return tuple(arguments[arguments.index(MODULES) + 1 :]) if MODULES in arguments else ()


def folder(project: str, environment: str) -> Path:
    """Return the folder of the environment in another project, seen from this one. ``project``: as it is listed."""
    return Path(
        posixpath.normpath(posixpath.join(project, layout.ENVIRONMENTS.as_posix(), environment))
    )


def _mount(name: str) -> str:
    return f"/adapters/{name}"
