"""Checks that the files of an environment are those that its knobs give, so that nobody changes what a release says.

An environment's folder has environment.yaml, which people write; the kustomization.yaml that is rendered from it; the
component that `lockstep monitor component` writes; and what a move writes. Base and components are shipped: those that
the environment uses must be there. Any other byte or file is a failure. What no rendering sees is compared too: other
environments, and what this release needs.

The shared folders are data of this package. A repository has those that its environments use, written by
`lockstep render`.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from checks.process.errors import ParamsRefused
from checks.records.record import problems
from checks.storage import digest, layout, plain_yaml
from release.overlay import environment_file, kustomization, scaling
from release.overlay.environment_file import EnvironmentFile
from release.overlay.overlays import FOLDER, GPU, SERVER, SHARED

Files = Mapping[Path, bytes | None]

_DATA = Path(__file__).parents[1] / layout.ENVIRONMENTS.name
_BASE, _COMPONENTS = SHARED
_SHARED = tuple(layout.ENVIRONMENTS / name for name in SHARED)
# The digests (`digest.of_tree`) of the folders of earlier versions. Clusters run them until somebody renders again.
# Whoever changes a shared folder adds the digest that it has in the last released version.
EARLIER = {
    # 0.1.0: base, canary, exposure, gateway, kserve, rollout
    "sha256:669774e9618cc730bd1c4c1aa070b70818a2ddcf9598ab387c6901976db3fbfb",
    "sha256:ba690cc8cfe698d9b0a18a74b5976aeab394106184ba8edc21eef0059ac07faf",
    "sha256:f2d360f656b2e127069a1a1f5ec500812c9a6709b9036d1c266a1d95f5c64a17",
    "sha256:a81a2279507e299b9f68bb98496319b9bc445617f79ed5d1cfe1a78e33688adf",
    "sha256:0dbd852bde661c259516a474e8163f33a631d3a4abc59814f929ff0f82194c66",
    "sha256:eb89a4d7cef16bfb8943d9d28d467bd7dc1880783550d74f90d5cd3ceaa5b071",
    # 0.2.0 before the runtime sglang: gateway
    "sha256:e4169c40fdbc8a8ab21f6b76728ad64d604bd7e3bc65492bce5469e150b44021",
}


def failures(
    environment: str, committed: Files, wanted: Mapping[Path, bytes], monitoring: Callable[[], Sequence[Files]], *,
    rollback: bool = False,
) -> list[str]:  # fmt: skip
    """List what keeps ``environment`` from running the release in ``wanted`` (of ``overlays.render``), one line each.

    ``committed``: all files of one commit below release/environments, by path in the repository; None for anything but
    a regular file. ``monitoring`` gives what the folder of the component may be, and is called if there is one; what it
    raises is passed on. Nothing in other environments, ``older`` or ``stuck`` stops a ``rollback``.
    """
    path = environment_file.path(environment)
    try:
        file = environment_file.read(environment, committed)
    except ParamsRefused as refused:
        return [f"{refused.what}: {refused.todo}"]
    release = _patch(environment, wanted)
    others = () if rollback else _others(environment, file, committed)
    return [
        *([] if rollback else filter(None, [older(environment, committed)])),
        *([] if rollback else stuck(environment, committed, wanted)),
        *_files(environment, file, committed),
        *_monitoring(environment, file, committed, monitoring),
        *(f"{path}: {failure}" for failure in (*_release(file, release), *others)),
    ]


def older(environment: str, committed: Files) -> str:
    """Say which shared folders an earlier version of Lockstep wrote; empty if none. A cluster runs them as they are."""
    names = ", ".join(map(str, earlier_folders(committed)))
    todo = f"`lockstep render {environment}` writes those of this version, for every environment"
    return f"{names}: of an earlier version of Lockstep: {todo}" if names else ""


def stuck(
    environment: str, committed: Files, wanted: Mapping[Path, bytes] | None = None
) -> list[str]:
    """List why an update of the servers could not end, or would end every server unasked, one line each.

    ``wanted``: as for ``failures``; None: not known, so that the knob `gpus` alone counts.
    """
    file = environment_file.readable(environment, committed)
    if file is None:
        return []
    gpus = file.gpus or _gpus(_patch(environment, wanted) if wanted else None)
    failing = scaling.failures(file, scaling.servers(environment, file, committed), gpus)
    return [f"{environment_file.path(environment)}: {failure}" for failure in failing]


def _files(environment: str, file: EnvironmentFile, committed: Files) -> Iterator[str]:
    """Compare the rendered and the shipped files, and find files that should not be there."""
    home = layout.ENVIRONMENTS / environment
    rendered = home / kustomization.NAME
    if committed.get(rendered) != kustomization.render(environment, file):
        yield f"{rendered}: is not what {environment_file.NAME} gives: run `lockstep render {environment}`"
    known = {rendered, environment_file.path(environment), layout.QUARANTINE}
    known |= {home / layout.POINTER, home / layout.EVIDENCE}
    shared = files_below(committed, *_SHARED)
    earlier = earlier_folders(shared)
    used = shared_files(file)
    for folder, content in shared_folders().items():
        here = files_below(shared, folder)
        known |= content.keys() | earlier.get(folder, {}).keys()
        if folder not in earlier and (here or content.keys() & used.keys()):
            yield from _shared(environment, content, here)
    written = (home / FOLDER, home / kustomization.MONITORING, home / layout.APPROVED)
    own = {path for path in committed if len(path.parts) == len(layout.QUARANTINE.parts)}
    own |= files_below(committed, home, *_SHARED).keys() - files_below(committed, *written).keys()
    for path in sorted(own - known):
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
    here = files_below(committed, folder)
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
    if scaling.scaled_object(environment) in here and (
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
    gpus = _gpus(release)
    yield from problems(
        (
            "image" not in container and file.server is None and file.variant != "adapter",
            "server: weights come alone: name the server that they run in, as HOST/NAME@sha256:…",
        ),
        (
            file.variant == "kserve-llm" and "{{" in str(container),
            (
                "variant: kserve-llm: the server's settings contain {{, which KServe reads as a template: "
                "write another variant"
            ),
        ),
        (
            gpus and file.gpus not in (0, gpus),
            f"gpus: is {file.gpus}, serve.shards is {gpus}: write `gpus: {gpus}`",
        ),
    )


def _patch(environment: str, wanted: Mapping[Path, bytes]) -> Any:
    """Return the release's patch of the Deployment; None if no cluster can run the release."""
    return plain_yaml.load(wanted[layout.ENVIRONMENTS / environment / SERVER].decode())


