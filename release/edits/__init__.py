"""What people wrote in an environment must leave the release alone: whatever speaks of it as well is a gap. Pure.

A promotion writes an environment's folder ``release``; its ``kustomization.yaml``, the base and the components are
people's. Through them another image, command or volume of weights would run than the pointer says. This reads those
files as they lie in git and needs no tool, so it refuses some things that would do no harm. What `kustomize build`
makes of them is held to the release by ``release.deployed``.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml

from checks import layout, plain_yaml
from release.edits import kustomization, objects
from release.edits.kustomization import BASE, NAMES, OWN
from release.overlays import FOLDER, PLACEHOLDER, SHARED

_COMPONENT = layout.ENVIRONMENTS / "components" / "kserve"  # turns the Deployment into what KServe takes


def gaps(environment: str, found: Mapping[Path, bytes | None], *, alone: bool) -> list[str]:
    """What people's files say that a promotion alone may say; one line a gap.

    ``found`` is all that lies at one commit below release/environments, by path in the repository; None is whatever is
    no regular file. ``alone``: a cluster is given weights without a server (``overlays.alone``), and people name one.
    """
    home = layout.ENVIRONMENTS / environment
    folders = (home, *(layout.ENVIRONMENTS / name for name in SHARED))
    # What has another name cannot be reached, but as the data of a ConfigMap or Secret: see kustomization._within.
    theirs = {
        path: data
        for path, data in sorted(found.items())
        if any(folder in path.parents for folder in folders)
        and not path.is_relative_to(home / FOLDER)
        and path != home / layout.POINTER
        and (data is None or path.name.endswith((".yaml", ".yml")) or path.name in NAMES)
    }
    if home / OWN not in theirs:
        return [f"{home / OWN}: is missing"]
    listed = [f"{path}: {gap}" for path, data in theirs.items() for gap in _of_file(path, data, home, found)]
    if alone and not listed and not objects.listed(plain_yaml.load((theirs[home / OWN] or b"").decode()), "images"):
        listed.append(f"{home / OWN}: images: weights come alone: name their server as {PLACEHOLDER}, by digest")
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
    if path.name not in NAMES:
        yield from objects.scan(value, copying=copying, based=BASE in path.parents and objects.is_of_the_base(value))
    elif isinstance(value, dict):
        yield from kustomization.of_names(path, value, home, found)
        yield from kustomization.of_fields(value, own=path == home / OWN, copying=copying)
    else:
        yield "is no mapping"
