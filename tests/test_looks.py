"""Looks: how many models a test split has judged, who counts them, and what that costs each gate."""

from pathlib import Path

import pytest

from checks import files, gates, layout
from checks.decision import judging
from checks.errors import EvidenceRefused, ParamsRefused
from checks.evaluation import scoring
from checks.formats.evaluation_reports import EvaluationReport, LooksReport
from checks.formats.verdict import Finding
from checks.gates.looks import LooksGate
from checks.gating import chain
from checks.gating.gate_kind import ScoreGate
from release.record import looks
from release.record.held import hold
from release.record.records import Records
from tests import evidence_tree
from tests import pipeline_repository as repository
from tests.conftest import as_params, scaled_down, written
from tests.test_references import A, B, C, branch, change, clone, keep, move_on, push, record

pytestmark = pytest.mark.slow

__all__ = ["clone"]  # a fixture

MORE = {"confidence": 0.95, "metric": "exact-match"}
D = f"sha256:{'d' * 64}"


def judged(root: Path) -> dict[str, tuple[str, ...]]:
    return files.read_json(root / layout.LOOKS, LooksReport).models


@pytest.mark.parametrize(
    ("before", "most", "status", "said"),
    [
        (0, 20, "pass", "model 1 of 20 that this test split may judge"),
        (15, 20, "pass", "model 16 of 20 that this test split may judge"),
        (17, 20, "pass", "2 left; then take a new test split: fresh rows, or another prepare.seed"),
        (19, 20, "pass", "model 20 of 20 that this test split may judge, 0 left"),
        (20, 20, "inconclusive", "model 21 of 20 that this test split may judge: it is used up; take a new test split"),
        (1, 1, "inconclusive", "it is used up"),
    ],
)
def test_the_models_that_a_split_judged_before_are_counted(
    tmp_path: Path, before: int, most: int, status: str, said: str
) -> None:
    params = as_params(scaled_down())
    evidence_tree.build(tmp_path, params)
    about = files.read_json(tmp_path / layout.EVALUATION, EvaluationReport)
    others = tuple(f"sha256:{number:064x}" for number in range(before))
    # The model itself, and models of another split, count for nothing.
    models = {about.test: (*others, about.merged), D: tuple(f"sha256:{n + 99:064x}" for n in range(30))}
    files.write_json(tmp_path / layout.LOOKS, LooksReport(models=models))
    evidence = chain.gather(tmp_path, scoring.digest_of(params.evaluate.scorers))
    found = evidence_tree.asked("test_is_fresh", LooksGate(kind="looks", most=most), evidence)
    assert (found.status, found.value, found.bound) == (status, before + 1, most)
    assert said in found.reason


def _findings(root: Path, document: dict) -> dict[str, Finding]:
    params = as_params(document)
    evidence = chain.gather(root, scoring.digest_of(params.evaluate.scorers))
    return {finding.gate: finding for finding in judging.judge(params, evidence).findings}


def test_each_gate_of_the_test_rows_gets_its_share_of_the_error(tmp_path: Path) -> None:
    document = scaled_down()
    evidence_tree.build(tmp_path, as_params(document))
    document["gates"] = {
        "good": {"kind": "threshold", "at_least": 0.5, "resolution": 0.4, **MORE},
        "better": {"kind": "improves", "against": "base", "margin": 0.0, **MORE},
    }
    alone = _findings(tmp_path, document)
    document["gates"]["fresh"] = {"kind": "looks", "most": 20}
    shared = _findings(tmp_path, document)
    assert "lower 95% bound" in alone["good"].reason
    assert "lower 99.75% bound" in shared["good"].reason
    for name in ("good", "better"):
        assert alone[name].p == shared[name].p
        assert (shared[name].low or 1) < (alone[name].low or 0)
        assert (shared[name].detectable or 0) > (alone[name].detectable or 1)
    (tmp_path / layout.LOOKS).unlink()
    assert _findings(tmp_path, document)["fresh"].reason.startswith("no evidence: reports/looks.json")


@pytest.mark.parametrize(
    ("most", "suite", "confidence"), [(1, None, 0.95), (20, None, 0.9975), (5, None, 0.99), (20, "chat", 0.95)]
)
def test_the_error_is_divided_on_the_test_rows_alone(most: int, suite: str | None, confidence: float) -> None:
    asked = as_params(scaled_down()).gates
    name, gate = next((name, gate) for name, gate in asked.items() if gate.kind == "threshold")
    others = {
        name: gate.model_copy(update={"suite": suite, "confidence": 0.95}),
        "fresh": LooksGate(kind="looks", most=most),
    }
    decided = gates.decided_at(others)[name]
    assert isinstance(decided, ScoreGate)
    assert decided.confidence == pytest.approx(confidence)
    assert gates.decided_at({name: others[name]})[name] is others[name]  # without the gate nothing is divided


