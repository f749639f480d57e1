"""The component monitoring of an environment, held to what `lockstep monitor component` writes. Pure functions.

Its files lie in the environment's own folder, because rules and dashboard name the environment. The objects that they
build to are compared, so that neither an edit of a file nor a patch changes a rule that nobody generated and tested.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from release.overlay import gateway
from release.overlay.allowed import anything, keys, shown
from release.overlay.server import differences

COMPONENT = "monitoring"  # the folder, below that of the environment
_COMMAND = "lockstep monitor component"


def uses(home: Path, files: Iterable[Path]) -> bool:
    """Whether the environment in ``home`` is built with the component; ``files``: all that kustomize reads for it."""
    return any(path.is_relative_to(home / COMPONENT) for path in files)


def failures(
    environment: str, objects: Sequence[Mapping[str, Any]], wanted: Sequence[Mapping[str, Any]]
) -> Iterator[str]:
    """How ``objects``, all that an environment builds to, differ from ``wanted``, those of the component."""
    if not any(gateway.is_one(item) for item in objects):
        yield f"{COMPONENT} counts at the gateway: name {gateway.COMPONENT} in components too"
    todo = f"`{_COMMAND} {environment}` writes it from the section monitor"
    for each in wanted:
        kind, name = each["kind"], each["metadata"]["name"]
        found = [item for item in objects if item.get("kind") == kind and item["metadata"].get("name") == name]
        if not found:
            yield f"{kind} {name}: is missing: {todo}"
            continue
        labels = each["metadata"].get("labels", {})
        free = {
            "metadata.namespace": anything,
            "metadata.annotations": anything,
            "metadata.labels": keys(labels, server=False),
        }
        if said := next(differences(each, found[0], "", free), None):
            yield f"{kind} {name}: {said.replace('the release', 'the section monitor')}: {todo}"


def scaler(spec: Mapping[str, Any], annotations: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with a ScaledObject of KEDA."""
    fallback = spec.get("fallback")
    least = {"minReplicaCount": spec.get("minReplicaCount", 0)}  # KEDA's default
    if isinstance(fallback, dict):
        least["fallback.replicas"] = fallback.get("replicas")
    for key, value in least.items():
        if type(value) is not int or value < 1:
            yield f"spec.{key}: is {shown(value)}: keep at least 1"
    if "idleReplicaCount" in spec:
        yield "spec.idleReplicaCount: ends every server: remove it"
    if "autoscaling.keda.sh/paused-replicas" in annotations:
        yield "metadata.annotations: autoscaling.keda.sh/paused-replicas sets the number of servers: remove it"
