"""Early stopping: training ends where the loss on valid no longer falls, and the weights of the lowest loss stay."""

from pathlib import Path
from typing import Any

import pytest

from checks.formats.training_reports import TrainReport
from checks.process.errors import TrainingRefused
from checks.records.rows import Row
from checks.storage import files, layout
from stages.train import train
from tests import training_tree
from tests.conftest import as_params, scaled_down
from tests.training_tree import METHODS

pytestmark = pytest.mark.slow
FALLS = {"learning_rate": 0.01}
RISES = {"learning_rate": 0.3, "schedule": "constant"}  # with valid rows whose answers are never taught


@pytest.fixture
def root(tmp_path: Path, tiny_base: Path, store: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository's root with the tiny base and sealed splits of 24, 6 and 6 rows: six steps are an epoch."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    return training_tree.make(tmp_path, tiny_base)


def _document(patience: int, per_epoch: int, **change: Any) -> dict[str, Any]:
    value = scaled_down()
    stopping = {"patience": patience, "per_epoch": per_epoch}
    value["train"] |= {"epochs": 3, "max_steps": None, "warmup_ratio": 0.0, "early_stopping": stopping} | change
    return value


def _other_answers(root: Path) -> None:
    path = root / layout.SPLITS / "valid.jsonl"
    rows = [row.model_copy(update={"reference": "name and of my"}) for row in files.read_jsonl(path, Row)]
    files.write_jsonl(path, rows)
    training_tree.seal(root)


@pytest.mark.parametrize(
    ("patience", "per_epoch", "change", "stops"),
    [
        (1, 1, FALLS, False),
        (2, 3, RISES, True),
        (1, 6, RISES, True),
        (18, 6, RISES, False),  # more evaluations without a lower loss than there are
        (1, 100, FALLS | {"epochs": 1}, False),  # each step is evaluated, not more
    ],
)
def test_it_stops_after_its_patience_and_keeps_the_weights_of_the_lowest_loss(
    root: Path, patience: int, per_epoch: int, change: dict[str, Any], stops: bool
) -> None:
    from mlflow import MlflowClient

    document = _document(patience, per_epoch, **change)
    if change is RISES:
        _other_answers(root)
    line = train(as_params(document), root)
    report = files.read_json(root / layout.TRAIN_REPORT, TrainReport)
    whole = 6 * (document["train"]["epochs"])
    every = max(1, 6 // per_epoch)
    assert report.stopping is not None
    losses = dict(report.stopping.losses)
    assert list(losses) == list(range(every, report.steps + 1, every))
    best = report.stopping.best_step
    assert losses[best] == min(losses.values())
    after = [step for step in losses if step > best]
    assert (report.steps < whole) == stops
    assert len(after) == patience if stops else len(after) <= patience
    assert f"on valid {losses[best]:.3f} (weights of step {best})" in line
    client = MlflowClient()
    (run,) = client.search_runs(
        [experiment.experiment_id for experiment in client.search_experiments()], "", max_results=1
    )
    assert run.data.metrics["valid_loss"] == pytest.approx(losses[best], rel=1e-6)  # of the weights that are shipped


@pytest.mark.parametrize("later", [False, True], ids=["first epoch", "later epoch"])
def test_the_weights_are_those_of_a_training_that_ends_there(root: Path, later: bool) -> None:
    """Evaluations change neither the weights nor the order of the rows in the epochs after them."""
    from safetensors.torch import load_file

    document = _document(1, 6, **(FALLS | {"schedule": "constant"} if later else RISES))
    if not later:
        _other_answers(root)
    train(as_params(document), root)
    report = files.read_json(root / layout.TRAIN_REPORT, TrainReport)
    assert report.stopping is not None
    best = report.stopping.best_step
    assert (best > 6) == later
    assert later or best < report.steps
    kept = load_file(root / layout.ADAPTER / "adapter_model.safetensors")
    document["train"] |= {"early_stopping": None, "epochs": None, "max_steps": best}
    train(as_params(document), root)
    straight = load_file(root / layout.ADAPTER / "adapter_model.safetensors")
    assert kept.keys() == straight.keys()
    assert all((kept[name] == weight).all() for name, weight in straight.items())
    assert files.read_json(root / layout.TRAIN_REPORT, TrainReport).stopping is None


@pytest.mark.parametrize("method", ["sft", "grpo"])
def test_without_anything_to_evaluate_it_is_refused_before_the_first_step(root: Path, method: str) -> None:
    document = _document(1, 1, **METHODS.get(method, {}))
    if method == "sft":
        (root / layout.SPLITS / "valid.jsonl").write_text("")
        training_tree.seal(root)
    with pytest.raises(
        TrainingRefused, match=rf"train.early_stopping: train.method '{method}' has nothing to evaluate"
    ):
        train(as_params(document), root)
    assert not (root / layout.ADAPTER).exists()
