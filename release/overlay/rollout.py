"""The Rollout of Argo Rollouts by which pods are replaced step by step (components/rollout). Pure functions.

It takes its pod from the Deployment, so only the release says what runs. It is held to ask `lockstep canary` about this
release before most pods are replaced.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from release.overlay.allowed import Rule, anything, between, group_and_kind, keys, kind, shown
from release.overlay.overlays import CONTAINER, PREFIX
from release.overlay.server import SELECTED, differences

GROUP = "argoproj.io"
_API = f"{GROUP}/v1alpha1"
_TEMPLATE = "lockstep-canary"
_MODEL = f"{PREFIX}model"
_PORT = 8099
_EARLY = 50  # percent of the pods that may be replaced before the verdict
_HOURS = 6 * 3600

_ANALYSIS: dict[str, Any] = {
    "analysis": {
        "templates": [{"templateName": _TEMPLATE}],
        "args": [
            {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}
            for name, path in (("namespace", "metadata.namespace"), ("model", f"metadata.annotations['{_MODEL}']"))
        ],
    }
}
_METRIC: dict[str, Any] = {
    "name": "lockstep",
    "interval": "5m",
    "consecutiveSuccessLimit": 1,
    "failureLimit": 0,
    "inconclusiveLimit": 2016,
    "consecutiveErrorLimit": 36,
    "successCondition": 'result == "keep"',
    "failureCondition": 'result == "roll back"',
    "provider": {
        "web": {
            "url": f"http://{_TEMPLATE}.{{{{args.namespace}}}}.svc:{_PORT}/decision?candidate={{{{args.model}}}}",
            "timeoutSeconds": 240,
            "jsonPath": "{$.decision}",
        }
    },
}


_ANALYSIS_TEMPLATE: dict[str, Any] = {
    "apiVersion": _API,
    "kind": "AnalysisTemplate",
    "metadata": {"name": _TEMPLATE, "labels": dict(SELECTED)},
    "spec": {"args": [{"name": "namespace"}, {"name": "model"}], "metrics": [_METRIC]},
}


def of(objects: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The Rollout among ``objects``, if there is one."""
    return next((each for each in objects if group_and_kind(each) == (GROUP, "Rollout")), None)


def failures(
    objects: Sequence[Mapping[str, Any]], deployment: Mapping[str, Any], release: Mapping[str, str]
) -> Iterator[str]:
    """What is wrong with the Rollout and its analysis among ``objects``, whose server is ``deployment``.

    ``release``: the annotations that a promotion writes.
    """
    rollouts = [each for each in objects if group_and_kind(each) == (GROUP, "Rollout")]
    templates = [each for each in objects if group_and_kind(each) == (GROUP, "AnalysisTemplate")]
    if not rollouts and not templates:
        return
    if len(rollouts) != 1 or len(templates) != 1 or deployment.get("kind") != "Deployment":
        yield "a Rollout, its AnalysisTemplate and the Deployment of its pods belong together: name release/rollout"
        return
    name = str(deployment["metadata"].get("name"))
    if "replicas" in (deployment.get("spec") or {}):
        yield f"Deployment {name}: spec.replicas: the Rollout says how many servers there are: remove it"
    yield from _named(rollouts[0], _rollout(name, release), _rules(release))
    yield from _named(templates[0], _ANALYSIS_TEMPLATE, _of_metadata(SELECTED, {}))


def _named(item: Mapping[str, Any], wanted: Mapping[str, Any], free: Mapping[str, Rule]) -> Iterator[str]:
    name = item["metadata"].get("name")
    yield from (f"{item['kind']} {shown(name)[1:-1]}: {problem}" for problem in differences(wanted, item, "", free))


def _rollout(deployment: str, release: Mapping[str, str]) -> dict[str, Any]:
    workload = {"apiVersion": "apps/v1", "kind": "Deployment", "name": deployment, "scaleDown": "onsuccess"}
    return {
        "apiVersion": _API,
        "kind": "Rollout",
        "metadata": {"name": CONTAINER, "labels": dict(SELECTED), "annotations": release},
        "spec": {
            "rollbackWindow": {"revisions": 3},
            "workloadRef": workload,
            "strategy": {"canary": {"steps": []}},
        },
    }


def _rules(release: Mapping[str, str]) -> dict[str, Rule]:
    """What people may change."""
    return {
        **_of_metadata(SELECTED, release),
        "spec.replicas": between(1, 1000),
        "spec.revisionHistoryLimit": between(3, 100),
        "spec.progressDeadlineSeconds": between(60, _HOURS),
        "spec.minReadySeconds": between(0, 3600),
        **dict.fromkeys(("spec.strategy.canary.maxSurge", "spec.strategy.canary.maxUnavailable"), kind(int, str)),
        "spec.strategy.canary.steps": _steps,
    }


def _of_metadata(labels: Mapping[str, str], annotations: Mapping[str, str]) -> dict[str, Rule]:
    return {
        "metadata.labels": keys(labels, server=True),
        "metadata.annotations": keys(annotations, server=True),
        "metadata.namespace": anything,  # ``objects`` compares it
    }


def _steps(value: Any) -> str | None:
    """Check that a part of the pods is replaced first, and then the analysis runs. Other steps may follow."""
    steps = value if isinstance(value, list) else []
    if _ANALYSIS not in steps:
        return "has no analysis as components/rollout writes it: keep that step"
    before = [each["setWeight"] for each in steps[: steps.index(_ANALYSIS)] if _is_step(each) and "setWeight" in each]
    if not before or not all(1 <= weight <= _EARLY for weight in before):
        return f"{shown(before)}: before the analysis let setWeight be 1 to {_EARLY}: it compares two releases"
    if wrong := [each for each in steps if each != _ANALYSIS and not _is_step(each)]:
        return f"is {shown(wrong[0])}, allowed beside the analysis: setWeight, pause"
    return None


def _is_step(step: object) -> bool:
    """Whether a step replaces pods or waits."""
    if not isinstance(step, dict) or len(step) != 1:
        return False
    ((name, value),) = step.items()
    if name == "setWeight":
        return type(value) is int and 0 <= value <= 100
    return name == "pause" and isinstance(value, dict) and value.keys() <= {"duration"}
