"""Updates: GPUs that they need at a time, servers that they end, and the seconds in which none answers."""

import itertools
import re
from pathlib import Path
from typing import Any, get_args

import pytest

from checks.formats.serving import OPTIONAL, CheckName, ServingCheck, ServingReport
from release.overlay import edits, overlays, scaling
from release.overlay.fields import at
from tests import kubernetes_tools, programs
from tests.overlay_sample import IMAGE, MODEL, OTHER, edit, failures, image, load, lying, pointer, put, rendered, serve

SURGE = {"gpus": 1, "replicas": 2}
STUCK: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "nothing declared": (SURGE, ()),
    "no GPUs": ({"capacity": 0, "replicas": 9}, ()),
    "room for one more": (SURGE | {"capacity": 3}, ()),
    "no room for one more": (SURGE | {"capacity": 2}, (
        "capacity: is 2, but 3 GPUs are needed, 1 each for 2 servers and .*: write `update: replace`, or `capacity: 3` if there are so many$",
    )),
    "one server on one GPU": ({"gpus": 1, "capacity": 1}, (
        "capacity: is 1, but 2 GPUs are needed, 1 each for 1 server and .*: write `update: replace` and `downtime: allowed`, or `cap",
    )),
    "no room for the servers": (SURGE | {"capacity": 1}, ("capacity: is 1, but 3 GPUs .*: write fewer `replicas` or `gpus`, or `capacity: 3`",)),
    "the other servers stay": (SURGE | {"capacity": 2, "update": "replace"}, ()),
    "no room for what stays": (
        {"gpus": 2, "replicas": 2, "capacity": 3, "update": "replace"},
        ("capacity: is 3, but 4 GPUs are needed, 2 each for 2 servers: write fewer `replicas` or `gpus`, or `capacity: 4` if",),
    ),
    "the only server ends": (
        {"update": "replace"}, ("update: replace: the only server ends before a new one starts: write `downtime: allowed`, or `update: surge`$",)
    ),
    "without room for another": (
        {"update": "replace", "gpus": 1, "capacity": 1}, ("update: replace: .*: write `downtime: allowed`$",)
    ),
    "all servers end": (
        {"update": "pause", "replicas": 3}, ("update: pause: all servers end before a new one starts: write `downtime: allowed`, or",)
    ),
    "both": ({"update": "pause", "gpus": 2, "replicas": 2, "capacity": 3}, ("update: pause: ", "capacity: is 3, but 4 GPUs")),
    "in writing": ({"update": "pause", "downtime": "allowed", "gpus": 1, "capacity": 1}, ()),
    "the only server, in writing": ({"update": "replace", "downtime": "allowed"}, ()),
    "another's scaler": ({"update": "replace", "replicas": None}, ("update: replace: the only server ends",)),
    "a Rollout": (
        SURGE | {"variant": "rollout", "capacity": 2}, ("capacity: is 2, but 3 .*: write `variant: deployment` and `update: replace`, or",)
    ),
    "an InferenceService": (SURGE | {"variant": "kserve", "capacity": 2}, ("capacity: is 2, but 3 .*: write `update: replace`, or",)),
}  # fmt: skip


@pytest.mark.parametrize("case", STUCK)
def test_an_update_that_cannot_end_or_leaves_no_server_is_refused_but_for_a_rollback(case: str, tree: Path) -> None:
    knobs, lines = STUCK[case]
    edit(tree, "staging", lambda own: own.update(knobs))
    found = failures(tree)
    assert len(found) == len(lines)
    for failure, line in zip(found, lines, strict=True):
        assert re.match(f"release/environments/staging/environment.yaml: {line}", failure), failure
    assert found == edits.stuck("staging", lying(tree))
    assert edits.failures("staging", lying(tree), rendered(), lambda: (), rollback=True) == []


def test_the_gpus_of_a_release_count_where_no_knob_says_them(tree: Path) -> None:
    sharded = overlays.render("staging", pointer(), image(), load("tgi"), serve(shards=4))
    put(tree, sharded)
    edit(tree, "staging", lambda own: own.update(capacity=7))
    (failure,) = failures(tree, sharded)
    assert "capacity: is 7, but 8 GPUs are needed, 4 each for 1 server and for one more during an update" in failure
    edit(tree, "staging", lambda own: own.update(capacity=8))
    assert failures(tree, sharded) == []


