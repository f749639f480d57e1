"""Computes how many GPUs an update of the servers needs, and for how long no server answers. Pure functions."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from checks.formats.pointer import Pointer
from checks.formats.serving import ServingReport
from release.overlay import environment_file, overlays, scaling
from release.overlay.environment_file import EnvironmentFile
from release.overlay.scaling import Servers


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
    if not _leaves_none(file, scaling.servers(environment, file, files)):
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
