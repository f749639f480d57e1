"""Tracking: where runs go, what they say, and a store that does not answer."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from checks.config.params import Params
from checks.formats.evaluation_reports import EvaluationReport, ValidScores
from checks.formats.training_reports import ParityReport
from checks.process.errors import MachineRefused, TrainingRefused
from checks.storage import files, layout
from stages import tracking
from stages.tracking import verdict
from tests import mlflow_service
from tests.conftest import REPOSITORY, as_params
from tests.ports import unused_port

pytestmark = pytest.mark.slow

tables = mlflow_service.tables

DIGEST = "sha256:" + "ab" * 32


@pytest.fixture(autouse=True)
def _no_server_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def root(tmp_path: Path, tables: Path) -> Path:
    (tmp_path / layout.STATE).mkdir()
    shutil.copyfile(tables, tmp_path / layout.STATE / "mlflow.db")
    return tmp_path


def _client(params: Params, root: Path) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=tracking.address(params.tracking, root))


def _data() -> dict[str, tuple[Path, str]]:
    return {"training": (layout.SPLITS / "train.jsonl", DIGEST)}


def _git(root: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    done = subprocess.run(["git", *identity, *arguments], cwd=root, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_the_default_store_is_made_below_the_repository_and_takes_a_run(tmp_path: Path, params: Params) -> None:
    with tracking.run(params, tmp_path, _data()) as run:
        run.metrics({"loss": 2.0}, step=1)
        run.metrics({"loss": 1.0}, step=2)
        run.tag(tracking.ADAPTER_TAG, DIGEST)
    assert sorted(path.name for path in (tmp_path / layout.STATE).iterdir()) == ["mlflow.db"]
    client = _client(params, tmp_path)
    found = client.get_run(run.id)
    assert found.info.status == "FINISHED"
    assert [(m.step, m.value) for m in client.get_metric_history(run.id, "loss")] == [(1, 2.0), (2, 1.0)]
    assert found.data.tags[tracking.ADAPTER_TAG] == DIGEST
    assert found.data.params["train.learning_rate"] == str(params.train.learning_rate)
    assert found.data.params["data.sha256"] == params.data.sha256
    assert (tmp_path / layout.STATE / "mlartifacts").resolve().as_uri() in found.info.artifact_uri
    assert run.unsent == 0


def test_the_environment_decides_where_runs_go(
    root: Path, tables: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = root / "elsewhere.db"
    shutil.copyfile(tables, elsewhere)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{elsewhere}")
    with tracking.run(params, root, _data()) as run:
        pass
    client = _client(params, root)
    assert client.get_run(run.id).info.status == "FINISHED"
    tags = client.get_experiment_by_name(params.tracking.experiment).tags
    assert tags["mlflow.experimentKind"] == "custom_model_development"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert _client(params, root).get_experiment_by_name(params.tracking.experiment) is None


@pytest.fixture
def repository(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A commit of what a pipeline has, on the branch ``rank-8``, in a folder of its own below the top."""
    for name in ("DVC_EXP_NAME", "GITHUB_HEAD_REF", "GITHUB_REF_NAME", "CI_COMMIT_REF_NAME"):
        monkeypatch.delenv(name, raising=False)
    assert tracking.revision(root) == (None, False)
    _git(root, "init", "-q", "-b", "rank-8")
    assert tracking.revision(root) == (None, False)
    (root / ".gitignore").write_text(".lockstep\n")
    for path in (layout.PARAMS, layout.LOCK, layout.DATA_REPORT, layout.TRAIN_REPORT, "stages/train.py"):
        (root / "model" / path).parent.mkdir(parents=True, exist_ok=True)
        (root / "model" / path).write_text("1")
    _git(root, "add", ".")
    _git(root, "commit", "-qm", "a")
    return root / "model"


