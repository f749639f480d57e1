"""What people wrote in an environment must leave the release alone: whatever speaks of it as well is a gap. Pure.

A promotion writes an environment's folder ``release``; its ``kustomization.yaml``, the base and the components are
people's. Through them another image, command or volume of weights would run than the pointer says. This reads those
files as they lie in git and needs no tool, so it refuses some things that would do no harm. What `kustomize build`
makes of them is held to the release by ``release.deployed``.
"""

import posixpath
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from checks import layout, plain_yaml
from release.overlays import CONTAINER, DEPLOYMENT, FOLDER, KSERVE, PLACEHOLDER, PREFIX, SHARED, WEIGHTS

_OWN = "kustomization.yaml"
_NAMES = (_OWN, "kustomization.yml", "Kustomization")
_RELEASES = (DEPLOYMENT.parent.as_posix(), KSERVE.parent.as_posix())
_SERVERS = (CONTAINER, "kserve-container")
_COPYING = layout.ENVIRONMENTS / "components" / "kserve"  # turns the Deployment into what KServe takes

# Fields of a kustomization that cannot bring objects from elsewhere, nor run anything, nor copy a value over an image.
_FIELDS = {
    "apiVersion", "kind", "metadata", "namespace", "namePrefix", "nameSuffix", "resources", "components", "patches",
    "images", "replicas", "labels", "commonLabels", "commonAnnotations", "configMapGenerator", "secretGenerator",
    "generatorOptions", "sortOptions", "buildMetadata",
}  # fmt: skip
_OF_AN_IMAGE = {"name", "newName", "digest"}
_OF_A_PATCH = {"path", "patch", "target", "options"}
_LOCAL = re.compile(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*")
_PINNED = re.compile(r"[^\s@]+@sha256:[0-9a-f]{64}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_DECIDING = frozenset({"image", "command", "args", "env", "envFrom", "storageUri"})
_PLACING = frozenset({"mountPath", "subPath"})
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
    # What is no YAML cannot be reached: see _within.
    theirs = {
        path: data
        for path, data in sorted(found.items())
        if any(folder in path.parents for folder in folders)
        and not path.is_relative_to(home / FOLDER)
        and path != home / layout.POINTER
        and (data is None or path.suffix in (".yaml", ".yml") or path.name in _NAMES)
    }
    if home / _OWN not in theirs:
        return [f"{home / _OWN}: is missing"]
    listed = [f"{path}: {gap}" for path, data in theirs.items() for gap in _of_file(path, data, home)]
    if alone and not listed and not _list(plain_yaml.load((theirs[home / _OWN] or b"").decode()), "images"):
        listed.append(f"{home / _OWN}: images: weights come alone: name their server as {PLACEHOLDER}, by digest")
    return listed


def _of_file(path: Path, data: bytes | None, home: Path) -> Iterator[str]:
    if data is None:
        yield "is not a regular file"
        return
    try:
        value = plain_yaml.load(data.decode())
    except (yaml.YAMLError, ValueError) as error:
        yield f"is not one plain YAML document: {str(error).splitlines()[0]}"
        return
    if path.name in _NAMES:
        if isinstance(value, dict):
            yield from _of_kustomization(path, value, home)
        else:
            yield "is no mapping"
    else:
        yield from _scan(value, copying=_COPYING in path.parents)


def _of_kustomization(path: Path, value: dict[str, Any], home: Path) -> Iterator[str]:
    copying = _COPYING in path.parents
    allowed = _FIELDS | {"replacements"} if copying else _FIELDS
    yield from (f"{key}: an environment may not use it" for key in value if key not in allowed)
    if path == home / _OWN:
        named = [entry for entry in _list(value, "resources") if entry in _RELEASES]
        if len(named) != 1:
            yield f"resources: name one of {' and '.join(_RELEASES)}"
    patches = [entry for entry in _list(value, "patches") if isinstance(entry, dict)]
    paths = [entry["path"] for entry in patches if "path" in entry]
    for entry in (*_list(value, "resources"), *_list(value, "components"), *paths):
        if not _within(path.parent, entry, home):
            yield f"{entry!r}: name a folder or a .yaml file of this environment, or one that environments share"
    for entry in _list(value, "images"):
        # Exactly these keys: kustomize reads NEWTAG as newTag.
        fits = isinstance(entry, dict) and entry.get("name") == PLACEHOLDER and entry.keys() <= _OF_AN_IMAGE
        if not fits or not _DIGEST.fullmatch(str(entry.get("digest"))):
            yield f"images: only {PLACEHOLDER} may be given, by digest"
    for entry in patches:
        if not entry.keys() <= _OF_A_PATCH:
            yield f"patches: write {', '.join(sorted(_OF_A_PATCH))}, and nothing else"
        if isinstance(entry.get("patch"), str):
            try:
                yield from _scan(plain_yaml.load(entry["patch"]), copying=copying)
            except (yaml.YAMLError, ValueError):
                yield "patches: a patch is not one plain YAML document"
    yield from _scan({key: each for key, each in value.items() if key not in ("images", "patches")}, copying=copying)


def _within(folder: Path, entry: object, home: Path) -> bool:
    """Whether a kustomization in ``folder`` may name ``entry``: YAML or a folder, here or shared; no link, no URL."""
    if not isinstance(entry, str) or not _LOCAL.fullmatch(entry):
        return False
    target = Path(posixpath.normpath((folder / entry).as_posix()))
    inside = any(target.is_relative_to(layout.ENVIRONMENTS / name) for name in (home.name, *SHARED))
    return inside and (target.suffix in (".yaml", ".yml") or not target.suffix)


def _scan(value: Any, *, copying: bool) -> Iterator[str]:
    """Whatever, at any depth, speaks of what the release decides."""
    if isinstance(value, list):
        for each in value:
            yield from _scan(each, copying=copying)
    elif isinstance(value, dict):
        if isinstance(value.get("op"), str) and "path" in value:
            yield from _of_operation(value["op"], str(value["path"]))
        yield from _of_mapping(value, copying=copying)
        for each in value.values():
            yield from _scan(each, copying=copying)


def _of_mapping(value: dict[str, Any], *, copying: bool) -> Iterator[str]:
    ours = value.get("name") in _SERVERS
    for key, each in value.items():
        if key == "image" and each != PLACEHOLDER and not (_sidecar(value, ours) and _PINNED.fullmatch(str(each))):
            yield f"image: {each!r}: the release brings the server's, and others are named by digest"
        elif ours and key in _DECIDING - {"image"}:
            yield f"{key}: what the server is started with comes from its runtime"
        elif key == "storageUri" or str(key).startswith(PREFIX):
            yield f"{key}: only a promotion writes it"
        elif each is None or (str(key).startswith("$") and not copying):
            yield f"{key}: replaces or removes what the release may bring"
        elif key == "predictor" and isinstance(each, dict) and {"containers", "volumes"} & each.keys():
            yield f"{key}: replaces whole lists: write a patch of operations (RFC 6902)"
        elif key == "name" and each == WEIGHTS:
            yield f"name: {WEIGHTS}: the release brings the weights"
        elif key == "mountPath" and posixpath.normpath(f"//{each}").lstrip("/").split("/")[0] in ("", "models"):
            yield f"mountPath: {each}: is over the weights"


def _sidecar(value: dict[str, Any], ours: bool) -> bool:
    return isinstance(value.get("name"), str) and not ours


def _of_operation(operation: str, path: str) -> Iterator[str]:
    parts = [part.replace("~1", "/").replace("~0", "~") for part in path.split("/")]
    decides = (_DECIDING | _PLACING).intersection(parts) or any(part.startswith(PREFIX) for part in parts)
    if operation in ("move", "copy") or decides or _WHOLE.fullmatch(path):
        yield f"{operation} {path}: is of what the release brings"


def _list(value: dict[str, Any], key: str) -> list[Any]:
    found = value.get(key)
    return found if isinstance(found, list) else []
