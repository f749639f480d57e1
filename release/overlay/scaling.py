"""Who sets the number of servers: git, or a scaler (KEDA, a HorizontalPodAutoscaler). Pure functions.

A scaler needs a manifest without `spec.replicas`, since each apply would undo its number. But a field that leaves a
manifest falls back to the API server's default, one server, unless somebody else has set it too.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import yaml

from checks.storage import layout, plain_yaml
from release.overlay import environment_file, kustomization
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
