"""The gate over size: each figure against its bound, figures that were never measured, and no figure of a clock."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from checks.decision.judging import judge
from checks.evaluation import scoring
from checks.formats.evaluation_reports import EvaluationReport
from checks.formats.evidence import Evidence
from checks.formats.training_reports import MergedFile, ParityReport
from checks.formats.verdict import Finding
from checks.gates.budget import BudgetGate
from checks.gating import chain
from checks.kinds.gate import GATES
from checks.storage import digest, files, layout
from tests import evidence_tree
from tests.conftest import as_params, scaled_down

ALL = {"parameters_millions": 150.0, "artifact_mb": 272.0}


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    """Evidence of a run."""
    root, params = tmp_path_factory.mktemp("run"), as_params(scaled_down())
    evidence_tree.build(root, params)
    return chain.gather(root, scoring.digest_of(params.evaluate.scorers))


def measured(
    ground: Evidence, *, train: dict[str, Any] | None = None, sizes: tuple[int, ...] = (270_000_000, 2_000_000)
) -> Evidence:
    """A model of 134 million parameters in 272 MB."""
    reports = ground.reports
    assert reports.train is not None
    assert reports.parity is not None
    told = {"total_parameters": 136_000_000, "trainable_parameters": 2_000_000} | (train or {})
    merged = {f"shard-{i}": MergedFile(sha256=f"sha256:{'0' * 64}", size=size) for i, size in enumerate(sizes)}
    train_report = reports.train.model_copy(update=told)
    parity = reports.parity.model_copy(update={"files": merged})
    return replace(ground, reports=replace(reports, train=train_report, parity=parity))


def asked(evidence: Evidence, **bounds: float) -> Finding:
    return evidence_tree.asked("affordable", BudgetGate(kind="budget", **bounds), evidence)


def test_a_model_within_every_bound_passes_and_each_figure_is_told(ground: Evidence) -> None:
    finding = asked(measured(ground), **ALL)
    assert finding.status == "pass"
    assert finding.reason == "parameters_millions 134, at most 150; artifact_mb 272, at most 272"
    assert (finding.metric, finding.value, finding.bound) == ("artifact_mb", 272.0, 272.0)  # at the bound is within it


@pytest.mark.parametrize(
    ("bounds", "words"),
    [
        ({"parameters_millions": 133.9}, "parameters_millions 134, above 133.9"),
        ({"artifact_mb": 271.9}, "artifact_mb 272, above 271.9"),
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
    finding = asked(measured(ground), parameters_millions=150.0, artifact_mb=100.0)
    assert finding.status == "fail"
    assert finding.reason.startswith("artifact_mb 272, above 100; parameters_millions 134")
    assert finding.metric == "artifact_mb"


@pytest.mark.parametrize(
    ("change", "bounds"),
    [
        ({"train": {"total_parameters": 5, "trainable_parameters": 5}}, {"parameters_millions": 1.0}),
        ({"sizes": ()}, {"artifact_mb": 1.0}),
        ({"sizes": (0, 0)}, {"artifact_mb": 1.0}),
    ],
)
def test_a_figure_that_was_never_measured_fails(
    ground: Evidence, change: dict[str, Any], bounds: dict[str, float]
) -> None:
    finding = asked(measured(ground, **change), **bounds)
    assert finding.status == "fail"
    assert f"{next(iter(bounds))}: no evidence: a figure that it needs is zero or missing" in finding.reason


def test_what_is_measured_is_told_beside_what_is_not(ground: Evidence) -> None:
    finding = asked(measured(ground, sizes=()), artifact_mb=300.0, parameters_millions=100.0)
    assert finding.reason.startswith("parameters_millions 134, above 100; artifact_mb: no evidence")
    assert finding.metric == "parameters_millions"


ZERO = f"sha256:{'0' * 64}"
MISSED = (layout.TRAIN_REPORT, layout.PARITY_REPORT)


@pytest.mark.parametrize("gone", MISSED, ids=str)
def test_the_verdict_asks_the_gate_and_misses_what_is_gone(tmp_path: Path, document: dict, gone: Path) -> None:
    document["gates"] = {"affordable": {"kind": "budget", **ALL}}
    params = as_params(document)
    evidence_tree.build(tmp_path, params)
    scorers = scoring.digest_of(params.evaluate.scorers)
    assert judge(params, chain.gather(tmp_path, scorers)).status == "pass"
    (tmp_path / gone).unlink()
    verdict = judge(params, chain.gather(tmp_path, scorers))
    assert verdict.status == "fail"
    assert f"no evidence: {gone}" in verdict.findings[0].reason


def test_a_larger_artifact_in_the_record_fails_the_verdict(tmp_path: Path, document: dict) -> None:
    document["gates"] = {"affordable": {"kind": "budget", "artifact_mb": 1.0}}
    params = as_params(document)
    evidence_tree.build(tmp_path, params)
    heavy = digest.of_manifest({"a": digest.FileDigest(ZERO, 2_000_000)})
    report = files.read_json(tmp_path / layout.PARITY_REPORT, ParityReport)
    update = {"files": {"a": MergedFile(sha256=ZERO, size=2_000_000)}, "merged": heavy}
    files.write_json(tmp_path / layout.PARITY_REPORT, report.model_copy(update=update))
    evaluation = files.read_json(tmp_path / layout.EVALUATION, EvaluationReport)
    files.write_json(tmp_path / layout.EVALUATION, evaluation.model_copy(update={"merged": heavy}))
    reason = judge(params, chain.gather(tmp_path, scoring.digest_of(params.evaluate.scorers))).findings[0].reason
    assert reason == "artifact_mb 2, above 1"


MEASURED = (layout.TRAIN_MEASURED, layout.EVALUATE_MEASURED)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["otherwise", "nonsense", "gone"])
@pytest.mark.parametrize("path", MEASURED, ids=str)
def test_no_verdict_depends_on_what_a_clock_or_a_machine_said(tmp_path: Path, path: Path, how: str) -> None:
    """With every gate of the repository's own parameters: the verdict is the same to the last byte."""
    params = as_params(scaled_down())
    evidence_tree.build(tmp_path, params)
    scorers = scoring.digest_of(params.evaluate.scorers)
    quiet = judge(params, chain.gather(tmp_path, scorers))
    assert quiet.status == "pass"
    text = (tmp_path / path).read_text()
    if how == "gone":
        (tmp_path / path).unlink()
    else:
        (tmp_path / path).write_text(re.sub(r"\d+\.\d+", "1e9", text) if how == "otherwise" else "{")
    assert judge(params, chain.gather(tmp_path, scorers)) == quiet


TIMES = ("second", "minute", "hour", "latency", "cost", "price", "p95", "per_s", "watt", "joule")


def test_no_kind_of_gate_has_a_bound_on_time_or_money() -> None:
    kinds = list(GATES.kinds.values())
    assert BudgetGate in kinds
    assert [name for kind in kinds for name in kind.model_fields if any(word in name for word in TIMES)] == []