def test_a_resolution_that_the_divided_error_cannot_give_is_refused() -> None:
    document = scaled_down()
    document["gates"]["fresh"] = {"kind": "looks", "most": 1000}
    with pytest.raises(ParamsRefused, match=r"validate\.min_rows\.test: 16 rows cannot give gate .*; raise it to 46"):
        as_params(document)


def test_every_branch_counts_and_so_does_what_was_dropped(clone: Path) -> None:
    keep(clone)
    branch(clone)
    move_on(clone, B)  # another pull request was merged meanwhile
    repository.git(clone, "checkout", "--quiet", "-b", "dropped", "main")
    record(clone, D)
    keep(clone)
    repository.git(clone, "checkout", "--quiet", "change")
    assert looks.write(Records(clone))
    assert judged(clone) == {C: tuple(sorted({B, D}))}  # A is what is recorded here
    assert not looks.write(Records(clone))
    repository.git(clone, "branch", "--delete", "--force", "dropped")
    assert not looks.write(Records(clone))  # what is listed stays listed


def test_the_model_that_is_replaced_counts_though_nobody_committed_it(clone: Path) -> None:
    keep(clone)
    branch(clone)
    record(clone, B)
    looks.write(Records(clone))
    assert judged(clone) == {C: (A,)}  # B is what is recorded here
    change(clone, lambda value: value["train"].update(learning_rate=0.5))
    looks.write(Records(clone))  # before the pipeline makes another model
    assert judged(clone) == {C: tuple(sorted({A, B}))}
    record(clone, D)
    assert not looks.write(Records(clone))
    assert judged(clone) == {C: tuple(sorted({A, B}))}


def test_a_list_that_lacks_a_model_of_its_own_history_voids_the_verdict(clone: Path) -> None:
    keep(clone)
    branch(clone)
    record(clone, B)
    looks.write(Records(clone))
    keep(clone)
    assert looks.current(Records(clone)) == []
    files.write_json(clone / layout.LOOKS, LooksReport(models={}))
    (line,) = looks.current(Records(clone))
    assert line == (
        f"reports/looks.json: lacks 1 of the models that this test split judged ({A[:19]}…); run `lockstep run`"
    )
    (clone / layout.LOOKS).write_text("{")
    assert looks.current(Records(clone)) == ["reports/looks.json: is missing or cannot be read; run `lockstep run`"]
    assert looks.write(Records(clone))
    assert looks.current(Records(clone)) == []


def test_a_model_that_only_an_earlier_list_has_stays_listed(clone: Path) -> None:
    """Its branch is gone, so no evaluation in git names it."""
    listed = LooksReport(models={C: (D,)})
    files.write_json(clone / layout.LOOKS, listed)
    keep(clone)
    files.write_json(clone / layout.LOOKS, LooksReport(models={}))
    keep(clone)
    (line,) = looks.current(Records(clone))
    assert f"lacks 1 of the models that this test split judged ({D[:19]}…)" in line
    (clone / layout.LOOKS).unlink()
    assert looks.write(Records(clone))
    assert files.read_json(clone / layout.LOOKS, LooksReport) == listed
    assert looks.current(Records(clone)) == []


def test_after_the_merge_later_tries_of_others_change_nothing(clone: Path) -> None:
    keep(clone)
    branch(clone)
    record(clone, B)
    looks.write(Records(clone))
    keep(clone)
    repository.git(clone, "checkout", "--quiet", "main")
    repository.git(clone, "merge", "--quiet", "--ff-only", "change")
    push(clone)
    repository.git(clone, "checkout", "--quiet", "-b", "next")
    record(clone, D)
    keep(clone)
    repository.git(clone, "checkout", "--quiet", "main")
    assert not looks.write(Records(clone))
    assert judged(clone) == {C: (A,)}
    assert looks.current(Records(clone)) == []


def test_a_verdict_without_the_list_is_void(tmp_path: Path) -> None:
    (tmp_path / layout.PARAMS).write_text(written(document := scaled_down()))
    evidence_tree.build(tmp_path, params := as_params(document))
    evidence_tree.judged(tmp_path, params)
    assert hold(Records(tmp_path)).verdict.status == "pass"
    (tmp_path / layout.LOOKS).unlink()
    with pytest.raises(EvidenceRefused, match=r"reports/looks\.json"):
        hold(Records(tmp_path))
