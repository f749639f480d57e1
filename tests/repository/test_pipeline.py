"""The whole pipeline through DVC, on a tiny model: what runs, what reruns, what is recorded, what stops it."""

import copy
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from checks.formats.data_reports import PrepareReport
from checks.formats.evaluation_reports import EvaluationReport
from checks.formats.training_reports import TrainReport
from checks.formats.verdict import Verdict
from checks.storage import digest, files, layout
from tests import pipeline_repository as repository

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """A repository, with a space and an umlaut in its path, in which the pipeline has run once and was committed."""
    root = tmp_path_factory.mktemp("a réposit ory")
    shutil.copytree(repository.finished(tmp_path_factory, tiny_base), root, symlinks=True, dirs_exist_ok=True)
    repository.commit(root, "the record of a run")
    return root


def _params(root: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((root / "params.yaml").read_text())
    return loaded


def test_a_run_ends_in_a_verdict_whose_digests_form_one_chain(finished: Path) -> None:
    verdict = files.read_json(finished / layout.VERDICT, Verdict)
    train = files.read_json(finished / layout.TRAIN_REPORT, TrainReport)
    evaluation = files.read_json(finished / layout.EVALUATION, EvaluationReport)
    assert verdict.judged["models/adapter"] == train.adapter
    assert verdict.model == evaluation.merged
    assert {"candidate", "base", "majority", "naive-bayes"} <= set(evaluation.models)
    assert not any("different bytes" in f.reason or "no evidence" in f.reason for f in verdict.findings)


def test_after_a_run_git_sees_the_record_and_no_litter(finished: Path) -> None:
    assert repository.git(finished, "status", "--porcelain") == ""
    tracked = set(repository.git(finished, "ls-files").splitlines())
    assert {"dvc.lock", "reports/verdict.json", "reports/metrics.json", "reports/loss.csv"} <= tracked
    assert not any(name.startswith(("models/", "data/", ".lockstep/")) for name in tracked)


def test_a_second_run_with_nothing_changed_runs_nothing(finished: Path) -> None:
    assert repository.repro(finished) == []


def test_an_edited_readme_reruns_nothing(finished: Path) -> None:
    (finished / "README.md").write_text("More words.\n")
    (finished / "stages" / "__pycache__").mkdir(exist_ok=True)
    assert repository.repro(finished) == []


def test_dvc_alone_runs_what_runs_changed_code_however_stale_code_lock_is(finished: Path) -> None:
    lock = finished / layout.CODE_LOCK
    before = lock.read_text()
    with (finished / "stages" / "probe.py").open("a") as stream:
        stream.write("# edited\n")
    assert repository.repro(finished) == ["probe"]
    assert lock.read_text() != before
    lock.unlink()
    with (finished / "checks" / "gates" / "exposure.py").open("a") as stream:
        stream.write("# a kind that params.yaml does not name\n")
    (finished / "checks" / "gates" / "brand_new.py").write_bytes(
        (finished / "checks" / "gates" / "budget.py").read_bytes().replace(b"budget", b"brand_new")
    )
    assert repository.repro(finished) == []
    assert lock.is_file()
    (finished / "checks" / "gates" / "brand_new.py").unlink()
    repository.git(finished, "checkout", "checks", "stages")
    assert repository.repro(finished) == []  # DVC kept what this code made
    assert lock.read_text() == before


def test_a_changed_bound_reruns_the_gate_alone_without_torch(finished: Path, tmp_path: Path) -> None:
    for package in ("torch", "transformers", "mlflow"):
        (tmp_path / f"{package}.py").write_text("raise SystemExit('the gate imported it')\n")
    document = _params(finished)
    document["gates"]["routes_well"]["at_least"] = 0.02
    repository.write_params(finished, document)
    started = os.times()
    alone = {"PYTHONNOUSERSITE": "1"}  # so that no process is forked from one that has torch loaded
    assert repository.repro(finished, PYTHONPATH=str(tmp_path), **alone) == ["gate"]
    ended = os.times()
    spent = ended.children_user + ended.children_system - started.children_user - started.children_system
    assert spent < 20  # About 3 s of a processor, whatever else it has to do.


def test_a_suite_reruns_suites_and_gate_alone_and_its_log_is_refused_for_another_model(finished: Path) -> None:
    before = _params(finished)
    line = {"sample_sha": digest.of_json(1), "metric": "liked", "value": 1.0, "slice": "all"}

    def pinned(model: str) -> dict[str, Any]:
        log = finished / "chat.jsonl"
        log.write_text(
            "".join(json.dumps(line | {"sample": n, "group": n, "model": model}) + "\n" for n in "abcdefghijklm")
        )
        return {"uri": log.name, "sha256": digest.of_file(log).sha256.removeprefix("sha256:"), "license": None}

    document = copy.deepcopy(before)
    document["suites"]["chat"] = {
        "kind": "external", "source": "human", "metrics": {"liked": {"low": 0.0, "high": 1.0}}, "noise": 0.0, "samples": 13,
        "logs": {"candidate": pinned(files.read_json(finished / layout.EVALUATION, EvaluationReport).merged)},
    }  # fmt: skip
    document["gates"]["is_liked"] = {
        "kind": "threshold", "suite": "chat", "metric": "liked", "at_least": 0.1, "confidence": 0.95, "resolution": 0.3,
    }  # fmt: skip
    repository.write_params(finished, document)
    assert repository.repro(finished) == ["suites", "gate"]
    found = {finding.gate: finding for finding in files.read_json(finished / layout.VERDICT, Verdict).findings}
    assert (found["is_liked"].status, found["is_liked"].evidence) == ("pass", "witnessed")
    document["suites"]["chat"]["logs"]["candidate"] = pinned(f"sha256:{'9' * 64}")
    repository.write_params(finished, document)
    done = repository.dvc(finished, "repro")
    assert done.returncode != 0
    assert "suites.chat.logs.candidate: is about model sha256:999999999999…" in done.stderr
    repository.write_params(finished, before)
    assert repository.dvc(finished, "repro").returncode == 0
    assert not any("witnessed" in f.reason for f in files.read_json(finished / layout.VERDICT, Verdict).findings)


def test_a_changed_learning_rate_reruns_from_train_onward_and_diffs_show_it(finished: Path) -> None:
    repository.commit(finished, "before")
    document = _params(finished)
    document["train"]["learning_rate"] = 0.05
    repository.write_params(finished, document)
    judged = (finished / layout.EVALUATION).read_bytes()
    assert repository.repro(finished, "score") == ["train", "merge", "score"]
    assert (finished / layout.EVALUATION).read_bytes() == judged  # no look at the test split
    assert repository.repro(finished) == ["evaluate", "suites", "probe", "gate"]
    repository.commit(finished, "another learning rate")

    parameters = json.loads(repository.dvc(finished, "params", "diff", "--json", "HEAD~1", "HEAD").stdout)
    assert parameters["params.yaml"]["train.learning_rate"] == {"old": 0.004, "new": 0.05, "diff": pytest.approx(0.046)}
    metrics = json.loads(repository.dvc(finished, "metrics", "diff", "--json", "--all", "HEAD~1", "HEAD").stdout)
    assert {"old", "new"} <= set(metrics["reports/metrics.json"]["valid.exact-match.value"])
    assert {name.partition(".")[0] for name in metrics["reports/metrics.json"]} <= {"valid", "rows"}
    plots = json.loads(repository.dvc(finished, "plots", "diff", "--json", "HEAD~1", "HEAD").stdout)
    assert any("loss" in name for name in plots["data"])
    assert any("confusion" in name for name in plots["data"])


def test_a_changed_expectation_that_still_holds_does_not_retrain(finished: Path) -> None:
    document = _params(finished)
    document["validate"]["labels"]["max_share"] = 0.7
    repository.write_params(finished, document)
    assert repository.repro(finished) == ["validate", "gate"]


def test_a_changed_rule_makes_the_data_anew(finished: Path) -> None:
    document = _params(finished)
    document["prepare"]["rules"] += ["drop-one-word-prompt", "drop-long-prompt"]
    repository.write_params(finished, document)
    assert repository.repro(finished, "validate") == ["prepare", "validate"]
    report = files.read_json(finished / layout.PREPARE_REPORT, PrepareReport)
    dropped = {rule.rule: rule.rows for rule in report.rules if rule.kind == "drop" and rule.rows}
    assert dropped == {"drop-one-word-prompt": len(repository.SERVICES)}


@pytest.mark.exhaustive
def test_an_experiment_with_another_rank_runs_and_leaves_the_chain_whole(finished: Path) -> None:
    repository.commit(finished, "before the experiment")
    done = repository.dvc(finished, "exp", "run", "-S", "train.lora.r=8")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert repository.ran(done) == ["train", "merge", "score", "evaluate", "suites", "probe", "gate"]
    assert json.loads((finished / "models/adapter/adapter_config.json").read_text())["r"] == 8
    shown = json.loads(repository.dvc(finished, "exp", "show", "--json").stdout)
    (metrics,) = shown[0]["data"]["metrics"].values()
    assert {"valid", "rows"} == set(metrics["data"])  # no score on the test split
    verdict = files.read_json(finished / layout.VERDICT, Verdict)
    assert not any("different bytes" in f.reason for f in verdict.findings)


def test_bad_data_stops_the_run_before_training_and_leaves_its_report(finished: Path) -> None:
    before = _params(finished)
    document = copy.deepcopy(before)
    document["validate"]["labels"]["max_share"] = 0.2  # of four labels
    document["train"]["learning_rate"] = 0.03
    repository.write_params(finished, document)
    done = repository.dvc(finished, "repro")
    assert done.returncode != 0
    assert repository.ran(done) == ["validate"]
    report = json.loads((finished / layout.DATA_REPORT).read_text())
    assert report["success"] is False
    assert any("vm" in json.dumps(e) for e in report["expectations"] if not e["success"])
    assert (finished / layout.DATA_DOCS / "index.html").is_file()
    assert "Traceback" not in done.stderr
    repository.write_params(finished, before)


def test_a_run_without_the_measured_noise_is_refused_before_anything_runs(
    tmp_path: Path, tiny_base: Path, document: dict
) -> None:
    from click.testing import CliRunner

    from release.cli import main

    repository.make(tmp_path, tiny_base, document, repository.table())
    (tmp_path / layout.NOISE).unlink()
    for targets in ([], ["gate"]):
        done = CliRunner().invoke(main, ["-C", str(tmp_path), "run", *targets])
        assert done.exit_code == 8
        assert "reports/noise.json: is missing" in done.output
        assert "git checkout HEAD -- reports/noise.json" in done.output
    assert not (tmp_path / layout.RAW).exists()
