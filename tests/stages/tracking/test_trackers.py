"""Trackers beside MLflow: what they get, and that they change no result."""

import csv
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from checks.formats.training_reports import TrainMeasured, TrainReport
from checks.process.errors import MachineRefused, ParamsRefused
from checks.storage import files, layout
from stages.fetch import fetch
from stages.tracking import others
from stages.train import train
from tests import training_tree
from tests.conftest import REPOSITORY, as_params, scaled_down, written

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _nothing_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("WANDB_", "TENSORBOARD_", "MLFLOW_"))]:
        monkeypatch.delenv(name)


def curve(root: Path) -> dict[int, float]:
    with (root / layout.LOSS_CURVE).open() as stream:
        return {int(row["step"]): float(row["loss"]) for row in csv.DictReader(stream)}


def trained(root: Path, document: dict[str, Any], *trackers: str) -> tuple[TrainReport, TrainMeasured]:
    document["tracking"]["also"] = list(trackers)
    train(as_params(document), root)
    return (
        files.read_json(root / layout.TRAIN_REPORT, TrainReport),
        files.read_json(root / layout.TRAIN_MEASURED, TrainMeasured),
    )


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
@pytest.mark.parametrize("stage", [fetch, train])
def test_a_tracker_that_is_not_installed_is_refused_before_anything_is_downloaded(
    tmp_path: Path, document: dict[str, Any], monkeypatch: pytest.MonkeyPatch, name: str, stage: Any, tiny_base: Path
) -> None:
    training_tree.make(tmp_path, tiny_base)
    document["tracking"]["also"] = [name]
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda asked, *a: None if asked == name else find(asked, *a))
    with pytest.raises(MachineRefused) as refusal:
        stage(as_params(document), tmp_path)
    assert str(refusal.value) == (
        f"params.yaml: tracking.also: {name} is not installed; pip install -c constraints.txt -e '.[{name}]', "
        f"or take {name} out of tracking.also"
    )
    assert not list(tmp_path.glob(f"{layout.DOWNLOADS}/*.part"))
    assert not (tmp_path / layout.STATE / "mlflow.db").exists()


def test_a_folder_of_runs_is_no_package(tmp_path: Path, document: dict[str, Any], monkeypatch: Any) -> None:
    (tmp_path / "wandb").mkdir()
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    document["tracking"]["also"] = ["wandb"]
    params = as_params(document)
    with pytest.raises(MachineRefused, match="wandb is not installed"):
        others.hold_installed(params.tracking)


def test_a_tracker_that_is_named_twice_is_refused(document: dict[str, Any]) -> None:
    document["tracking"]["also"] = ["wandb", "wandb"]
    with pytest.raises(ParamsRefused, match="also: wandb, wandb has one twice; name each tracker once"):
        as_params(document)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, store: str) -> str:
    """The adapter of a training on one device without another tracker."""
    root = training_tree.make(tmp_path_factory.mktemp("plain"), tiny_base)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", store)
        report, _ = trained(root, scaled_down())
    assert not (root / layout.STATE / "tensorboard").exists()
    return report.adapter


@pytest.mark.usefixtures("tracked", "forked_ranks")
@pytest.mark.parametrize("devices", [1, 2])
def test_tensorboard_gets_the_curve_and_the_adapter_stays_the_same(
    tmp_path: Path, document: dict[str, Any], tiny_base: Path, devices: int, plain: str
) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    document["train"]["devices"] = devices
    training_tree.make(tmp_path, tiny_base)
    without = plain if devices == 1 else trained(tmp_path, document)[0].adapter
    report, measured = trained(tmp_path, document, "tensorboard")
    assert report.adapter == without
    events = EventAccumulator(str(tmp_path / layout.STATE / "tensorboard" / measured.mlflow_run))
    events.Reload()
    found = {event.step: event.value for event in events.Scalars("train/loss")}
    assert len(found) == 4
    assert found == pytest.approx(curve(tmp_path), rel=1e-4)
    assert "eval/loss" in events.Tags()["scalars"]
    assert "TENSORBOARD_LOGGING_DIR" not in os.environ


@pytest.mark.usefixtures("tracked")
def test_weights_and_biases_gets_the_curve_without_a_network(
    tmp_path: Path, document: dict[str, Any], tiny_base: Path, monkeypatch: pytest.MonkeyPatch, plain: str
) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    training_tree.make(tmp_path, tiny_base)
    report, measured = trained(tmp_path, document, "wandb")
    assert report.adapter == plain
    (log,) = (tmp_path / layout.STATE / "wandb").glob("offline-run-*/run-*.wandb")
    assert wandb.run is None
    data = log.read_bytes()
    assert measured.mlflow_run.encode() in data
    assert b"train/loss" in data


def test_weights_and_biases_without_a_login_is_refused_on_one_line(
    tmp_path: Path, document: dict[str, Any], tiny_base: Path
) -> None:
    pytest.importorskip("wandb")
    training_tree.make(tmp_path, tiny_base)
    document["tracking"]["also"] = ["wandb"]
    (tmp_path / layout.PARAMS).write_text(written(document))
    own = {"HOME": str(tmp_path), "NETRC": str(tmp_path / "none"), "WANDB_BASE_URL": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-m", "stages.train"],  # in this process wandb would still be offline
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(REPOSITORY)} | own, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == MachineRefused.exit_code
    said = done.stderr.splitlines()[-1]
    assert said.startswith("train: Weights & Biases takes no run: ")
    assert said.endswith("; run `wandb login`, set WANDB_MODE=offline, or take wandb out of tracking.also")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / layout.ADAPTER).exists()