def _gpus(release: Mapping[str, Any] | None) -> int:
    """Return the number of GPUs of each server that the release sets; 0 if it sets none."""
    if release is None:
        return 0
    (container,) = release["spec"]["template"]["spec"]["containers"]
    return int(container.get("resources", {}).get("limits", {}).get(GPU, 0))


def _others(environment: str, file: EnvironmentFile, committed: Files) -> Iterator[str]:
    """Compare with the other environments: each has a namespace and host names of its own."""
    names = [
        path.parent.name
        for path in committed
        if path.name == environment_file.NAME and path == environment_file.path(path.parent.name)
    ]
    namespaces = dict[str, str | None]()
    for name in sorted(set(names) - {environment}):
        try:
            other = environment_file.read(name, committed)
        except ParamsRefused as refused:
            if file.route is not None:
                yield f"route: cannot be compared with that of {name}: {refused.what}"
            continue
        namespaces[name] = other.namespace
        if other.namespace == file.namespace is not None:
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


@functools.cache
def shared_folders() -> Mapping[Path, Mapping[Path, bytes]]:
    """Return the files of each shared folder of this version, by path in a repository."""
    homes = [_DATA / _BASE, *sorted((_DATA / _COMPONENTS).iterdir())]
    return {
        layout.ENVIRONMENTS / home.relative_to(_DATA): {
            layout.ENVIRONMENTS / path.relative_to(_DATA): path.read_bytes()
            for path in sorted(home.rglob("*.yaml"))
        }
        for home in homes
    }


def shared_files(file: EnvironmentFile) -> Mapping[Path, bytes]:
    """Return the shared files that an environment with these knobs uses, by path in a repository."""
    if file.variant == "adapter":
        return {}
    names = [_BASE, *(f"{_COMPONENTS}/{name}" for name in (*file.components, file.variant))]
    used = {layout.ENVIRONMENTS / name for name in names}
    return {
        path: data
        for folder, content in shared_folders().items()
        if folder in used
        for path, data in content.items()
    }


def files_below(committed: Files, *folders: Path) -> Files:
    """Return the files that a repository has in these folders."""
    # Comparing every parent of a path took most of `status`.
    starts = tuple(f"{folder}/" for folder in folders)
    return {path: data for path, data in committed.items() if str(path).startswith(starts)}


def earlier_folders(committed: Files) -> dict[Path, Files]:
    """Return the shared folders that a repository has as an earlier version of Lockstep had them, with their files."""
    shared = files_below(committed, *_SHARED)
    contents = {folder: files_below(shared, folder) for folder in shared_folders()}
    return {folder: content for folder, content in contents.items() if _is_earlier(folder, content)}


def _is_earlier(folder: Path, content: Files) -> bool:
    manifest = {
        path.relative_to(folder).as_posix(): digest.FileDigest(digest.of_bytes(data), len(data))
        for path, data in content.items()
        if data is not None
    }
    return len(manifest) == len(content) and digest.of_manifest(manifest) in EARLIER
