"""Who sets the number of servers, git or a scaler (KEDA, a HorizontalPodAutoscaler), and what an update of them needs.

Pure functions. An update needs GPUs, and there may be no server that answers meanwhile.

A scaler needs a manifest without `spec.replicas`, since each apply would undo its number. But a field that leaves a
manifest falls back to the API server's default, one server, unless somebody else has set it too.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import yaml

from checks.formats.pointer import Pointer
from checks.formats.serving import ServingReport
from checks.storage import layout, plain_yaml
from release.overlay import environment_file, kustomization, overlays
from release.overlay.environment_file import EnvironmentFile
from release.overlay.fields import at

# Server-side apply of the number alone, as another field manager.
_NUMBER = (
    '{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"server"},'
    '"spec":{"replicas":{{.spec.replicas}}}}'
)
PAGE = "docs/how-to/monitoring.md#hand-the-number-of-servers-over"


def scaled(environment: str, files: Mapping[Path, bytes | None]) -> bool:
    """Return whether the environment leaves the number of servers to a scaler."""
    file = environment_file.readable(environment, files)
    return file is not None and file.replicas is None


class Servers(NamedTuple):
    """How many servers run at a time."""

    fewest: int
    most: int


def scaled_object(environment: str) -> Path:
    """Return the path of the numbers that KEDA keeps to, in the repository."""
    return layout.ENVIRONMENTS / environment / kustomization.MONITORING / "scaledobject.yaml"


def servers(environment: str, file: EnvironmentFile, files: Mapping[Path, bytes | None]) -> Servers:
    """Return the number of servers that git sets, or KEDA's bounds; of another scaler one server is certain."""
    if file.replicas is not None:
        return Servers(file.replicas, file.replicas)
    try:
        scaler = plain_yaml.load((files.get(scaled_object(environment)) or b"").decode())
    except (yaml.YAMLError, ValueError):
        scaler = None  # ``edits`` refuses the file.
    bounds = at({"object": scaler}, "object", "spec")
    fewest, most = bounds.get("minReplicaCount"), bounds.get("maxReplicaCount")
    if isinstance(fewest, int) and isinstance(most, int):
        return Servers(fewest, most)
    return Servers(1, 1)


def hand_over(namespace: str) -> str:
    """The command that keeps the number of servers when it leaves the manifest."""
    kubectl = f"kubectl -n {namespace}"
    return (
        f"{kubectl} get deployment server -o go-template='{_NUMBER}' | "
        f"{kubectl} apply --server-side --field-manager=handover -f -"
    )


def failures(file: EnvironmentFile, servers: Servers, gpus: int) -> Iterator[str]:
    """Yield why an update could not end, or would end every server unasked. ``gpus``: of each server."""
    capacity = file.capacity
    surge = gpus * (servers.most + 1)
    if _leaves_none(file, servers) and file.downtime is None:
        ended = "all servers end" if file.update == "pause" else "the only server ends"
        other = ", or `update: surge`" if capacity is None or surge <= capacity else ""
        yield f"update: {file.update}: {ended} before a new one starts: write `downtime: allowed`{other}"
    needed = surge if file.update == "surge" else gpus * servers.most
    if capacity is not None and needed > capacity:
        count = f"{servers.most} server{'s' * (servers.most != 1)}"
        more = " and for one more during an update" if file.update == "surge" else ""
        fix = _fix(file, servers, gpus * servers.most <= capacity)
        yield (
            f"capacity: is {capacity}, but {needed} GPUs are needed, {gpus} each for {count}{more}: write {fix}, "
            f"or `capacity: {needed}` if there are so many"
        )


def gap(
    environment: str, pointer: Pointer, report: ServingReport, files: Mapping[Path, bytes | None]
) -> str:
    """Say how long no server answers during an update, by what ``report`` measured; empty if one always does."""
    file = environment_file.readable(environment, files)
    if file is None or overlays.unreachable(pointer):
        return ""
    if not _leaves_none(file, servers(environment, file, files)):
        return ""
    values = {check.name: check.value for check in report.checks}
    about = f"update: {file.update}: no server answers"
    start, drain = values["start"], values["drain"] or 0.0
    if start is None or report.how == "url":
        return f"{about} while a new one starts: verification did not measure how long"
    ends = overlays.PRE_STOP + drain
    return (
        f"{about} for about {ends + start:.0f} s: the old one ends in {ends:.1f} s, the new one answers {start:.1f} s "
        f"later, as verified on {report.device}"
    )


def _leaves_none(file: EnvironmentFile, servers: Servers) -> bool:
    return file.update == "pause" or (file.update == "replace" and servers.fewest == 1)


def _fix(file: EnvironmentFile, servers: Servers, without_surge: bool) -> str:
    """Return the knobs with which an update fits. ``without_surge``: it does if no server starts beside the others."""
    if not without_surge:
        return (
            "fewer `replicas` or `gpus`" if file.replicas else "a smaller `most` in monitor.scaling"
        )
    knobs = [
        *(["`variant: deployment`"] if file.variant == "rollout" else []),
        "`update: replace`",
        *(["`downtime: allowed`"] if servers.fewest == 1 and file.downtime is None else []),
    ]
    return " and ".join(knobs)