DIRTY: dict[str, tuple[Callable[[Path], object], bool]] = {
    "nothing": (lambda _: None, False),
    "times alone": (lambda root: os.utime(root / layout.PARAMS, (1, 1)), False),
    "dvc.lock, as a stage leaves it": (lambda root: (root / layout.LOCK).write_text("2"), False),
    "a report that a stage deleted": (lambda root: _git(root, "rm", "-q", "reports/train.json"), False),
    "a report that a stage wrote": (lambda root: (root / layout.DATA_REPORT).write_text("2"), False),
    "parameters": (lambda root: (root / layout.PARAMS).write_text("2"), True),
    "code, in the index": (lambda root: _git(root, "rm", "-q", "stages/train.py"), True),
    "a file that git does not know": (lambda root: (root / "notes").write_text("2"), False),
}


@pytest.mark.parametrize("changed", DIRTY)
def test_a_run_is_dirty_only_if_somebody_edited_files(repository: Path, changed: str) -> None:
    edit, dirty = DIRTY[changed]
    edit(repository)
    assert tracking.revision(repository) == (_git(repository, "rev-parse", "HEAD"), dirty)


def test_a_run_is_named_by_branch_commit_method_and_rank(
    repository: Path, document: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    (repository / layout.PARAMS).write_text("2")
    (repository / layout.STATE).mkdir()
    shutil.copyfile(repository.parent / layout.STATE / "mlflow.db", repository / layout.STATE / "mlflow.db")
    params = as_params(document)
    commit = _git(repository, "rev-parse", "HEAD")
    with tracking.run(params, repository, _data()) as run:
        pass
    found = _client(params, repository).get_run(run.id)
    assert found.info.run_name == f"rank-8 {commit[:7]}+ sft r{document['train']['lora']['r']}"
    tags = {"mlflow.source.git.commit": commit, "mlflow.source.git.branch": "rank-8", "lockstep.git.dirty": "true"}
    assert tags.items() <= found.data.tags.items()
    _git(repository, "checkout", "-q", "--detach")
    assert tracking.checkout_of(repository).branch is None
    monkeypatch.setenv("GITHUB_REF_NAME", "12/merge")
    monkeypatch.setenv("GITHUB_HEAD_REF", "theirs")
    assert tracking.checkout_of(repository).branch == "theirs"
    assert tracking.name_of_run(params, tracking.Checkout()) == f"sft r{document['train']['lora']['r']}"


def test_the_verdict_and_what_it_is_about_are_logged_at_the_training(
    root: Path, document: dict, closed_port: int
) -> None:
    params = as_params(document)
    client = _client(params, root)
    for path in (layout.VERDICT, layout.EVALUATION, layout.PARITY_REPORT, layout.METRICS):
        (root / path).parent.mkdir(exist_ok=True)
        shutil.copyfile(REPOSITORY / path, root / path)
    made = files.read_json(root / layout.PARITY_REPORT, ParityReport)
    report = files.read_json(root / layout.EVALUATION, EvaluationReport)
    with tracking.run(params, root, _data()) as run:
        run.tag(tracking.ADAPTER_TAG, made.adapter)
    assert verdict.log(params, root) == f"verdict pass at MLflow's run {run.id}"
    found = client.get_run(run.id)
    assert (found.data.tags["lockstep.verdict"], found.data.tags["lockstep.base"]) == ("pass", report.base)
    for name in ("base", *params.evaluate.baselines):
        for scorer, interval in report.models[name].metrics.items():
            assert found.data.tags[f"lockstep.test.{name}.{scorer}"].startswith(f"{interval.value:.3f} [")
    assert found.data.tags["lockstep.test.exact-match"].startswith(
        f"{report.models['candidate'].metrics['exact-match'].value:.3f} ["
    )
    valid = files.read_json(root / layout.METRICS, ValidScores).valid
    # The table of runs: scores on the valid split, also where the stage score did not run; none on the test split.
    assert found.data.metrics == {f"valid.{scorer}": figures.value for scorer, figures in valid.items()}
    assert found.data.params["evaluate.baselines"] == ", ".join(params.evaluate.baselines)
    inputs = {each.tags[0].value: each.dataset for each in found.inputs.dataset_inputs}
    assert set(inputs) == {"training", "test"}
    assert json.loads(inputs["test"].source)["tags"] == {"path": "data/splits/test.jsonl", "digest": report.test}
    failed = json.loads((root / layout.VERDICT).read_text())
    failed["status"] = failed["findings"][0]["status"] = "fail"
    files.write_json(root / layout.VERDICT, failed)
    assert verdict.log(params, root) == f"verdict fail at MLflow's run {run.id}"
    assert client.get_run(run.id).data.tags["lockstep.verdict.reasons"].startswith(f"{failed['findings'][0]['gate']}: ")
    files.write_json(root / layout.PARITY_REPORT, made.model_copy(update={"merged": DIGEST}))
    assert verdict.log(params, root) == "no verdict about this model yet"
    files.write_json(root / layout.PARITY_REPORT, made)
    document["tracking"]["uri"] = f"http://127.0.0.1:{closed_port}"
    assert verdict.log(as_params(document), root).startswith("verdict not in MLflow: MLflow at http://127.0.0.1:")


def test_a_refusal_marks_its_run_failed_and_an_interrupt_killed(root: Path, params: Params) -> None:
    with pytest.raises(TrainingRefused), tracking.run(params, root, _data()) as refused:
        raise TrainingRefused("step 3: the loss is nan", "lower it")
    with pytest.raises(KeyboardInterrupt), tracking.run(params, root, _data()) as stopped:
        raise KeyboardInterrupt
    client = _client(params, root)
    assert client.get_run(refused.id).info.status == "FAILED"
    assert client.get_run(refused.id).data.tags["lockstep.refusal"] == "step 3: the loss is nan; lower it"
    assert client.get_run(stopped.id).info.status == "KILLED"


def test_annotate_adds_to_the_newest_run_with_this_adapter(root: Path, params: Params) -> None:
    ids = []
    for _ in range(2):
        with tracking.run(params, root, _data()) as run:
            run.tag(tracking.ADAPTER_TAG, DIGEST)
        ids.append(run.id)
        time.sleep(0.01)
    assert tracking.annotate(params, root, DIGEST, {"exact-match": 0.5}, {"lockstep.verdict": "pass"}) == ids[1]
    data = _client(params, root).get_run(ids[1]).data
    assert (data.metrics["exact-match"], data.tags["lockstep.verdict"]) == (0.5, "pass")


def test_annotate_makes_a_run_when_none_has_this_adapter(root: Path, params: Params) -> None:
    other = "sha256:" + "cd" * 32
    with tracking.run(params, root, _data()) as run:
        run.tag(tracking.ADAPTER_TAG, DIGEST)
    made = tracking.annotate(params, root, other, {"exact-match": 0.25}, {})
    assert made != run.id
    found = _client(params, root).get_run(made)
    assert (found.info.status, found.data.metrics["exact-match"]) == ("FINISHED", 0.25)
    assert tracking.annotate(params, root, other, {}, {}) == made


def test_a_uri_is_shown_without_its_secrets() -> None:
    assert tracking.public("https://user:secret@host:5000/a?token=secret#secret") == "https://host:5000/a"
    assert tracking.public("postgresql+psycopg://user:p@ss@db/mlflow") == "postgresql+psycopg://db/mlflow"
    assert tracking.public("hf://model@revision") == "hf://model@revision"
    assert tracking.public("sqlite:///.lockstep/mlflow.db") == "sqlite:///.lockstep/mlflow.db"
    assert tracking.public("https://user:sec?ret@host/a") == "https://host/a"
    assert tracking.public("data/rows.jsonl") == "data/rows.jsonl"
    for unreadable in ("https://[", "https://user:sec/ret@host/a"):
        assert tracking.public(unreadable) == "(a URI that cannot be read)"


def test_secrets_of_sources_are_not_logged(root: Path, document: dict) -> None:
    document["data"]["uri"] = "https://user:secret@host/rows.jsonl?sig=secret"
    params = as_params(document)
    with tracking.run(params, root, _data()) as run:
        pass
    assert _client(params, root).get_run(run.id).data.params["data.uri"] == "https://host/rows.jsonl"


@pytest.fixture
def closed_port() -> int:
    return unused_port()


@pytest.mark.parametrize("scheme", ["http", "postgresql", "mysql+pymysql"])
def test_a_store_that_is_not_there_refuses_soon_and_without_the_password(
    tmp_path: Path, document: dict, closed_port: int, scheme: str
) -> None:
    document["tracking"]["uri"] = f"{scheme}://user:hunter2@127.0.0.1:{closed_port}/mlflow"
    start = time.monotonic()
    with pytest.raises(MachineRefused, match=r"set tracking\.uri or MLFLOW_TRACKING_URI") as caught:
        tracking.annotate(as_params(document), tmp_path, DIGEST, {}, {})
    assert time.monotonic() - start < 15
    assert f"{scheme}://127.0.0.1:{closed_port}/mlflow" in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_server_that_never_answers_refuses_within_half_a_minute(tmp_path: Path, document: dict) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        document["tracking"]["uri"] = f"http://127.0.0.1:{silent.getsockname()[1]}"
        start = time.monotonic()
        with pytest.raises(MachineRefused, match="does not answer"):
            tracking.annotate(as_params(document), tmp_path, DIGEST, {}, {})
    assert time.monotonic() - start < 30


def test_a_file_that_is_no_store_refuses(tmp_path: Path, document: dict) -> None:
    (tmp_path / "notes.db").write_text("this is no database" * 100)
    document["tracking"]["uri"] = "sqlite:///notes.db"
    with pytest.raises(MachineRefused, match="file is not a database"):
        tracking.annotate(as_params(document), tmp_path, DIGEST, {}, {})
    document["tracking"]["uri"] = "sqlite:////proc/nowhere/mlflow.db"
    with pytest.raises(MachineRefused, match=r"sqlite:////proc/nowhere/mlflow\.db does not answer"):
        tracking.annotate(as_params(document), tmp_path, DIGEST, {}, {})
    document["tracking"]["uri"] = "carrier-pigeon://roof"
    with pytest.raises(MachineRefused, match="carrier-pigeon://roof"):
        tracking.annotate(as_params(document), tmp_path, DIGEST, {}, {})


def test_an_experiment_that_was_deleted_refuses(root: Path, params: Params) -> None:
    client = _client(params, root)
    client.delete_experiment(client.create_experiment(params.tracking.experiment))
    with pytest.raises(MachineRefused, match="mlflow experiments restore"):
        tracking.annotate(params, root, DIGEST, {}, {})


def test_a_server_that_is_lost_during_training_costs_no_training(root: Path, document: dict, tables: Path) -> None:
    with contextlib.ExitStack() as running:
        document["tracking"]["uri"] = running.enter_context(mlflow_service.server(root / "server", tables))
        params = as_params(document)
        with tracking.run(params, root, _data()) as run:
            run.metrics({"loss": 2.0}, step=1)
            running.close()
            run.metrics({"loss": 1.0}, step=2)
            start = time.monotonic()
            run.metrics({"loss": 0.5}, step=3)
            assert time.monotonic() - start < 0.5  # not tried again at every step
            run.tag(tracking.ADAPTER_TAG, DIGEST)
    assert run.unsent == 3
    document["tracking"]["uri"] = "sqlite:///server/mlflow.db"
    (point,) = _client(as_params(document), root).get_metric_history(run.id, "loss")
    assert point.value == 2.0
