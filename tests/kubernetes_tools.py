"""The real kustomize, and the schemas of Kubernetes, for tests of what a cluster would be given."""

import os
import subprocess
from pathlib import Path
from typing import Any

import yaml

VERSIONS = ("1.35", "1.37")  # the first with image volumes unasked, and the newest that there are schemas of

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# Of an InferenceService's predictor, what is not a pod's (KServe 0.16, pkg/apis/serving/v1beta1/component.go).
_OF_A_COMPONENT = {
    "minReplicas": int,
    "maxReplicas": int,
    "labels": dict,
    "annotations": dict,
    "deploymentStrategy": dict,
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
        env={"PATH": os.environ["PATH"]},
    )


def validate(item: dict[str, Any], version: str) -> None:
    """Hold an object to the schema of its kind, unknown fields refused; KServe's to the schema of its parts."""
    if item["apiVersion"].startswith("serving.kserve.io/"):
        _validate_inference_service(item, version)
    else:
        _schemas().validate(item, version, strict=True)


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
    for name, kind in _OF_A_COMPONENT.items():
        assert isinstance(pod.pop(name), kind), name
    assert item["spec"]["predictor"]["minReplicas"] <= item["spec"]["predictor"]["maxReplicas"]
    _schemas().validate(
        {"apiVersion": "v1", "kind": "Pod", "metadata": item["metadata"], "spec": pod}, version, strict=True
    )


def pod(items: list[dict[str, Any]]) -> dict[str, Any]:
    """The specification of the one pod there."""
    (found,) = [item for item in items if item["kind"] in ("Deployment", "InferenceService")]
    return found["spec"]["predictor"] if found["kind"] == "InferenceService" else found["spec"]["template"]["spec"]
