"""What a cluster runs of an environment, compared with the release."""

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest

from release.overlay import deployed, overlays
from tests.overlay_sample import (
    KINDS,
    OTHER,
    SERVER,
    pod_of,
    promoted,
    rendered,
    server_of,
)

pytestmark = pytest.mark.slow

KIND = {"deployment": "Deployment", "kserve": "InferenceService", "kserve-llm": "LLMInferenceService"}
DRIFT: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda item: server_of(item).update(image="registry.example/team/router:v1.4.0"), "server.image: is 'registry.example/team/router:v1.4.0', the release says"),
    (lambda item: server_of(item).update(image=f"registry.example/team/router@{OTHER}"), "server.image: is "),
    (lambda item: server_of(item).pop("image"), "server.image: is None"),
    (lambda item: server_of(item).update(args=["x"]), "server.args: the release sets none"),
    (lambda item: server_of(item).pop("volumeMounts"), "server.volumeMounts.*: is there 0 times"),
    (lambda item: server_of(item)["readinessProbe"]["httpGet"].update(path="/"), "server.readinessProbe.httpGet.path: is '/'"),
    (lambda item: pod_of(item).update(terminationGracePeriodSeconds=1), "pod.terminationGracePeriodSeconds: is 1"),
    (lambda item: pod_of(item).update(containers="x"), "has no container (server|kserve-container|main)$"),
    (lambda item: pod_of(item).update(volumes=None), "pod.volumes.shm: is there 0 times"),
    (lambda item: item["metadata"]["annotations"].pop("lockstep/model"), "annotations.lockstep/model: is None"),
    (lambda item: item["metadata"].pop("annotations"), "annotations.lockstep/model: is None"),
    (lambda item: item["metadata"].pop("labels"), ""),
    (lambda item: item.update(kind="Rollout"), "found none"),
    (lambda item: item.pop("spec"), "has no container (server|kserve-container|main)$"),
    (lambda item: item["spec"].update(paused=False), ""),
]  # fmt: skip
URI = "oci+native://registry.example/team/router@"
LLM: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda item: item["spec"]["model"].update(uri=f"{URI}{OTHER}"), "spec.model.uri: is '.*eee', the release says "),
    (lambda item: item["spec"]["model"].update(name="other"), "spec.model.name: is 'other', the release says 'router'"),
    (lambda item: item["spec"]["model"].update(lora={"adapters": [{"name": "a"}]}), "spec.model: the release sets no lora"),
    (lambda item: item["spec"].update(model="x"), "spec.model.name: is None"),
    (lambda item: item["spec"].pop("model"), "spec.model.uri: is None"),
    (lambda item: item["spec"].pop("storageInitializer"), "spec.storageInitializer: is None"),
    (lambda item: item["spec"].update(baseRefs=[{"name": "mine"}]), "spec.baseRefs: the release sets none"),
    (lambda item: item["spec"].update(prefill={"replicas": 1}), "spec.prefill: the release sets none"),
    (lambda item: item["spec"].update(router={"route": {}}), "spec.router: the release sets none"),
    (lambda item: item["spec"].update(labels={"app.kubernetes.io/name": "other"}), "spec.labels: the release sets none"),
    (lambda item: item["spec"].update(router=None, replicas=7, rolloutStrategy={"maxSurge": 0}), ""),
]  # fmt: skip
PRESETS: list[tuple[dict[str, Any], str]] = [
    ({"metadata": {"name": "mine"}}, "LLMInferenceServiceConfig kserve-config-llm-template: is missing"),
    ({"spec": {"template": {"containers": []}}}, "LLMInferenceServiceConfig kserve-config-llm-template: must be empty"),
    ({"spec": {"model": {"uri": ""}}}, ""),
    ({"spec": None}, ""),
]


@pytest.mark.parametrize(("change", "message"), LLM)
def test_what_drifted_of_an_llm_inference_service_is_named(
    change: Callable[[dict[str, Any]], object], message: str
) -> None:
    items = promoted("staging", "vllm", "weights", "kserve-llm")
    (item,) = [each for each in items if each["kind"] == "LLMInferenceService"]
    change(item)
    found = deployed.failures(items, "staging", rendered("staging", "vllm", "weights"))
    assert any(re.search(message, failure) for failure in found) if message else not found, found


@pytest.mark.parametrize(("change", "message"), PRESETS)
def test_a_preset_that_kserve_would_merge_into_the_pod_is_named(change: dict[str, Any], message: str) -> None:
    items = promoted("staging", "vllm", "weights", "kserve-llm")
    (item,) = [each for each in items if each["kind"] == "LLMInferenceServiceConfig"]
    item.update(change)
    found = deployed.failures(items, "staging", rendered("staging", "vllm", "weights"))
    assert any(message in failure for failure in found) if message else not found, found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("change", "message"), DRIFT)
def test_what_drifted_in_a_cluster_is_named(
    kind: str, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    items = promoted("staging", "tgi", "baked", kind)
    (item,) = [each for each in items if each["kind"] == KIND[kind]]
    change(item)
    found = deployed.failures(items, "staging", rendered())
    assert any(re.search(message, failure) for failure in found) if message else not found, found


def test_a_deployment_that_is_paused_follows_no_move_whoever_made_it() -> None:
    items = promoted("staging", "tgi", "baked", "kserve")
    (owner,) = [each for each in items if each["kind"] == "InferenceService"]
    owner["metadata"]["uid"] = "1"
    of_it = [{"uid": "1", "controller": True}]
    made = {"kind": "Deployment", "metadata": {"name": "p", "ownerReferences": of_it}, "spec": {"paused": True}}
    assert deployed.failures([*items, made], "staging", rendered()) == [
        "InferenceService server: Deployment p is paused: its pods follow no move"
    ]
    made["spec"] = {}
    assert deployed.failures([*items, made], "staging", rendered()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": overlays.PLACEHOLDER}, "server.image: is not named: write it as `server`"),
        ({"image": f"{SERVER}:latest"}, "server.image: .* is not pinned by digest"),
        ({"args": ["/models/other"]}, "server.args: is \\['/models/other'\\]"),
        ({"command": None}, "server.command: is None"),
        ({"env": []}, "server.env.*: is there 0 times"),
    ],
)
def test_the_server_of_weights_that_come_alone_is_pinned_and_started_as_its_runtime_says(
    change: dict[str, Any], message: str
) -> None:
    items = promoted("staging", "vllm", "weights", "deployment")
    (item,) = [each for each in items if each["kind"] == "Deployment"]
    server_of(item).update(change)
    found = deployed.failures(items, "staging", rendered("staging", "vllm", "weights"))
    assert any(re.search(message, failure) for failure in found), found


def test_a_server_where_nothing_was_promoted_and_a_second_one_are_gaps() -> None:
    items = promoted("staging", "tgi", "baked", "deployment")
    assert deployed.failures(items, "staging", overlays.nothing("staging")) == [
        "Deployment server: by git staging runs nothing in a cluster"
    ]
    (item,) = [each for each in items if each["kind"] == "Deployment"]
    second = copy.deepcopy(item) | {"metadata": item["metadata"] | {"name": "second"}}
    assert deployed.failures([*items, second], "staging", rendered()) == [
        "staging: there must be exactly one Deployment or InferenceService or LLMInferenceService, found Deployment server, Deployment second"
    ]
