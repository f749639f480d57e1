"""The real kustomize, and the schemas of Kubernetes, for tests of what a cluster would be given."""

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

VERSIONS = ("1.35", "1.37")  # the first with image volumes unasked, and the newest that there are schemas of


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """PyYAML's, but a bare ``=`` is a text, which kustomize writes so."""


_Loader.yaml_implicit_resolvers = {k: v for k, v in yaml.SafeLoader.yaml_implicit_resolvers.items() if k != "="}


# Of an InferenceService's predictor, what is not a pod's (KServe 0.16, pkg/apis/serving/v1beta1/component.go).
_OF_A_COMPONENT = {
    "minReplicas": int,
    "maxReplicas": int,
    "labels": dict,
    "annotations": dict,
    "deploymentStrategy": dict,
}

# Of objects of operators the fields that we write, as their documentation has them: no schema of them can be installed.
# A key with a mark of question may be absent; a type is a leaf, and a list of one is a list of such. Inside lists each key
# with a default of its schema must be there: Argo CD compares such lists whole, and the API server adds the defaults.
_RULE = {"record?": str, "alert?": str, "expr": str, "for?": str, "labels?": dict, "annotations?": dict}
_ARGUMENT = {"name": str, "valueFrom": {"fieldRef": {"fieldPath": str}}}
_MATCHER = {"name": str, "value": str, "matchType": str}
_SECRET = {"name": str, "key": str}
_METADATA = {"name": str, "namespace": str, "labels?": dict, "annotations?": dict}
_OF_OPERATORS: dict[tuple[str, str], dict[str, Any]] = {
    ("argoproj.io/v1alpha1", "Rollout"): {
        "replicas": int,
        "revisionHistoryLimit": int,
        "progressDeadlineSeconds": int,
        "rollbackWindow": {"revisions": int},
        "workloadRef": {"apiVersion": str, "kind": str, "name": str, "scaleDown": str},
        "strategy": {
            "canary": {
                "maxSurge": int,
                "maxUnavailable": int,
                "steps": [
                    {"setWeight?": int, "analysis?": {"templates": [{"templateName": str}], "args": [_ARGUMENT]}}
                ],
            }
        },
    },
    ("argoproj.io/v1alpha1", "AnalysisTemplate"): {
        "args": [{"name": str}],
        "metrics": [
            {
                "name": str,
                "interval": str,
                "consecutiveSuccessLimit": int,
                "failureLimit": int,
                "inconclusiveLimit": int,
                "consecutiveErrorLimit": int,
                "successCondition": str,
                "failureCondition": str,
                "provider": {"web": {"url": str, "timeoutSeconds": int, "jsonPath": str}},
            }
        ],
    },
    ("gateway.networking.k8s.io/v1", "Gateway"): {
        "gatewayClassName": str,
        "listeners": [
            {
                "name": str,
                "protocol": str,
                "port": int,
                "hostname": str,
                "tls": {"mode": str, "certificateRefs": [{"name": str}]},
                "allowedRoutes": {"namespaces": {"from": str, "selector": {"matchLabels": dict}}},
            }
        ],
    },
    ("gateway.networking.k8s.io/v1", "HTTPRoute"): {
        "parentRefs": [{"group": str, "kind": str, "name": str, "namespace": str, "sectionName": str}],
        "hostnames": [str],
        "rules": [
            {
                "matches": [{"path": {"type": str, "value": str}}],
                "timeouts": {"request": str},
                "backendRefs": [
                    {"group": str, "kind": str, "name": str, "port": int, "namespace?": str, "weight": int}
                ],
            }
        ],
    },
    ("gateway.networking.k8s.io/v1", "ReferenceGrant"): {
        "from": [{"group": str, "kind": str, "namespace": str}],
        "to": [{"group": str, "kind": str, "name": str}],
    },
    ("monitoring.coreos.com/v1", "PodMonitor"): {
        "selector": {"matchLabels": dict},
        "podMetricsEndpoints": [
            {
                "port": str,
                "path": str,
                "interval": str,
                "relabelings": [{"action": str, "targetLabel": str, "replacement": str}],
            }
        ],
    },
    ("monitoring.coreos.com/v1", "PrometheusRule"): {"groups": [{"name": str, "rules": [_RULE]}]},
    ("monitoring.coreos.com/v1alpha1", "AlertmanagerConfig"): {
        "route": {
            "receiver": str,
            "groupBy": [str],
            "groupWait": str,
            "groupInterval": str,
            "repeatInterval": str,
            "matchers": [_MATCHER],
            "routes": [{"receiver": str, "repeatInterval": str, "matchers": [_MATCHER]}],
        },
        "receivers": [
            {
                "name": str,
                "webhookConfigs?": [{"sendResolved": bool, "urlSecret": _SECRET}],
                "slackConfigs?": [{"sendResolved": bool, "apiURL": _SECRET}],
                "msteamsv2Configs?": [{"sendResolved": bool, "webhookURL": _SECRET}],
                "pagerdutyConfigs?": [{"sendResolved": bool, "routingKey": _SECRET}],
                "opsgenieConfigs?": [{"sendResolved": bool, "apiKey": _SECRET}],
            }
        ],
    },
    ("keda.sh/v1alpha1", "ScaledObject"): {
        "scaleTargetRef": {"apiVersion": str, "kind": str, "name": str},
        "minReplicaCount": int,
        "maxReplicaCount": int,
        "triggers": [
            {
                "type": str,
                "metricType": str,
                "metadata": {"serverAddress": str, "query": str, "threshold": str, "ignoreNullValues": str},
            }
        ],
    },
}


