"""What an object, or a part of one, may say beside a release, at whatever depth it lies."""

import functools
import re
from collections.abc import Iterator
from typing import Any

from release import overlays, runtimes
from release.edits import operations
from release.edits.operations import AROUND, DECIDING, HELD, HOOK, KSERVE_CONTAINER
from release.overlays import CONTAINER, LABEL, PLACEHOLDER, PREFIX, WEIGHTS

_SERVERS = (CONTAINER, KSERVE_CONTAINER)
_OF_THE_BASE = (
    ("Deployment", "apps/v1"), ("Service", "v1"), ("PodDisruptionBudget", "policy/v1"),
    ("NetworkPolicy", "networking.k8s.io/v1"),
)  # fmt: skip
_PINNED = re.compile(r"[^\s@]+@sha256:[0-9a-f]{64}")
_LISTS = {"containers", "initContainers", "volumes", "model"}


def is_of_the_base(value: Any) -> bool:
    """One of the objects that carry the server's label, under the name that each can have once."""
    if not isinstance(value, dict) or (value.get("kind"), value.get("apiVersion")) not in _OF_THE_BASE:
        return False
    metadata = value.get("metadata")
    return isinstance(metadata, dict) and metadata.get("name") == CONTAINER and "namespace" not in metadata


def scan(value: Any, *, copying: bool, based: bool = False, under: str = "") -> Iterator[str]:
    """Whatever, at any depth, speaks of what the release decides. ``under``: the key that holds ``value``.

    ``copying``: it is of the component that makes KServe's object; ``based``: of an object of the base.
    """
    if isinstance(value, list):
        for each in value:
            yield from scan(each, copying=copying, based=based, under=under)
    elif isinstance(value, dict):
        if isinstance(value.get("op"), str) and "path" in value:
            yield from operations.gaps(value, copying=copying)
        yield from _of_object(value, based=based)
        yield from _of_container(value)
        yield from _of_mapping(value, copying=copying, based=based, under=under)
        for key, each in value.items():
            yield from scan(each, copying=copying, based=based, under=str(key))


def _of_object(value: dict[str, Any], *, based: bool) -> Iterator[str]:
    kind, spec = value.get("kind"), value.get("spec")
    if str(kind).endswith("List"):
        yield f"kind: {kind}: write one object a file"
    elif kind in ("Endpoints", "EndpointSlice"):
        yield f"kind: {kind}: the Service finds the server by its label"
    elif kind == "Service" and isinstance(spec, dict):
        if not based and {"selector", "ports"} & spec.keys():
            yield "kind: Service: the base brings the server's; another workload's belongs to another folder"
        elif based and spec.get("selector") != {LABEL: CONTAINER}:
            yield f"selector: is of the release: {LABEL}: {CONTAINER}"


def _of_container(value: dict[str, Any]) -> Iterator[str]:
    """What a container mounts, answers and is asked."""
    ours = value.get("name") in _SERVERS
    for mount in listed(value, "volumeMounts"):
        name = mount.get("name") if isinstance(mount, dict) else None
        if ours and mount != {"name": "shm", "mountPath": "/dev/shm"}:  # noqa: S108 - of the base
            yield f"volumeMounts: {name}: the release alone mounts anything in the server"
        elif not ours and name in _rooms():
            yield f"volumeMounts: {name}: is a volume of the server"
    for port in listed(value, "ports"):
        if isinstance(port, dict) and "containerPort" in port and (port.get("name") == "http" or "hostPort" in port):
            yield "ports: http is the server's, and no container takes a port of its node"
    for key, probe in value.items():
        if ours and str(key).endswith("Probe") and isinstance(probe, dict):
            asked = {"exec", "tcpSocket", "grpc"} & probe.keys() or probe.get("httpGet", {"port": "http"})
            if asked != {"port": "http"}:
                yield f"{key}: what the server is asked comes from its runtime"


def _of_mapping(value: dict[str, Any], *, copying: bool, based: bool, under: str) -> Iterator[str]:
    ours = value.get("name") in _SERVERS
    for key, each in value.items():
        if key == "image" and not _may_be_named(value, based=based, under=under):
            yield f"image: {each!r}: the release brings the server's, and others are named by digest"
        elif ours and key in DECIDING - {"image"}:
            yield f"{key}: what the server is started with comes from its runtime"
        elif key == "storageUri" or str(key).startswith(PREFIX):
            yield f"{key}: only a promotion writes it"
        elif each is None or (str(key).startswith("$") and not (copying and _deletes(value))):
            yield f"{key}: replaces or removes what the release may bring"
        elif key == "predictor" and isinstance(each, dict) and _LISTS & each.keys():
            yield f"{key}: replaces whole lists: write a patch of operations (RFC 6902)"
        elif key == "name" and each == WEIGHTS:
            yield f"name: {WEIGHTS}: the release brings the weights"
        elif key == "name" and under == "volumes" and each in _rooms() and not value.keys() <= {"name", "emptyDir"}:
            yield f"volumes: {each}: is a volume of the server"
        elif key == LABEL and under != "matchLabels" and not based:
            yield f"{key}: is how the Service finds the server: nothing else carries it"
        elif (key in AROUND and each is not False) or (key == "add" and under == "capabilities"):
            yield f"{key}: leads into the server, or around it"
        elif _holds(key, each, under):
            yield f"{key}: a cluster would not follow the next move"
        elif key == "targetPort" and each != "http":
            yield f"{key}: {each!r}: the server's port is http"


def _deletes(value: dict[str, Any]) -> bool:
    """Whether it takes away the two objects that KServe makes itself, each as a whole."""
    whole = value.keys() == {"apiVersion", "kind", "metadata", "$patch"}
    return whole and value["$patch"] == "delete" and value["kind"] in ("Deployment", "Service")


def _may_be_named(container: dict[str, Any], *, based: bool, under: str) -> bool:
    """Whether people may give ``container`` its image: the server's is the base's alone, and one that cannot exist.

    Where a patch named that one again, ``images`` of the environment would put another in place of the release's.
    """
    name, image = container.get("name"), str(container["image"])
    if based and under == "containers" and name == CONTAINER:
        return image == PLACEHOLDER
    other = isinstance(name, str) and name not in _SERVERS
    return other and _PINNED.fullmatch(image) is not None and not image.startswith(PLACEHOLDER)


def _holds(key: str, value: Any, under: str) -> bool:
    """Whether a cluster, Argo CD or Flux would leave an object as it is: a rollback would then change nothing."""
    if key == "paused":
        return under == "spec" and value is not False
    return key in HELD and (key != HOOK or "Skip" in str(value))


@functools.cache
def _rooms() -> frozenset[str]:
    """The names of the volumes that a server of any runtime mounts."""
    known = (overlays.rooms_of(runtimes.load(name)) for name in runtimes.names())
    return frozenset({"shm", WEIGHTS}.union(*known))


def listed(value: dict[str, Any], key: str) -> list[Any]:
    """The list at ``key``; an empty one where there is none."""
    found = value.get(key)
    return found if isinstance(found, list) else []
