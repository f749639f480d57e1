"""Checks that files written by people do not change the release, by comparing the objects that `kustomize build` makes.

A promotion writes an environment's folder ``release``. People write its ``kustomization.yaml``, the base and the
components. These files are built together with the release that is to run, and every object is compared with what the
release and the shipped base say (``server``, ``objects``). People may change only what is listed there.

Two parts need no build. ``sources`` refuses, before kustomize starts, anything that kustomize would fetch or run.
``shipped`` knows the files that Lockstep ships, which are tested with every runtime; for them kustomize need not be
installed.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from checks import layout, plain_yaml
from release.overlay import exposed, gateway, kustomize, monitored, objects, shipped, sources
from release.overlay.overlays import PLACEHOLDER, ROLLOUT, SERVER
from release.overlay.sources import OWN

_NAMESPACE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def failures(
    environment: str,
    found: Mapping[Path, bytes | None],
    wanted: Mapping[Path, bytes],
    others: Collection[str] = (),
    *,
    pulled: bool = True,
    generated: Callable[[], Sequence[Mapping[str, Any]]] = tuple,
) -> list[str]:
    """How the objects of ``environment`` differ from what the release in ``wanted`` may run as, one line each.

    ``found``: all files of one commit below release/environments, by path in the repository; None for anything but a
    regular file. ``wanted``: of ``overlays.checked``. ``others``: environments that must have another namespace; a
    rollback names none.
    ``pulled``: a cluster can pull the image, so an image with weights alone needs a server. ``generated``: gives the
    objects of the component monitoring, and is called if the environment names it. Raises MachineRefused if kustomize
    is needed and not installed, or the disk is full, and as ``generated``.
    """
    home = layout.ENVIRONMENTS / environment
    read = sources.read(environment, {**_theirs(home, found), **wanted})
    if read.failures:
        return list(read.failures)
    listed = list(_namespace(environment, read.own, found, others))
    patch = plain_yaml.load(wanted[home / SERVER].decode())
    spaces = dict(_spaces(environment, found))
    listed += [f"{home / OWN}: {failure}" for failure in gateway.settings(environment, read.own, spaces)]
    named = [each for each in read.own.get("images") or () if each["name"] == PLACEHOLDER]
    image = next((f"{each['newName']}@{each['digest']}" for each in named), None)
    if image is None and not pulled:
        image = PLACEHOLDER
    if _is_alone(patch) and image is None:
        listed.append(f"{home / OWN}: images: weights come alone: name their server as {PLACEHOLDER}, by digest")
    if listed or (not _asks_gpus(patch) and shipped.knows(environment, read)):
        return listed
    built = kustomize.build(read.files, home)
    if isinstance(built, str):
        return [f"{home}: {built}{_instead(read.own, built)}"]
    namespace, before = str(read.own["namespace"]), gateway.image(read.own)
    wrong = objects.failures(built, patch, namespace, image, before)
    if not wrong:
        wrong += exposed.failures(
            environment, built, namespace, spaces if others else None, lambda other: _built(other, found)
        )
    if monitored.uses(home, read.files) and not wrong:
        wrong += monitored.failures(environment, built, generated())
    return [f"{home}: {failure}" for failure in wrong]


def _instead(own: Mapping[str, Any], built: str) -> str:
    """What to write in place of a patch of the number of servers that kustomize could not apply; empty for others."""
    if ROLLOUT.parent.as_posix() in own.get("resources", ()) and "/spec/replicas" in built:
        return (
            ". With release/rollout the Rollout has the number of servers: write `kind: Rollout` in that patch's target"
        )
    return ""


def theirs(environment: str, found: Mapping[Path, bytes | None]) -> dict[Path, bytes | None]:
    """Every file written by people that can change what ``environment`` runs: its own and the shared ones."""
    home = layout.ENVIRONMENTS / environment
    return {path: data for path, data in _theirs(home, found).items() if sources.belongs(path, home)}


def _theirs(home: Path, found: Mapping[Path, bytes | None]) -> dict[Path, bytes | None]:
    """``found`` without what a move writes (``overlays.check`` compares that), pointers and approvals."""
    written = (home / "release", home / layout.POINTER, home / layout.EVIDENCE, home / layout.APPROVED)
    return {path: data for path, data in found.items() if not any(path.is_relative_to(each) for each in written)}


def _built(environment: str, files: Mapping[Path, bytes | None]) -> list[dict[str, Any]] | str:
    """The objects of another environment as it is in git, or why they are not known. Raises as ``kustomize.build``."""
    read = sources.read(environment, files)
    return read.failures[0] if read.failures else kustomize.build(read.files, layout.ENVIRONMENTS / environment)


def _is_alone(patch: Any) -> bool:
    """Whether the release is an image with weights and no server."""
    (container,) = patch["spec"]["template"]["spec"]["containers"]
    return "image" not in container


def _asks_gpus(patch: Any) -> bool:
    """Whether the release says how many GPUs: components/gpu, which gives one, could contradict it."""
    (container,) = patch["spec"]["template"]["spec"]["containers"]
    return "resources" in container


def _namespace(
    environment: str, own: Mapping[str, Any], found: Mapping[Path, bytes | None], others: Iterable[str]
) -> Iterable[str]:
    """Each environment needs a namespace of its own: in a shared one they would replace each other's objects."""
    where, name = layout.ENVIRONMENTS / environment / OWN, own.get("namespace")
    if not isinstance(name, str) or not _NAMESPACE.fullmatch(name) or name.startswith("kube-"):
        yield f"{where}: namespace: {str(name)[:80]!r}: name one that is this environment's own"
        return
    for other in others:
        if other != environment and name == namespace_of(other, found):
            yield f"{where}: namespace: {name!r} is the namespace of {other} too: give each environment its own"


def _spaces(environment: str, found: Mapping[Path, bytes | None]) -> Iterator[tuple[str, str]]:
    """The other environments that have a namespace, and which."""
    for path in sorted(found):
        name = path.parent.name
        if path == layout.ENVIRONMENTS / name / OWN and name != environment and (space := namespace_of(name, found)):
            yield name, space


def namespace_of(environment: str, found: Mapping[Path, bytes | None]) -> str | None:
    """The namespace in its own file; None if that cannot be read, which that environment's own move reports."""
    try:
        own = plain_yaml.load((found.get(layout.ENVIRONMENTS / environment / OWN) or b"").decode())
    except (yaml.YAMLError, ValueError):
        return None
    name = own.get("namespace") if isinstance(own, dict) else None
    return name if isinstance(name, str) else None
