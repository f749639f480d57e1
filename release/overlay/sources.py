"""Collects the files that `kustomize build` reads for one environment, and refuses anything that does more than read.

kustomize downloads whatever looks like an address, follows links, and runs generators and transformers. So every file
that an environment uses is looked up by name in one commit of git, each folder once, and a kustomization may use only
fields that fetch and run nothing. kustomize gets no other files.
"""

import posixpath
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from checks import layout, plain_yaml
from release.overlay import gateway
from release.overlay.overlays import DEPLOYMENT, FOLDER, KSERVE, PLACEHOLDER, ROLLOUT, SHARED

OWN = "kustomization.yaml"  # kustomize takes two more names; one of each folder is enough
RELEASES = tuple(path.parent.as_posix() for path in (DEPLOYMENT, KSERVE, ROLLOUT))
BASE = layout.ENVIRONMENTS / "base"
_COMPONENTS = layout.ENVIRONMENTS / "components"
_LARGEST, _MOST = 1 << 20, 100  # bytes of all files together, and how many they are

# Fields of a kustomization that bring nothing from elsewhere and run nothing.
_FIELDS = {
    "apiVersion", "kind", "metadata", "namespace", "namePrefix", "nameSuffix", "resources", "components", "patches",
    "images", "replicas", "labels", "commonLabels", "commonAnnotations", "configMapGenerator", "secretGenerator",
    "generatorOptions", "sortOptions", "buildMetadata",
}  # fmt: skip
# Keys of an entry in exactly this spelling, because kustomize reads Path as path.
_ENTRIES = {
    "patches": {"path", "patch", "target"},
    "labels": {"pairs", "includeSelectors", "includeTemplates"},
    "replacements": {"source", "targets"},
    "replicas": {"name", "count"},
    "configMapGenerator": {"name", "namespace", "behavior", "files", "literals", "envs", "options"},
    "secretGenerator": {"name", "namespace", "behavior", "files", "literals", "envs", "options", "type"},
}
# No dot in the name of a folder: kustomize reads github.com/x/y as an address, even if such a folder exists.
_NAME = "[A-Za-z0-9][A-Za-z0-9_-]*"
_ENTRY = re.compile(rf"(\.\./)*({_NAME}/)*(?P<last>{_NAME}|[A-Za-z0-9][A-Za-z0-9._-]*)")
_IMAGE = {"newName": re.compile(r"[^\s@]+"), "digest": re.compile(r"sha256:[0-9a-f]{64}")}


class Sources(NamedTuple):
    """``files``: all that kustomize may read. ``own``: the environment's kustomization as plain values."""

    files: dict[Path, bytes]
    own: dict[str, Any]
    failures: tuple[str, ...]


def belongs(path: Path, home: Path) -> bool:
    """Whether a file is of the environment at ``home`` or shared by all, including a file in a folder between them."""
    return path.parent == layout.ENVIRONMENTS or any(
        path.is_relative_to(each) for each in (home, *(layout.ENVIRONMENTS / name for name in SHARED))
    )


def read(environment: str, found: Mapping[Path, bytes | None]) -> Sources:
    """Collect the files that ``environment`` uses. ``found`` has the release that is to run, not the current one."""
    home = layout.ENVIRONMENTS / environment
    walk = _Walk(home, found)
    listed = list(_names(home, found))
    if home / OWN not in found:
        return Sources({}, {}, (*listed, f"{home / OWN}: is missing"))
    listed += walk.kustomization(home / OWN)
    size = sum(map(len, walk.files.values()))
    if size > _LARGEST or len(walk.files) > _MOST:
        listed.append(f"{home}: {len(walk.files)} files of {size} bytes: keep below {_MOST} files and {_LARGEST} bytes")
    return Sources(walk.files, walk.own, tuple(dict.fromkeys(listed)))


def _names(home: Path, found: Mapping[Path, bytes | None]) -> Iterator[str]:
    """Files that change what a tool reads although nothing names them."""
    for path in sorted(path for path in found if belongs(path, home)):
        if found[path] is None:
            yield f"{path}: is not a regular file"
        elif any(part.startswith(".") for part in path.relative_to(layout.ENVIRONMENTS).parts):
            yield f"{path}: Argo CD and Flux take settings from files with such a name: remove it"
        elif path.name.lower() in ("chart.yaml", "kustomization", "kustomization.yml", OWN) and path.name != OWN:
            yield f"{path}: call the one kustomization of a folder {OWN}, and keep charts elsewhere"


