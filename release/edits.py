"""What people wrote in an environment must leave the release alone: whatever speaks of it as well is a gap. Pure.

A promotion writes an environment's folder ``release``; its ``kustomization.yaml``, the base and the components are
people's. Through them another image, command or volume of weights would run than the pointer says. This reads those
files as they lie in git and needs no tool, so it refuses some things that would do no harm. What `kustomize build`
makes of them is held to the release by ``release.deployed``.
"""

import functools
import posixpath
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from checks import layout, plain_yaml
from release import overlays, runtimes
from release.overlays import CONTAINER, DEPLOYMENT, FOLDER, KSERVE, LABEL, PLACEHOLDER, PREFIX, SHARED, WEIGHTS

_OWN = "kustomization.yaml"
_NAMES = (_OWN, "kustomization.yml", "Kustomization")
_RELEASES = (DEPLOYMENT.parent.as_posix(), KSERVE.parent.as_posix())
_BASE = layout.ENVIRONMENTS / "base"
_COMPONENT = layout.ENVIRONMENTS / "components" / "kserve"  # turns the Deployment into what KServe takes
_KSERVE_CONTAINER = "kserve-container"
_SERVERS = (CONTAINER, _KSERVE_CONTAINER)
_OF_THE_BASE = ("Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy")

# Fields of a kustomization that cannot bring objects from elsewhere, nor run anything, nor copy a value over an image.
_FIELDS = {
    "apiVersion", "kind", "metadata", "namespace", "namePrefix", "nameSuffix", "resources", "components", "patches",
    "images", "replicas", "labels", "commonLabels", "commonAnnotations", "configMapGenerator", "secretGenerator",
    "generatorOptions", "sortOptions", "buildMetadata",
}  # fmt: skip
_OF_AN_IMAGE = {"name", "newName", "digest"}
_OF_A_PATCH = {"path", "patch", "target"}  # options would let it rename the server
_OF_LABELS = {"pairs", "includeSelectors", "includeTemplates"}  # fields would put a pair anywhere
_LOCAL = re.compile(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*")
_PINNED = re.compile(r"[^\s@]+@sha256:[0-9a-f]{64}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
# Fields of the server's container that decide what runs in it, or is asked in its place.
_DECIDING = frozenset({
    "image", "command", "args", "env", "envFrom", "storageUri", "lifecycle", "workingDir", "ports", "volumeDevices",
    "terminationMessagePath",
})  # fmt: skip
# What no operation may point at or below, in whatever object.
_POINTED = _DECIDING | {
    "volumeMounts", "mountPath", "subPath", "exec", "httpGet", "tcpSocket", "grpc", "targetPort", "selector", LABEL,
}  # fmt: skip
# Ways into a server from beside it, or around it; in no object.
_AROUND = frozenset({
    "privileged", "hostPID", "hostIPC", "hostNetwork", "shareProcessNamespace", "hostPath", "ephemeralContainers",
    "externalName", "transformer", "explainer", "workerSpec",
})  # fmt: skip
_LISTS = {"containers", "initContainers", "volumes", "model"}
_NAMING = re.compile(r"/(metadata/(name|namespace)|kind|apiVersion)")
_CONTAINER_NAME = re.compile(r".*/(initC|c)ontainers/[^/]+/name")
_COPIES = {
    "spec.template.spec": "spec.predictor",
    "spec.template.metadata.labels": "spec.predictor.labels",
    "spec.template.metadata.annotations": "spec.predictor.annotations",
    "metadata.labels": "metadata.labels",
    "metadata.annotations": "metadata.annotations",
}
# JSON pointers to whole parts that hold the server, its weights, or what is said of it (RFC 6901, 6902).
_ONE = r"(/(?!-$)[^/]+)?"  # of a list, but for its end
_WHOLE = re.compile(
    rf"(/spec(/(template(/spec(/(containers|volumes){_ONE})?)?|predictor(/(containers|volumes){_ONE})?))?)?"
    r"|(/spec/(template|predictor))?/metadata(/annotations)?|/spec/predictor/annotations"
)


def gaps(environment: str, found: Mapping[Path, bytes | None], *, alone: bool) -> list[str]:
    """What people's files say that a promotion alone may say; one line a gap.

    ``found`` is all that lies at one commit below release/environments, by path in the repository; None is whatever is
    no regular file. ``alone``: a cluster is given weights without a server (``overlays.alone``), and people name one.
    """
    home = layout.ENVIRONMENTS / environment
    folders = (home, *(layout.ENVIRONMENTS / name for name in SHARED))
    # What has another name cannot be reached, but as the data of a ConfigMap or Secret: see _within.
    theirs = {
        path: data
        for path, data in sorted(found.items())
        if any(folder in path.parents for folder in folders)
        and not path.is_relative_to(home / FOLDER)
        and path != home / layout.POINTER
        and (data is None or path.name.endswith((".yaml", ".yml")) or path.name in _NAMES)
    }
    if home / _OWN not in theirs:
        return [f"{home / _OWN}: is missing"]
    listed = [f"{path}: {gap}" for path, data in theirs.items() for gap in _of_file(path, data, home, found)]
    if alone and not listed and not _list(plain_yaml.load((theirs[home / _OWN] or b"").decode()), "images"):
        listed.append(f"{home / _OWN}: images: weights come alone: name their server as {PLACEHOLDER}, by digest")
    return listed


def _of_file(path: Path, data: bytes | None, home: Path, found: Mapping[Path, bytes | None]) -> Iterator[str]:
    if data is None:
        yield "is not a regular file"
        return
    try:
        value = plain_yaml.load(data.decode())
    except (yaml.YAMLError, ValueError) as error:
        yield f"is not one plain YAML document: {str(error).splitlines()[0]}"
        return
    copying = _COMPONENT in path.parents
    if path.name not in _NAMES:
        yield from _scan(value, copying=copying, based=_BASE in path.parents and _is_of_the_base(value))
    elif isinstance(value, dict):
        yield from _of_kustomization(path, value, home, found)
        yield from _of_fields(value, copying=copying)
    else:
        yield "is no mapping"


def _of_kustomization(
    path: Path, value: dict[str, Any], home: Path, found: Mapping[Path, bytes | None]
) -> Iterator[str]:
    """Of what a kustomization names."""
    if path == home / _OWN:
        named = [entry for entry in _list(value, "resources") if entry in _RELEASES]
        if len(named) != 1:
            yield f"resources: name one of {' and '.join(_RELEASES)}"
    for entry in (*_list(value, "resources"), *_list(value, "components")):
        if not (path == home / _OWN and entry in _RELEASES) and not _within(path, entry, home, found, folders=True):
            yield (
                f"{entry!r}: name a folder with a kustomization, or a .yaml file, of this environment or of the "
                "components; a release alone brings the base"
            )
    for patch in _list(value, "patches"):
        named_by = isinstance(patch, dict) and "path" in patch
        if named_by and not _within(path, patch["path"], home, found, folders=False):
            yield f"{patch['path']!r}: name a .yaml file that is there, of this environment or of the components"


def _within(path: Path, entry: object, home: Path, found: Mapping[Path, bytes | None], *, folders: bool) -> bool:
    """Whether the kustomization at ``path`` may name ``entry``: a file that is read here, or a folder; no link, no URL.

    The base and ``home``'s release are named by the release alone: another copy of the server would be anybody's.
    """
    if not isinstance(entry, str) or not _LOCAL.fullmatch(entry):
        return False
    target = Path(posixpath.normpath((path.parent / entry).as_posix()))
    inside = any(target.is_relative_to(layout.ENVIRONMENTS / name) for name in (home.name, *SHARED))
    again = target.is_relative_to(home / FOLDER) or (target.is_relative_to(_BASE) and _BASE not in path.parents)
    if not inside or again:
        return False
    if target in found:
        return target.suffix in (".yaml", ".yml") and target.name not in _NAMES
    return folders and any(target / name in found for name in _NAMES)


def _of_fields(value: dict[str, Any], *, copying: bool) -> Iterator[str]:
    allowed = _FIELDS | {"replacements"} if copying else _FIELDS
    yield from (f"{key}: an environment may not use it" for key in value if key not in allowed)
    for entry in _list(value, "images"):
        # Exactly these keys: kustomize reads NEWTAG as newTag.
        fits = isinstance(entry, dict) and entry.get("name") == PLACEHOLDER and entry.keys() <= _OF_AN_IMAGE
        if not fits or not _DIGEST.fullmatch(str(entry.get("digest"))):
            yield f"images: only {PLACEHOLDER} may be given, by digest"
    for entry in _list(value, "labels"):
        if not isinstance(entry, dict) or not entry.keys() <= _OF_LABELS:
            yield f"labels: write {', '.join(sorted(_OF_LABELS))}, and nothing else"
    for entry in _list(value, "replacements"):
        if not any(entry == _copy(*pair) for pair in _COPIES.items()):
            yield "replacements: copies what the release brings otherwise than the component does"
    for entry in _list(value, "patches"):
        if not isinstance(entry, dict) or not entry.keys() <= _OF_A_PATCH:
            yield f"patches: write {', '.join(sorted(_OF_A_PATCH))}, and nothing else"
        elif isinstance(entry.get("patch"), str):
            try:
                yield from _scan(plain_yaml.load(entry["patch"]), copying=copying)
            except (yaml.YAMLError, ValueError):
                yield "patches: a patch is not one plain YAML document"
    judged = ("images", "patches", "replacements")
    yield from _scan({key: each for key, each in value.items() if key not in judged}, copying=copying)


def _copy(source: str, target: str) -> dict[str, Any]:
    """What the component has for KServe."""
    options = {"select": {"kind": "InferenceService", "name": CONTAINER}, "options": {"create": True}}
    return {
        "source": {"kind": "Deployment", "name": CONTAINER, "fieldPath": source},
        "targets": [options | {"fieldPaths": [target]}],
    }


def _is_of_the_base(value: Any) -> bool:
    """One of the objects that carry the server's label, under the name that each can have once."""
    if not isinstance(value, dict) or value.get("kind") not in _OF_THE_BASE:
        return False
    metadata = value.get("metadata")
    return isinstance(metadata, dict) and metadata.get("name") == CONTAINER and "namespace" not in metadata


def _scan(value: Any, *, copying: bool, based: bool = False, under: str = "") -> Iterator[str]:
    """Whatever, at any depth, speaks of what the release decides. ``under``: the key that holds ``value``."""
    if isinstance(value, list):
        for each in value:
            yield from _scan(each, copying=copying, based=based, under=under)
    elif isinstance(value, dict):
        if isinstance(value.get("op"), str) and "path" in value:
            yield from _of_operation(value, copying=copying)
        yield from _of_object(value, based=based)
        yield from _of_container(value)
        yield from _of_mapping(value, copying=copying, based=based, under=under)
        for key, each in value.items():
            yield from _scan(each, copying=copying, based=based, under=str(key))


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
    for mount in _list(value, "volumeMounts"):
        name = mount.get("name") if isinstance(mount, dict) else None
        if ours and mount != {"name": "shm", "mountPath": "/dev/shm"}:  # noqa: S108 - of the base
            yield f"volumeMounts: {name}: the release alone mounts anything in the server"
        elif not ours and name in _rooms():
            yield f"volumeMounts: {name}: is a volume of the server"
    for port in _list(value, "ports"):
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
        if key == "image" and each != PLACEHOLDER and not (_sidecar(value, ours) and _PINNED.fullmatch(str(each))):
            yield f"image: {each!r}: the release brings the server's, and others are named by digest"
        elif ours and key in _DECIDING - {"image"}:
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
        elif (key in _AROUND and each is not False) or (key == "add" and under == "capabilities"):
            yield f"{key}: leads into the server, or around it"
        elif key == "targetPort" and each != "http":
            yield f"{key}: {each!r}: the server's port is http"


def _deletes(value: dict[str, Any]) -> bool:
    """Whether it takes away the two objects that KServe makes itself, each as a whole."""
    whole = value.keys() == {"apiVersion", "kind", "metadata", "$patch"}
    return whole and value["$patch"] == "delete" and value["kind"] in ("Deployment", "Service")


def _sidecar(value: dict[str, Any], ours: bool) -> bool:
    return isinstance(value.get("name"), str) and not ours


def _of_operation(value: dict[str, Any], *, copying: bool) -> Iterator[str]:
    operation, path = value["op"], str(value["path"])
    parts = [part.replace("~1", "/").replace("~0", "~") for part in path.split("/")]
    decides = (_POINTED | _AROUND).intersection(parts) or any(part.startswith(PREFIX) for part in parts)
    named = _NAMING.fullmatch(path) or (
        _CONTAINER_NAME.fullmatch(path) and not (copying and value.get("value") == _KSERVE_CONTAINER)
    )
    within = "volumes" in parts and parts[-1] not in ("volumes", "-")
    unrooted = parts[0] != ""  # kustomize leaves out whatever is before the first slash
    if operation in ("move", "copy") or decides or named or within or unrooted or _WHOLE.fullmatch(path):
        yield f"{operation} {path}: is of what the release brings"


@functools.cache
def _rooms() -> frozenset[str]:
    """The names of the volumes that a server of any runtime mounts."""
    known = (overlays.rooms_of(runtimes.load(name)) for name in runtimes.names())
    return frozenset({"shm", WEIGHTS}.union(*known))


def _list(value: dict[str, Any], key: str) -> list[Any]:
    found = value.get(key)
    return found if isinstance(found, list) else []
