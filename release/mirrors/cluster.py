"""A cluster as a mirror: compares its objects, read by kubectl, with what a promotion wrote. Never writes to it.

Argo CD or Flux applies git to a cluster. A difference means that it is stopped, or that someone changed the cluster.
The status of the objects, which controllers write, is read too: a Deployment may say the right image and still run the
earlier one, or nothing.
"""

import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from checks.process.text import redact
from release.adapters import process
from release.mirrors.desired import Desired
from release.mirrors.types import MirrorFinding, MirrorUnavailable
from release.overlay import adapter_component, deployed, overlays
from release.overlay.fields import at, called, dicts

DEADLINE = 15.0  # seconds for one answer
# What may run in the server's place, and what leads to it. Whatever is made of something comes before that: of what is
# listed, nothing lacks its owner because it was made in between.
_EVERYWHERE = (
    "pods",
    "replicasets.apps",
    "deployments.apps",
    "statefulsets.apps",
    "daemonsets.apps",
    "services",
)
# Not every cluster knows these kinds.
_OPTIONAL = (
    "rollouts.argoproj.io",
    "inferenceservices.serving.kserve.io",
    "llminferenceservices.serving.kserve.io",
    "llminferenceserviceconfigs.serving.kserve.io",
)
_UNKNOWN = "the server doesn't have a resource type"
_FORBIDDEN = "(Forbidden)"
_MODEL = f"{overlays.PREFIX}model"


class Cluster(NamedTuple):
    """The cluster of kubectl's context ``context``."""

    context: str
    kubectl: str  # the program


def current() -> Cluster | str:
    """Return the cluster of kubectl's current context, or why there is none."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        return "kubectl is not installed here"
    try:
        context = _output([kubectl, "config", "current-context"]).strip()
    except MirrorUnavailable:
        context = ""
    return Cluster(context, kubectl) if context else "kubectl has no current context"


def check(cluster: Cluster, desired: Desired) -> list[MirrorFinding]:
    """Return how the objects of one environment differ from its commit, and what of it the cluster has not done."""
    name, shown = desired.environment, f"cluster {redact(cluster.context, 60)}"
    if desired.files is None:
        return []  # It is not known what should run, which is a finding about git already.
    try:
        if desired.namespace is None:
            raise MirrorUnavailable(f"{name}/environment.yaml names no namespace to look in")
        objects = _objects(cluster, desired.namespace)
    except MirrorUnavailable as silent:
        todo = "see that kubectl's current context is this environment's cluster"
        if _FORBIDDEN in str(silent):
            todo = "let the caller list it, by the Role in docs/how-to/mirrors.md#clusters"
        return [MirrorFinding(
            where="cluster", what=name, git=_says(desired), mirror=f"{shown}: {silent}", severity="unreachable",
            todo=todo,
        )]  # fmt: skip
    drifted = "see what Argo CD or Flux says of it, and who changed it"
    unfinished = (
        f"wait for the rollout, or see `kubectl -n {desired.namespace} describe pods,replicasets`"
    )
    failures = [(failure, drifted) for failure in deployed.failures(objects, name, desired.files)]
    if desired.pointer and not overlays.unreachable(desired.pointer):
        adapters = deployed.adapters(desired.files, name)
        failures += [
            (failure, unfinished)
            for failure in unfinished_in(objects, desired.pointer.model, adapters)
        ]
    return [
        MirrorFinding(
            where="cluster",
            what=name,
            git=_says(desired),
            mirror=redact(failure),
            severity="drift",
            todo=todo,
        )
        for failure, todo in failures
    ]


def _objects(cluster: Cluster, namespace: str) -> list[Mapping[str, Any]]:
    """The workloads of a namespace and the Services that select them, without those of kinds that it does not know."""
    kubectl = [
        cluster.kubectl,
        f"--context={cluster.context}",
        f"--request-timeout={DEADLINE - 1:g}s",
        "get",
    ]
    # A namespace that is not there and one that is empty look the same to a list: one is another cluster.
    _output([*kubectl, "namespace", namespace, "--output=name"])
    objects = _listed(kubectl, ",".join(_EVERYWHERE), namespace)
    for kind in _OPTIONAL:
        try:
            objects += _listed(kubectl, kind, namespace)
        except MirrorUnavailable as silent:
            if _UNKNOWN not in str(silent):
                raise
    return objects


def _listed(kubectl: Sequence[str], kinds: str, namespace: str) -> list[Mapping[str, Any]]:
    text = _output([*kubectl, kinds, f"--namespace={namespace}", "--output=json"])
    try:
        return [item for item in json.loads(text)["items"] if isinstance(item, dict)]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise MirrorUnavailable(f"kubectl get {kinds} gives no list") from None


def _output(command: Sequence[str]) -> str:
    """Return the output of a command. Raises MirrorUnavailable if it fails or exceeds the time limit."""
    try:
        done = process.run(command, deadline=DEADLINE)
    except subprocess.TimeoutExpired:
        raise MirrorUnavailable(f"no answer within {DEADLINE:g} s") from None
    except OSError as error:
        raise MirrorUnavailable(f"kubectl: {error.strerror}") from None
    if done.returncode != 0:
        message = done.stderr.decode(errors="replace").strip() or f"ended with {done.returncode}"
        raise MirrorUnavailable(redact(message, 300))
    return done.stdout.decode(errors="replace")


def _says(desired: Desired) -> str:
    pointer = desired.pointer
    return f"runs {pointer.version}, {pointer.image}" if pointer else "runs nothing"


def unfinished_in(
    objects: Sequence[Mapping[str, Any]], model: str, adapters: Sequence[str] = ()
) -> list[str]:
    """Return a line for each thing that is unfinished, stuck or stopped in a cluster that should run ``model``.

    ``objects`` are those of a namespace; ``adapters``: each NAME=FOLDER that a server loads. Empty if there is not
    exactly one server, which ``deployed`` reports.
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
    lines = [
        f"{called(item)}: {problem}" for item in workloads for problem in _unfinished_workload(item)
    ]
    return lines + [
        problem
        for item in family
        if item.get("kind") == "Pod"
        for problem in _other_pod(item, model, adapters)
    ]


def _unfinished_workload(item: Mapping[str, Any]) -> Iterator[str]:
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


def _other_pod(pod: Mapping[str, Any], model: str, adapters: Sequence[str]) -> Iterator[str]:
    """Yield what a pod that gets requests was made for: another model, or other adapters."""
    metadata = at(pod, "metadata")
    ready = {"type": "Ready", "status": "True"}.items()
    if "deletionTimestamp" in metadata or not any(
        ready <= condition.items() for condition in dicts(at(pod, "status"), "conditions")
    ):
        return
    requested = f"Pod {metadata.get('name')}: gets requests, and"
    if (served := at(metadata, "annotations").get(_MODEL)) != model:
        yield f"{requested} its {_MODEL} is {served!r}, the release says {model!r}"
    containers = dicts(at(pod, "spec"), "containers")
    loaded = [word for container in containers for word in adapter_component.loaded(container)]
    if loaded != list(adapters):
        yield f"{requested} loads the adapters {', '.join(loaded) or 'none'}; by git {', '.join(adapters) or 'none'}"
