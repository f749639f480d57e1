"""Who sets the number of servers: git, or a scaler (KEDA, a HorizontalPodAutoscaler). Pure functions.

A scaler needs a manifest without `spec.replicas`, since each apply would undo its number. But a field that leaves a
manifest falls back to the API server's default, one server, unless somebody else has set it too.
"""

from collections.abc import Mapping
from pathlib import Path

from release.overlay import environment_file

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


def hand_over(namespace: str) -> str:
    """The command that keeps the number of servers when it leaves the manifest."""
    kubectl = f"kubectl -n {namespace}"
    return (
        f"{kubectl} get deployment server -o go-template='{_NUMBER}' | "
        f"{kubectl} apply --server-side --field-manager=handover -f -"
    )
