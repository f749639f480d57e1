"""The gate over size, time and cost: each figure against its bound, and figures that were never measured."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from checks import chain, digest, files, layout, scoring
from checks.chain import Evidence
from checks.evidence import EvaluationReport, MergedFile, ParityReport, TrainReport
from checks.gate_kinds import BudgetGate
from checks.gates import budget, judge
from checks.verdict import Finding
from tests import evidence_tree
from tests.conftest import as_params, scaled_down

ALL = {
    "parameters_millions": 150.0, "artifact_mb": 300.0, "train_minutes": 10.0, "latency_p95_seconds": 5.0,
    "gpu_hours": 1.0, "cost": 0.05, "hourly_price": 0.5,
}  # fmt: skip


HUNDREDTHS = tuple((i + 1) / 100 for i in range(100))


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    """Evidence of a run with 100 test rows."""
    root, params = tmp_path_factory.mktemp("run"), as_params(scaled_down())
    evidence_tree.build(root, params, test_rows=100, right=90)
    return chain.gather(root, scoring.digest_of(params.evaluate.scorers))


def measured(
    ground: Evidence,
    *,
    train: dict[str, Any] | None = None,
    sizes: tuple[int, ...] = (270_000_000, 2_000_000),
    latencies: tuple[float, ...] = HUNDREDTHS,
    speed: float | None = 1.0,
) -> Evidence:
    """A run that trained for 260 s on a GPU and answered 100 rows at one a second: 360 s, a tenth of an hour."""
    reports = ground.reports
    assert reports.train is not None
    assert reports.parity is not None
    assert reports.evaluation is not None
    told = {"total_parameters": 136_000_000, "trainable_parameters": 2_000_000, "seconds": 260.0, "device": "cuda (a)"}
    merged = {f"shard-{i}": MergedFile(sha256=f"sha256:{'0' * 64}", size=size) for i, size in enumerate(sizes)}
    candidate = reports.evaluation.models["candidate"].model_copy(update={"examples_per_second": speed})
    models = reports.evaluation.models | {"candidate": candidate}
    answers = tuple(
        answer.model_copy(update={"latency": latency})
        for answer, latency in zip(ground.answers["candidate"], latencies, strict=False)
    )
    return replace(
        ground,
        reports=replace(
            reports,
            train=reports.train.model_copy(update=told | (train or {})),
            parity=reports.parity.model_copy(update={"files": merged}),
            evaluation=reports.evaluation.model_copy(update={"models": models}),
        ),
        answers=ground.answers | {"candidate": answers},
    )


def asked(evidence: Evidence, **bounds: float) -> Finding:
    return budget.ask("affordable", BudgetGate(kind="budget", **bounds), evidence)


def test_a_model_within_every_bound_passes_and_each_figure_is_told(ground: Evidence) -> None:
    finding = asked(measured(ground), **ALL)
    assert finding.status == "pass"
    assert finding.reason == (
        "parameters_millions 134 million, at most 150; artifact_mb 272 MB, at most 300; "
        "train_minutes 4.333 min, at most 10; latency_p95_seconds 0.95 s, at most 5; "
        "gpu_hours 0.1 hours, estimated, at most 1; cost 0.05 for the device hours, estimated, at most 0.05"
    )
    assert (finding.metric, finding.value, finding.bound) == ("cost", 0.05, 0.05)  # at the bound is within it


@pytest.mark.parametrize(
    ("bounds", "words"),
    [
        ({"parameters_millions": 133.9}, "parameters_millions 134 million, above 133.9"),
        ({"artifact_mb": 271.9}, "artifact_mb 272 MB, above 271.9"),
        ({"train_minutes": 4.3}, "train_minutes 4.333 min, above 4.3"),
        ({"latency_p95_seconds": 0.94}, "latency_p95_seconds 0.95 s, above 0.94"),
        ({"gpu_hours": 0.09}, "gpu_hours 0.1 hours, estimated, above 0.09"),
        ({"cost": 0.04, "hourly_price": 0.5}, "cost 0.05 for the device hours, estimated, above 0.04"),
    ],
)
def test_a_figure_above_its_bound_fails_and_is_the_findings_value(
    ground: Evidence, bounds: dict[str, float], words: str
) -> None:
    finding = asked(measured(ground), **bounds)
    assert (finding.status, finding.reason) == ("fail", words)
    metric = next(iter(bounds))
    assert (finding.metric, finding.bound) == (metric, bounds[metric])
    assert finding.value is not None
    assert finding.value > bounds[metric]


def test_all_that_is_exceeded_comes_first_and_the_worst_is_the_value(ground: Evidence) -> None:
    finding = asked(measured(ground), **ALL | {"artifact_mb": 200.0, "train_minutes": 1.0})
    assert finding.status == "fail"
    assert finding.reason.startswith("artifact_mb 272 MB, above 200; train_minutes 4.333 min, above 1; parameters")
    assert finding.metric == "train_minutes"


def test_the_latency_is_one_that_was_measured(ground: Evidence) -> None:
    finding = asked(measured(ground, latencies=(0.5,) * 95 + (9.0,) * 5), latency_p95_seconds=1.0)
    assert (finding.status, finding.value, finding.n) == ("pass", 0.5, 100)
    assert finding.method == "95th percentile by nearest rank"
    assert asked(measured(ground, latencies=(0.5,) * 94 + (9.0,) * 6), latency_p95_seconds=1.0).value == 9.0


@pytest.mark.parametrize(("device", "hours"), [("cpu (2 threads)", 0.0), ("cuda (H100)", 0.1), ("", 0.1)])
def test_hours_of_a_gpu_are_none_on_a_cpu_and_a_device_costs_either_way(
    ground: Evidence, device: str, hours: float
) -> None:
    evidence = measured(ground, train={"device": device})
    assert asked(evidence, gpu_hours=1.0).value == hours
    assert asked(evidence, cost=1.0, hourly_price=2.0).value == 0.2


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), 0.0, -1.0])
@pytest.mark.parametrize("bound", ["train_minutes", "gpu_hours", "cost"])
def test_a_training_time_that_is_no_time_is_no_evidence(ground: Evidence, wrong: float, bound: str) -> None:
    bounds = {bound: 1e9} | ({"hourly_price": 1.0} if bound == "cost" else {})
    finding = asked(measured(ground, train={"seconds": wrong}), **bounds)
    assert (finding.status, finding.value) == ("fail", None)
    assert f"{bound}: no evidence" in finding.reason


@pytest.mark.parametrize(
    ("change", "bounds"),
    [
        ({"train": {"total_parameters": 5, "trainable_parameters": 5}}, {"parameters_millions": 1.0}),
        ({"sizes": ()}, {"artifact_mb": 1.0}),
        ({"sizes": (0, 0)}, {"artifact_mb": 1.0}),
        ({"latencies": ()}, {"latency_p95_seconds": 1.0}),
        ({"latencies": (0.0,) * 100}, {"latency_p95_seconds": 1.0}),
        ({"latencies": (float("nan"),) * 100}, {"latency_p95_seconds": 1.0}),
        ({"latencies": ()}, {"gpu_hours": 9.0}),
        ({"speed": None}, {"gpu_hours": 9.0}),
        ({"speed": 0.0}, {"cost": 9.0, "hourly_price": 1.0}),
        ({"speed": None, "train": {"device": "cpu"}}, {"gpu_hours": 9.0}),
    ],
)
def test_a_figure_that_was_never_measured_fails(
    ground: Evidence, change: dict[str, Any], bounds: dict[str, float]
) -> None:
    finding = asked(measured(ground, **change), **bounds)
    assert finding.status == "fail"
    assert f"{next(iter(bounds))}: no evidence: a figure it needs is zero, or not there" in finding.reason


def test_what_is_measured_is_told_beside_what_is_not(ground: Evidence) -> None:
    finding = asked(measured(ground, sizes=()), artifact_mb=300.0, parameters_millions=100.0)
    assert finding.reason.startswith("parameters_millions 134 million, above 100; artifact_mb: no evidence")
    assert finding.metric == "parameters_millions"


ZERO = f"sha256:{'0' * 64}"
MISSED = {
    layout.TRAIN_REPORT: {"parameters_millions", "train_minutes", "gpu_hours", "cost"},
    layout.PARITY_REPORT: {"artifact_mb"},
    layout.EVALUATION: {"latency_p95_seconds", "gpu_hours", "cost"},
    layout.PREDICTIONS / "candidate.jsonl": {"latency_p95_seconds", "gpu_hours", "cost"},
}


@pytest.mark.parametrize("gone", MISSED, ids=str)
def test_the_verdict_asks_the_gate_and_misses_what_is_gone(
    tmp_path: Path, document: dict[str, Any], gone: Path
) -> None:
    document["gates"] = {"affordable": {"kind": "budget", **ALL}}
    params = as_params(document)
    evidence_tree.build(tmp_path, params)
    scorers = scoring.digest_of(params.evaluate.scorers)
    assert judge(params, chain.gather(tmp_path, scorers)).status == "pass"
    (tmp_path / gone).unlink()
    evidence = chain.gather(tmp_path, scorers)
    gate = params.gates["affordable"]
    assert isinstance(gate, BudgetGate)
    reason = budget.ask("affordable", gate, evidence).reason
    assert judge(params, evidence).status == "fail"
    assert {bound for bound in ALL if f"{bound}: no evidence: " in reason} == MISSED[gone]


def test_a_larger_artifact_in_the_record_fails_the_verdict(tmp_path: Path, document: dict[str, Any]) -> None:
    document["gates"] = {"affordable": {"kind": "budget", "artifact_mb": 1.0, "train_minutes": 1.0}}
    params = as_params(document)
    evidence_tree.build(tmp_path, params)
    heavy = digest.of_manifest({"a": digest.FileDigest(ZERO, 2_000_000)})
    for path, model, update in (
        (
            layout.PARITY_REPORT,
            ParityReport,
            {"files": {"a": MergedFile(sha256=ZERO, size=2_000_000)}, "merged": heavy},
        ),
        (layout.TRAIN_REPORT, TrainReport, {"seconds": 120.0}),
    ):
        report = files.read_json(tmp_path / path, model)
        files.write_json(tmp_path / path, report.model_copy(update=update))
    evaluation = files.read_json(tmp_path / layout.EVALUATION, EvaluationReport)
    files.write_json(tmp_path / layout.EVALUATION, evaluation.model_copy(update={"merged": heavy}))
    reason = judge(params, chain.gather(tmp_path, scoring.digest_of(params.evaluate.scorers))).findings[0].reason
    assert reason == "artifact_mb 2 MB, above 1; train_minutes 2 min, above 1"
