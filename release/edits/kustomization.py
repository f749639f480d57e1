"""What a kustomization may name and say: nothing from elsewhere, nothing that runs, no value copied over an image."""

import posixpath
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from checks import layout, plain_yaml
from release.edits import objects
from release.overlays import CONTAINER, DEPLOYMENT, FOLDER, KSERVE, PLACEHOLDER, SHARED

OWN = "kustomization.yaml"
NAMES = (OWN, "kustomization.yml", "Kustomization")
_RELEASES = (DEPLOYMENT.parent.as_posix(), KSERVE.parent.as_posix())
BASE = layout.ENVIRONMENTS / "base"

# Fields of a kustomization that cannot bring objects from elsewhere, nor run anything, nor copy a value over an image.
_FIELDS = {
    "apiVersion", "kind", "metadata", "namespace", "namePrefix", "nameSuffix", "resources", "components", "patches",
    "images", "replicas", "labels", "commonLabels", "commonAnnotations", "configMapGenerator", "secretGenerator",
    "generatorOptions", "sortOptions", "buildMetadata",
}  # fmt: skip
_OF_A_PATCH = {"path", "patch", "target"}  # options would let it rename the server
_OF_LABELS = {"pairs", "includeSelectors", "includeTemplates"}  # fields would put a pair anywhere
_LOCAL = re.compile(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*")
# Of an entry of `images`, beside its name, and nothing more: kustomize reads NEWTAG as newTag.
_FORMS = {"newName": re.compile(r"[^\s@]+"), "digest": re.compile(r"sha256:[0-9a-f]{64}")}
_COPIES = {
    "spec.template.spec": "spec.predictor",
    "spec.template.metadata.labels": "spec.predictor.labels",
    "spec.template.metadata.annotations": "spec.predictor.annotations",
    "metadata.labels": "metadata.labels",
    "metadata.annotations": "metadata.annotations",
}


def of_names(path: Path, value: dict[str, Any], home: Path, found: Mapping[Path, bytes | None]) -> Iterator[str]:
    """What is wrong with the files and folders that the kustomization at ``path`` names."""
    if path == home / OWN:
        named = [entry for entry in objects.listed(value, "resources") if entry in _RELEASES]
        if len(named) != 1:
            yield f"resources: name one of {' and '.join(_RELEASES)}"
    for entry in (*objects.listed(value, "resources"), *objects.listed(value, "components")):
        if not (path == home / OWN and entry in _RELEASES) and not _within(path, entry, home, found, folders=True):
            yield (
                f"{entry!r}: name a folder with a kustomization, or a .yaml file, of this environment or of the "
                "components; a release alone brings the base"
            )
    for patch in objects.listed(value, "patches"):
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
    again = target.is_relative_to(home / FOLDER) or (target.is_relative_to(BASE) and BASE not in path.parents)
    if not inside or again:
        return False
    if target in found:
        return target.suffix in (".yaml", ".yml") and target.name not in NAMES
    return folders and any(target / name in found for name in NAMES)


def of_fields(value: dict[str, Any], *, own: bool, copying: bool) -> Iterator[str]:
    """What is wrong with whatever else it says.

    ``own``: it is the environment's own, not one that it names. ``copying``: it is the component that makes KServe's
    object.
    """
    allowed = _FIELDS | {"replacements"} if copying else _FIELDS
    yield from (f"{key}: an environment may not use it" for key in value if key not in allowed)
    for entry in objects.listed(value, "images"):
        # A release that brings its server leaves nothing in this name: the entry may stay from before, or for later.
        if not _names_a_server(entry):
            yield f"images: only {PLACEHOLDER} may be given, by digest and with a newName"
        elif not own:
            yield f"images: the environment's own {OWN} names the server, and nothing before it"
    for entry in objects.listed(value, "labels"):
        if not isinstance(entry, dict) or not entry.keys() <= _OF_LABELS:
            yield f"labels: write {', '.join(sorted(_OF_LABELS))}, and nothing else"
    for entry in objects.listed(value, "replacements"):
        if not any(entry == _copy(*pair) for pair in _COPIES.items()):
            yield "replacements: copies what the release brings otherwise than the component does"
    for entry in objects.listed(value, "patches"):
        if not isinstance(entry, dict) or not entry.keys() <= _OF_A_PATCH:
            yield f"patches: write {', '.join(sorted(_OF_A_PATCH))}, and nothing else"
        elif isinstance(entry.get("patch"), str):
            try:
                yield from objects.scan(plain_yaml.load(entry["patch"]), copying=copying)
            except yaml.YAMLError as error:
                yield f"patches: a patch is not one plain YAML document: {str(error).splitlines()[0]}"
    judged = ("images", "patches", "replacements")
    yield from objects.scan({key: each for key, each in value.items() if key not in judged}, copying=copying)


def _names_a_server(entry: Any) -> bool:
    if not isinstance(entry, dict) or entry.keys() != {"name"} | _FORMS.keys() or entry["name"] != PLACEHOLDER:
        return False
    return all(isinstance(entry[key], str) and form.fullmatch(entry[key]) for key, form in _FORMS.items())


def _copy(source: str, target: str) -> dict[str, Any]:
    """What the component has for KServe."""
    options = {"select": {"kind": "InferenceService", "name": CONTAINER}, "options": {"create": True}}
    return {
        "source": {"kind": "Deployment", "name": CONTAINER, "fieldPath": source},
        "targets": [options | {"fieldPaths": [target]}],
    }