class _Walk:
    """The files found so far. Each folder and object is visited once, or a few files could expand to millions."""

    def __init__(self, home: Path, found: Mapping[Path, bytes | None]) -> None:
        self.home, self.found = home, found
        self.files: dict[Path, bytes] = {}
        self.own: dict[str, Any] = {}

    def kustomization(self, path: Path) -> Iterator[str]:
        """What is wrong with the kustomization at ``path`` and everything that it names."""
        if len(self.files) > _MOST:
            return  # that is reported already
        value, problem = self._plain(path)
        if problem:
            yield f"{path}: {problem}"
        elif not isinstance(value, dict):
            yield f"{path}: is not a mapping"
        else:
            if path == self.home / OWN:
                self.own = value
            yield from (f"{path}: {failure}" for failure in _of_fields(path, value, own=path == self.home / OWN))
            yield from self._named(path, value)

    def _named(self, path: Path, value: dict[str, Any]) -> Iterator[str]:
        for key in ("resources", "components"):
            for entry in _listed(value, key):
                target = self._target(path, entry)
                if target is None or self._is_the_releases(path, target):
                    yield (
                        f"{path}: {entry!r}: name a folder with a {OWN}, or a .yaml file, of this environment or of "
                        "the components; a release alone brings the base"
                    )
                elif target in self.files or target / OWN in self.files:
                    yield f"{path}: {entry!r}: is named a second time: name each file and folder once"
                elif target in self.found:
                    found, problem = self._plain(target)
                    yield from [f"{target}: {problem}"] if problem else []
                    yield from (
                        f"{target}: image: {image!r}: the base names {PLACEHOLDER}, and a release brings the image"
                        for image in (_images(found) if BASE in target.parents else ())
                        if image != PLACEHOLDER
                    )
                else:
                    yield from self.kustomization(target / OWN)
        for patch in _listed(value, "patches"):
            if isinstance(patch, dict) and "path" in patch:
                yield from self._file(path, patch["path"], plain=True)
        for generator in (*_listed(value, "configMapGenerator"), *_listed(value, "secretGenerator")):
            if isinstance(generator, dict):
                for entry in (*_listed(generator, "files"), *_listed(generator, "envs")):
                    yield from self._file(path, str(entry).rpartition("=")[2], plain=False)

    def _is_the_releases(self, path: Path, target: Path) -> bool:
        """Whether ``target`` belongs to the release, and the kustomization at ``path`` is not the release's own."""
        entry = Path(posixpath.relpath(target, self.home)).as_posix()
        if path == self.home / OWN and entry in RELEASES:
            return False
        released = self.home / FOLDER in path.parents
        return (target.is_relative_to(self.home / FOLDER) and not released) or (
            target.is_relative_to(BASE) and not released and BASE not in path.parents
        )

    def _target(self, path: Path, entry: object) -> Path | None:
        """The YAML file or folder that the kustomization at ``path`` names; None if it is neither."""
        target = self._inside(path, entry)
        if target is None:
            return None
        if target in self.found:
            return target if target.suffix in (".yaml", ".yml") and target.name != OWN else None
        return target if target / OWN in self.found and "." not in target.name else None

    def _inside(self, path: Path, entry: object) -> Path | None:
        if not isinstance(entry, str) or not _ENTRY.fullmatch(entry):
            return None
        target = Path(posixpath.normpath((path.parent / entry).as_posix()))
        inside = target.is_relative_to(self.home) or any(
            target.is_relative_to(layout.ENVIRONMENTS / name) for name in SHARED
        )
        return target if inside else None

    def _file(self, path: Path, entry: object, *, plain: bool) -> Iterator[str]:
        target = self._inside(path, entry)
        if target is None or target not in self.found or (plain and target.suffix not in (".yaml", ".yml")):
            kind = ".yaml file" if plain else "file"
            yield f"{path}: {entry!r}: name a {kind} that is there, of this environment or of the components"
        elif plain:
            _, problem = self._plain(target)
            yield from [f"{target}: {problem}"] if problem else []
        else:
            self.files[target] = self.found[target] or b""

    def _plain(self, path: Path) -> tuple[Any, str | None]:
        """The value of a file that kustomize may read, or what is wrong with it."""
        data = self.found.get(path)
        if data is None:
            return None, "is not a regular file"
        self.files[path] = data
        try:
            return plain_yaml.load(data.decode()), None
        except (yaml.YAMLError, ValueError) as error:
            return None, f"is not one plain YAML document: {_first(error)}"


def _of_fields(path: Path, value: dict[str, Any], *, own: bool) -> Iterator[str]:
    """What is wrong with the fields of a kustomization. ``own``: it is the environment's own."""
    if own and len([entry for entry in _listed(value, "resources") if entry in RELEASES]) != 1:
        yield f"resources: name one of {', '.join(RELEASES)}"
    allowed = _FIELDS | {"replacements"} if _COMPONENTS in path.parents else _FIELDS
    yield from (f"{key}: an environment may not use it" for key in value if key not in allowed)
    for key, keys in _ENTRIES.items():
        if any(not isinstance(entry, dict) or not entry.keys() <= keys for entry in _listed(value, key)):
            yield f"{key}: write {', '.join(sorted(keys))}, and nothing else"
    names = [str(entry.get("name")) if isinstance(entry, dict) else "" for entry in _listed(value, "images")]
    if not isinstance(value.get("images", []), list) or len(set(names)) < len(names):
        yield "images: write a list with one entry for each image"
    for entry in _listed(value, "images"):
        if not _names_an_image(entry):
            yield f"images: only {PLACEHOLDER} and {gateway.PLACEHOLDER} may be given, by digest and with a newName"
        elif not own:
            yield f"images: the environment's own {OWN} names the images, and no other file does"
    for entry in _listed(value, "patches"):
        if isinstance(entry, dict) and isinstance(entry.get("patch"), str):
            try:
                plain_yaml.load(entry["patch"])
            except yaml.YAMLError as error:
                yield f"patches: a patch is not one plain YAML document: {_first(error)}"


def _names_an_image(entry: Any) -> bool:
    """``images`` of an environment can be left from before, or be for later: a release with its server ignores it."""
    if not isinstance(entry, dict) or entry.keys() != {"name"} | _IMAGE.keys():
        return False
    if entry["name"] not in (PLACEHOLDER, gateway.PLACEHOLDER):
        return False
    return all(isinstance(entry[key], str) and form.fullmatch(entry[key]) for key, form in _IMAGE.items())


def _images(value: Any) -> list[Any]:
    """The container images of a workload."""
    for key in ("spec", "template", "spec"):
        value = value.get(key) if isinstance(value, dict) else None
    listed = _listed(value, "containers") if isinstance(value, dict) else []
    return [each.get("image") for each in listed if isinstance(each, dict)]


def _listed(value: dict[str, Any], key: str) -> list[Any]:
    """The list at ``key``; kustomize refuses anything else there."""
    found = value.get(key)
    return found if isinstance(found, list) else []


def _first(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
