"""Checks that the files of an environment are those that its knobs give, so that nobody changes what a release says.

An environment's folder has environment.yaml, which people write; the kustomization.yaml that is rendered from it; the
component that `lockstep monitor component` writes; and what a move writes. Base and components are shipped: those that
the environment uses must be there. Any other byte or file is a failure. What no rendering sees is compared too: other
environments, and what this release needs.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from checks.process.errors import ParamsRefused
from checks.storage import layout, plain_yaml
from release.overlay import environment_file, kustomization, shipped
from release.overlay.environment_file import EnvironmentFile
from release.overlay.overlays import FOLDER, GPU, SERVER, SHARED
from release.overlay.shipped import Files


def failures(
    environment: str, committed: Files, wanted: Mapping[Path, bytes], monitoring: Callable[[], Sequence[Files]], *,
    rollback: bool = False,
) -> list[str]:  # fmt: skip
    """List what keeps ``environment`` from running the release in ``wanted`` (of ``overlays.render``), one line each.

    ``committed``: all files of one commit below release/environments, by path in the repository; None for anything but
    a regular file. ``monitoring`` gives what the folder of the component may be, and is called if there is one; what it
    raises is passed on. No other environment stops a ``rollback``, and no shared folder of an earlier version.
    """
    path = environment_file.path(environment)
    try:
        file = environment_file.read(environment, committed)
    except ParamsRefused as refused:
        return [f"{refused.what}: {refused.todo}"]
    release = plain_yaml.load(wanted[layout.ENVIRONMENTS / environment / SERVER].decode())
    others = () if rollback else _others(environment, file, committed)
    earlier = "" if rollback else older(environment, committed)
    return [
        *filter(None, [earlier]),
        *_files(environment, file, committed),
        *_monitoring(environment, file, committed, monitoring),
        *(f"{path}: {failure}" for failure in (*_release(file, release), *others)),
    ]


def older(environment: str, committed: Files) -> str:
    """Say which shared folders an earlier version of Lockstep wrote; empty if none. A cluster runs them as they are."""
    names = ", ".join(map(str, shipped.earlier(committed)))
    todo = f"`lockstep render {environment}` writes those of this version, for every environment"
    return f"{names}: of an earlier version of Lockstep: {todo}" if names else ""


def _files(environment: str, file: EnvironmentFile, committed: Files) -> Iterator[str]:
    """Compare the rendered and the shipped files, and find files that should not be there."""
    home = layout.ENVIRONMENTS / environment
    rendered = home / kustomization.NAME
    if committed.get(rendered) != kustomization.render(environment, file):
        yield f"{rendered}: is not what {environment_file.NAME} gives: run `lockstep render {environment}`"
    known = {rendered, environment_file.path(environment), layout.QUARANTINE}
    known |= {home / layout.POINTER, home / layout.EVIDENCE}
    earlier = shipped.earlier(committed)
    used = shipped.files(file)
    for folder, content in shipped.folders().items():
        here = shipped.below(folder, committed)
        known |= content.keys() | earlier.get(folder, {}).keys()
        if folder not in earlier and (here or content.keys() & used.keys()):
            yield from _shared(environment, content, here)
    written = {home / FOLDER, home / kustomization.MONITORING, home / layout.APPROVED}
    closed = {home, *(layout.ENVIRONMENTS / name for name in SHARED)}
    for path in sorted(committed.keys() - known):
        folders = {*path.parents}
        if (path.parent == layout.ENVIRONMENTS or folders & closed) and not folders & written:
            yield f"{path}: no environment has such a file: keep it in a folder of its own ({environment_file.PAGE})"


def _shared(environment: str, content: Files, here: Files) -> Iterator[str]:
    """Compare the files of a shared folder with ``content``, which Lockstep ships."""
    for path, wanted in content.items():
        if here.get(path) != wanted:
            problem = "is not the file that Lockstep ships" if path in here else "is missing"
            yield f"{path}: {problem}: run `lockstep render {environment}`"


def _monitoring(
    environment: str,
    file: EnvironmentFile,
    committed: Files,
    versions: Callable[[], Sequence[Files]],
) -> Iterator[str]:
    """Compare the component monitoring with what its command writes."""
    folder = layout.ENVIRONMENTS / environment / kustomization.MONITORING
    here = {path: data for path, data in committed.items() if path.is_relative_to(folder)}
    if not here and not file.monitoring:
        return
    todo = f"`lockstep monitor component {environment}` writes it from the section monitor"
    if not file.monitoring:
        yield f"{folder}: is not used: remove it, or write `monitoring: true` in {environment_file.NAME}"
    accepted = versions()
    if here not in accepted:
        wanted = accepted[0] if accepted else {}
        for path in sorted({*here, *wanted}):
            if here.get(path) != wanted.get(path):
                yield f"{path}: is not what the section monitor gives: {todo}"
    if folder / "scaledobject.yaml" in here and (
        file.replicas is not None or file.variant != "deployment"
    ):
        yield (
            f"{environment_file.path(environment)}: monitor.scaling has {environment}: KEDA sets the number of servers "
            "of a Deployment: write `variant: deployment` and `replicas: null`"
        )


def _release(file: EnvironmentFile, release: Mapping[str, Any] | None) -> Iterator[str]:
    """Compare the knobs with what the release needs; ``release``: its patch, None if no cluster can run it."""
    if release is None:
        return
    (container,) = release["spec"]["template"]["spec"]["containers"]
    if "image" not in container and file.server is None:
        yield "server: weights come alone: name the server that they run in, as HOST/NAME@sha256:…"
    gpus = container.get("resources", {}).get("limits", {}).get(GPU)
    if gpus is not None and file.gpus not in (0, int(gpus)):
        yield f"gpus: is {file.gpus}, serve.shards is {gpus}: write `gpus: {gpus}`"


def _others(environment: str, file: EnvironmentFile, committed: Files) -> Iterator[str]:
    """Compare with the other environments: each has a namespace and host names of its own."""
    names = [
        path.parent.name for path in committed if path == environment_file.path(path.parent.name)
    ]
    namespaces = dict[str, str]()
    for name in sorted(set(names) - {environment}):
        try:
            other = environment_file.read(name, committed)
        except ParamsRefused as refused:
            if file.route is not None:
                yield f"route: cannot be compared with that of {name}: {refused.what}"
            continue
        namespaces[name] = other.namespace
        if other.namespace == file.namespace:
            yield f"namespace: {file.namespace!r} is the namespace of {name} too: give each environment its own"
        if file.route is not None and other.route is not None:
            for host in file.route.hosts:
                for taken in other.route.hosts:
                    if _covers(host, taken) or _covers(taken, host):
                        yield f"route: {host} overlaps with {taken} of {name}: give each environment hosts of its own"
    canary = file.route.canary if file.route else None
    if canary is not None and canary.namespace not in namespaces.values():
        yield f"route: canary: {canary.namespace!r} is the namespace of no other environment"
    production = file.canary_of
    if production is not None and namespaces.get(production.environment) != production.namespace:
        yield f"canary_of: {production.namespace!r} is not the namespace of an environment {production.environment!r}"


def _covers(host: str, other: str) -> bool:
    """Return whether ``other`` is ``host``, or a name below the wildcard ``host``."""
    return host == other or (host.startswith("*.") and other.endswith(host[1:]))
