"""Whether a cluster has finished what git says: every server is of the release, and ready. Pure functions.

``deployed`` compares what the objects of a cluster say with the release. Here their status is read, which controllers
write: a Deployment may say the right image and still run the earlier one, or nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from release.overlay import deployed
from release.overlay.fields import at, called, dicts
from release.overlay.overlays import PREFIX

_MODEL = f"{PREFIX}model"


def failures(objects: Sequence[Mapping[str, Any]], model: str) -> list[str]:
    """Return a line for each thing that is unfinished, stuck or stopped in a cluster that should run ``model``.

    ``objects`` are those of a namespace. Empty if there is not exactly one server, which ``deployed`` reports.
    """
    servers = deployed.servers(objects)
    if len(servers) != 1:
        return []
    family = deployed.family(servers[0], objects)
    rollouts = [item for item in family if item.get("kind") == "Rollout"]
    # The Deployment of a Rollout runs no pods itself.
    workloads = rollouts or [item for item in family if item.get("kind") == "Deployment"]
    if not workloads:
        return [f"{called(servers[0])}: the cluster has made no Deployment of it"]
    lines = [f"{called(item)}: {problem}" for item in workloads for problem in _unfinished(item)]
    return lines + [
        problem
        for item in family
        if item.get("kind") == "Pod"
        for problem in _other_model(item, model)
    ]


def _unfinished(item: Mapping[str, Any]) -> Iterator[str]:
    """Why a Deployment or Rollout does not yet run what it says."""
    status, generation = at(item, "status"), str(at(item, "metadata").get("generation"))
    wanted = at(item, "spec").get("replicas", 1)
    if wanted == 0:
        yield "is scaled to 0: nothing answers"
        return
    if (
        observed := str(status.get("observedGeneration"))
    ) != generation:  # Argo Rollouts writes a text
        yield f"its controller has not seen its latest change (generation {generation}, seen {observed})"
        return
    for condition in dicts(status, "conditions"):
        name, value = condition.get("type"), condition.get("status")
        if (name, value) in (("Progressing", "False"), ("ReplicaFailure", "True")):
            yield f"is stuck: {condition.get('reason')}: {condition.get('message')}"
    if item.get("kind") == "Rollout" and (phase := status.get("phase")) != "Healthy":
        yield f"is {phase}: {status.get('message')}"
    replicas, updated, ready, available = (
        status.get(name, 0)
        for name in ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas")
    )
    if {replicas, updated, ready, available} != {wanted}:
        yield (
            f"of {wanted} servers {updated} are of the latest change, {ready} ready, {available} available; "
            f"{replicas} pods are there"
        )


def _other_model(pod: Mapping[str, Any], model: str) -> Iterator[str]:
    """A pod that gets requests and was made for another model."""
    metadata = at(pod, "metadata")
    ready = {"type": "Ready", "status": "True"}.items()
    if "deletionTimestamp" in metadata or not any(
        ready <= condition.items() for condition in dicts(at(pod, "status"), "conditions")
    ):
        return
    if (served := at(metadata, "annotations").get(_MODEL)) != model:
        yield f"Pod {metadata.get('name')}: gets requests, and its {_MODEL} is {served!r}, the release says {model!r}"