# The object that KServe, Argo Rollouts or Kubernetes reads, the place of its strategy, and that of the number.
BUILT = {
    "deployment": ("Deployment", ("spec", "strategy"), ("spec",), "replicas"),
    "kserve": ("InferenceService", ("spec", "predictor", "deploymentStrategy"), ("spec", "predictor"), "maxReplicas"),
    "kserve-llm": ("LLMInferenceService", ("spec", "rolloutStrategy"), ("spec",), "replicas"),
    "rollout": ("Rollout", ("spec", "strategy", "canary"), ("spec",), "replicas"),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "update"),
    [
        *itertools.product(("deployment", "kserve"), ("surge", "replace", "pause")),
        *itertools.product(("kserve-llm",), ("surge", "replace")),
        ("rollout", "surge"),
    ],
)
def test_the_capacity_is_compared_with_what_the_built_objects_need(variant: str, update: str, tree: Path) -> None:
    programs.require("kustomize")
    knobs = {"variant": variant, "update": update, "downtime": "allowed", "gpus": 2, "replicas": 4, "capacity": 100}
    edit(tree, "staging", lambda own: own.update(knobs))
    items = kubernetes_tools.build(tree / "staging")
    kind, of_strategy, of_number, number = BUILT[variant]
    (item,) = [item for item in items if item["kind"] == kind]
    strategy = at(item, *of_strategy)
    assert (strategy.get("type") == "Recreate") == (update == "pause")
    surge = strategy.get("rollingUpdate", strategy).get("maxSurge", 0)
    limit = kubernetes_tools.pod(items)["containers"][0]["resources"]["limits"]["nvidia.com/gpu"]
    needed = int(limit) * (at(item, *of_number)[number] + surge)
    edit(tree, "staging", lambda own: own.update(capacity=needed))
    assert failures(tree) == []
    edit(tree, "staging", lambda own: own.update(capacity=needed - 1))
    (failure,) = failures(tree)
    assert f"capacity: is {needed - 1}, but {needed} GPUs are needed, 2 each for 4 servers" in failure


@pytest.mark.parametrize(
    ("replicas", "update", "strategy"),
    [
        (3, "surge", None),  # Kubernetes' default, a quarter of three, rounded: KServe 0.20 refuses the field
        (4, "surge", {"maxUnavailable": 0, "maxSurge": 1}),
        (1, "replace", {"maxUnavailable": 1, "maxSurge": 0}),
    ],
)
def test_an_llm_inference_service_has_the_field_only_where_it_makes_a_difference(
    replicas: int, update: str, strategy: dict[str, int] | None, tree: Path
) -> None:
    programs.require("kustomize")
    knobs = {"variant": "kserve-llm", "update": update, "downtime": "allowed", "replicas": replicas}
    edit(tree, "staging", lambda own: own.update(knobs))
    (item,) = [each for each in kubernetes_tools.build(tree / "staging") if each["kind"] == "LLMInferenceService"]
    assert item["spec"].get("rolloutStrategy") == strategy
    assert item["spec"]["replicas"] == replicas


def verified(how: str = "container", **values: float) -> ServingReport:
    """What a verification on a GPU measured."""
    checks = tuple(
        ServingCheck(name=name, status="pass", reason="as it should", value=values.get(name))
        for name in get_args(CheckName)
        if name not in OPTIONAL
    )
    return ServingReport.model_validate({
        "image": IMAGE, "model": MODEL, "verdict": OTHER, "probes": OTHER, "runtime": "tgi", "how": how,
        "device": "GPU all", "checks": checks, "load": (), "status": "pass", "tool": "0.1.0",
    })  # fmt: skip


MEASURED = verified(start=42.04, drain=0.5)
PAUSE = {"update": "pause"}
GAPS: dict[str, tuple[dict[str, Any], ServingReport, str]] = {
    "all end": (
        PAUSE | {"replicas": 3}, MEASURED,
        "for about 53 s: the old one ends in 10.5 s, the new one answers 42.0 s later, as verified on GPU all",
    ),
    "the only one ends": ({"update": "replace"}, MEASURED, "update: replace: no server answers for about 53 s"),
    "an InferenceService": (PAUSE | {"variant": "kserve"}, MEASURED, "update: pause: no server answers for about 53 s"),
    "a drain that was not measured": (PAUSE, verified(start=42.04), "for about 52 s: the old one ends in 10.0 s"),
    "an older report": (PAUSE, verified(), "update: pause: no server answers while a new one starts: verification did not measure"),
    "a server that ran already": (PAUSE, verified("url", start=0.1), "verification did not measure how long"),
    "others answer": ({"update": "replace", "replicas": 2}, MEASURED, ""),
    "the old one answers": ({}, MEASURED, ""),
    "a Rollout": ({"variant": "rollout"}, MEASURED, ""),
}  # fmt: skip


@pytest.mark.parametrize("case", GAPS)
def test_for_how_long_no_server_answers_is_what_verify_measured(case: str, tree: Path) -> None:
    knobs, report, line = GAPS[case]
    edit(tree, "staging", lambda own: own.update(knobs))
    found = scaling.gap("staging", pointer(), report, lying(tree))
    assert bool(found) == bool(line)
    assert line in found
    assert scaling.gap("staging", pointer(image=f"oci:.lockstep/image@{IMAGE}"), report, lying(tree)) == ""
    (tree / "staging" / "environment.yaml").write_text("namespace: 5\n")
    assert scaling.gap("staging", pointer(), report, lying(tree)) == ""
    assert edits.stuck("staging", lying(tree)) == []