def build(folder: Path) -> list[dict[str, Any]]:
    """What `kustomize build` gives, as plain values."""
    done = tried(folder)
    assert done.returncode == 0, done.stderr
    return [item for item in yaml.load_all(done.stdout, Loader=_Loader) if item is not None]


def tried(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["kustomize", "build", str(folder)],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": os.environ["PATH"], "GOGC": "off"},  # Collecting garbage would be a quarter of its time.
    )


def validate(item: dict[str, Any], version: str) -> None:
    """Hold an object to the schema of its kind, unknown fields refused; KServe's to the schema of its parts.

    Lists must not be empty: the API server drops them, so that ``kubectl diff`` never ends.
    """
    assert not (empty := list(_empty_lists(item, item["kind"]))), empty
    if item["apiVersion"].startswith("serving.kserve.io/"):
        _KSERVE[item["kind"]](item, version)
    elif spec := _OF_OPERATORS.get((item["apiVersion"], item["kind"])):
        _has(item, {"apiVersion": str, "kind": str, "metadata": _METADATA, "spec": spec}, item["kind"])
    else:
        _schemas().validate(item, version, strict=True)


def _empty_lists(value: Any, at: str) -> Iterator[str]:
    """The paths of all empty lists, however deep."""
    if value == []:
        yield at
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in entries:
        yield from _empty_lists(entry, f"{at}.{key}")


def _has(value: Any, shape: Any, at: str) -> None:
    if isinstance(shape, dict):
        assert isinstance(value, dict), at
        needed, known = {key for key in shape if not key.endswith("?")}, {key.rstrip("?"): key for key in shape}
        assert needed <= set(value) <= set(known), f"{at}: {sorted(value)}"
        for key, each in value.items():
            _has(each, shape[known[key]], f"{at}.{key}")
    elif isinstance(shape, list):
        assert isinstance(value, list), at
        for number, each in enumerate(value):
            _has(each, shape[0], f"{at}.{number}")
    else:
        assert type(value) is shape, at


def _schemas() -> Any:
    """The library of schemas, which takes seconds to load."""
    import kubernetes_validate  # type: ignore[import-untyped]

    return kubernetes_validate


def _validate_inference_service(item: dict[str, Any], version: str) -> None:
    """The predictor is a pod's specification and some fields more; KServe takes its container by name."""
    assert item["apiVersion"] == "serving.kserve.io/v1beta1"
    assert set(item) == {"apiVersion", "kind", "metadata", "spec"}
    assert set(item["spec"]) == {"predictor"}
    pod = dict(item["spec"]["predictor"])
    assert pod["containers"][0]["name"] == "kserve-container"
    assert all("protocol" in port for port in pod["containers"][0]["ports"])  # a default of KServe's schema
    for name, kind in _OF_A_COMPONENT.items():
        assert isinstance(pod.pop(name), kind), name
    assert item["spec"]["predictor"]["minReplicas"] <= item["spec"]["predictor"]["maxReplicas"]
    _schemas().validate(
        {"apiVersion": "v1", "kind": "Pod", "metadata": item["metadata"], "spec": pod}, version, strict=True
    )


def _validate_llm_inference_service(item: dict[str, Any], version: str) -> None:
    """The template is a pod's specification; the other fields are those of KServe 0.20's schema that we write."""
    assert item["apiVersion"] == "serving.kserve.io/v1alpha2"
    spec = dict(item["spec"])
    template = spec.pop("template")
    spec.pop("rolloutStrategy", None)  # KServe 0.20 has no such field
    assert [each["name"] for each in template["containers"]] == ["main"]
    assert all("protocol" in port for port in template["containers"][0]["ports"])
    assert re.fullmatch(r"oci\+native://[^@\s]+@sha256:[0-9a-f]{64}", spec["model"]["uri"])
    shape = {
        "model": {"name": str, "uri": str},
        "replicas": int,
        "annotations": dict,
        "storageInitializer": {"enabled": bool},
    }
    _has(spec, shape, item["kind"])
    _schemas().validate(
        {"apiVersion": "v1", "kind": "Pod", "metadata": item["metadata"], "spec": template}, version, strict=True
    )


def _validate_preset(item: dict[str, Any], version: str) -> None:
    """KServe's own preset of this name is replaced by nothing."""
    assert version
    assert (item["apiVersion"], item["metadata"]["name"]) == (
        "serving.kserve.io/v1alpha2",
        "kserve-config-llm-template",
    )
    assert "spec" not in item


_KSERVE: dict[str, Callable[[dict[str, Any], str], None]] = {
    "InferenceService": _validate_inference_service,
    "LLMInferenceService": _validate_llm_inference_service,
    "LLMInferenceServiceConfig": _validate_preset,
}


def pod(items: list[dict[str, Any]]) -> dict[str, Any]:
    """The specification of the one pod there."""
    (found,) = [item for item in items if item["kind"] in ("Deployment", "InferenceService", "LLMInferenceService")]
    path = {"InferenceService": ("predictor",), "LLMInferenceService": ("template",)}
    pod = found["spec"]
    for key in path.get(found["kind"], ("template", "spec")):
        pod = pod[key]
    assert isinstance(pod, dict)
    return pod
