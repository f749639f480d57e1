"""Training on several ranks, as two real processes on a CPU: what one process would learn, and one end for all."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from checks.formats.training_reports import TrainMeasured, TrainReport
from checks.process.errors import MachineRefused, ParamsRefused, TrainingRefused
from checks.records.rows import Row
from checks.storage import digest, files, layout
from stages.train import train
from stages.training import checkpoints, ranks
from tests import pipeline_repository, training_tree, warm
from tests.conftest import REPOSITORY, as_params, scaled_down, written

pytestmark = pytest.mark.slow


@pytest.fixture
def root(tmp_path: Path, tiny_base: Path, store: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository's root with the tiny base and sealed splits of 24, 6 and 6 rows."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    return training_tree.make(tmp_path / "root", tiny_base)


def _document(**changes: Any) -> dict:
    document = scaled_down()
    document["train"] |= {"devices": 2, "batch_size": 4, "max_steps": 3} | changes
    return document


def _curve(root: Path, store: str) -> list[float]:
    """Loss and norm of the gradient at each step of the last training."""
    from mlflow import MlflowClient

    client, run = MlflowClient(tracking_uri=store), files.read_json(root / layout.TRAIN_MEASURED, TrainMeasured)
    found = [client.get_metric_history(run.mlflow_run, name) for name in ("loss", "grad_norm")]
    return [point.value for history in found for point in sorted(history, key=lambda point: point.step)]


@pytest.mark.usefixtures("forked_ranks")
def test_two_ranks_learn_what_one_process_learns_from_twice_the_batch(root: Path, store: str) -> None:
    found, losses = [], []
    for number, batch in ((1, 8), (2, 4)):
        stopping = {"patience": 9, "per_epoch": 3}
        train(as_params(_document(devices=number, batch_size=batch, early_stopping=stopping)), root)
        found.append(_curve(root, store))
        report = files.read_json(root / layout.TRAIN_REPORT, TrainReport)
        assert (report.devices, report.batch) == ((None, None) if number == 1 else (2, 8))
        assert report.tokens
        assert report.stopping
        losses.append([loss for _, loss in report.stopping.losses])
        took = files.read_json(root / layout.TRAIN_MEASURED, TrainMeasured).memory
        assert took
        assert took.peak
    assert len(losses[0]) == 3
    assert losses[1] == pytest.approx(losses[0], rel=5e-3)  # a mean over batches, which are others
    assert len(found[0]) == 6
    assert found[1] == pytest.approx(found[0], rel=1e-4)
    assert files.read_json(root / layout.TRAIN_MEASURED, TrainMeasured).device.endswith("2 ranks")


def _started(root: Path, document: dict) -> "subprocess.Popen[str]":
    """Stage and ranks are forked from a process that has loaded torch (tests/warm.py)."""
    (root / layout.PARAMS).write_text(written(document))
    kept = {name: os.environ[name] for name in ("MLFLOW_TRACKING_URI", "PYTHONPATH")}
    return subprocess.Popen(
        [pipeline_repository.interpreter(), "-m", "stages.train"],
        cwd=root, env=pipeline_repository.environment(**kept) | {checkpoints.MINUTES: "0.0001"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def _ranks(root: Path) -> dict[int, int]:
    """Pids of the ranks of the training in ``root``, by their number."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            values = dict(line.partition("=")[::2] for line in (folder / "environ").read_text().split("\0"))
            if "RANK" in values and (folder / "cwd").readlink() == root:
                found[int(values["RANK"])] = int(folder.name)
    return found


def _until(true: Callable[[], object], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the ranks in Linux's /proc")
def test_a_killed_rank_ends_all_and_the_next_run_goes_on_to_the_same_bytes(root: Path) -> None:
    document = _document(max_steps=12, early_stopping={"patience": 99, "per_epoch": 3})
    document["train"]["lora"]["dropout"] = 0.1  # each rank draws its own
    process = _started(root, document)
    _until(lambda: process.poll() is not None or any((root / checkpoints.FOLDER).glob("*/step-*/manifest.json")))
    pids = _ranks(root)
    assert len(pids) == 2
    os.kill(pids[1], signal.SIGKILL)
    said = process.communicate(timeout=300)[0]
    assert process.returncode == MachineRefused.exit_code, said
    assert said.splitlines()[-1].startswith("train: rank 1 of 2 was ended by SIGKILL, and the training with it; run")
    assert said.count("SIGKILL") == 1
    assert "Traceback" not in said
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids.values())
    assert not (root / layout.ADAPTER).exists()

    again = _started(root, document)
    said = again.communicate(timeout=300)[0]
    assert again.returncode == 0, said
    resumed = files.read_json(root / layout.TRAIN_MEASURED, TrainMeasured).resumed_at
    assert resumed in range(1, 12)
    assert said.count(f"train: goes on at step {resumed} of 12, from this machine") == 1
    assert not list((root / checkpoints.FOLDER).iterdir())
    through, curve = digest.of_tree(root / layout.ADAPTER), (root / layout.LOSS_CURVE).read_text()

    with pipeline_repository.forked_ranks(**warm.other_hashes()):
        train(as_params(document), root)
    assert files.read_json(root / layout.TRAIN_MEASURED, TrainMeasured).resumed_at is None
    assert (digest.of_tree(root / layout.ADAPTER), (root / layout.LOSS_CURVE).read_text()) == (through, curve)


_ENDS = """
import os, signal, sys, time
from pathlib import Path
from checks.process.errors import TrainingRefused
from stages.training import ranks

def fit(step, index):
    if index == 1:
        {end}
    {other}
    time.sleep(60)

ranks.work(Path(sys.argv[1]), fit)
"""


_DEAF = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"  # so that the agent kills it later
_ABORTS = f"{_DEAF}\n    while not os.path.exists(sys.argv[1] + '/ended-1.json'): time.sleep(0.01)\n    time.sleep(0.5); os.abort()"
_ODD = r"^rank 1 of 2 failed:(?s:.*)ValueError: odd$"


@pytest.mark.parametrize(
    ("end", "other", "raised", "says"),
    [
        (
            "os.kill(os.getpid(), signal.SIGKILL)",
            "",
            MachineRefused,
            "^rank 1 of 2 was ended by SIGKILL, and the training",
        ),
        pytest.param(
            "os.kill(os.getpid(), signal.SIGTERM)",
            "",
            MachineRefused,
            "^rank [01] of 2 was ended by SIGTERM, and",
            marks=pytest.mark.exhaustive,
        ),
        ("raise ValueError('odd')", "", RuntimeError, _ODD),
        pytest.param(  # half a minute, in which nothing happens
            "time.sleep(2); raise ValueError('odd')", _DEAF, RuntimeError, _ODD, marks=pytest.mark.exhaustive
        ),
        ("time.sleep(2); raise ValueError('odd')", _ABORTS, RuntimeError, _ODD),
        ("os._exit(3)", "", RuntimeError, r"^ranks ended with \{0: -15, 1: 3\}, and left no reason$"),
        ("raise TrainingRefused('a row is odd', 'remove it')", "", TrainingRefused, "^a row is odd"),
    ],
)
def test_the_rank_that_ended_first_is_the_reason_and_not_one_that_was_ended_for_it(
    end: str, other: str, raised: type[Exception], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ends.py").write_text(_ENDS.format(end=end, other=other))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{REPOSITORY}")
    step = training_tree.step(as_params(_document()), tmp_path, minutes=1, scratch=tmp_path)
    with pytest.raises(raised, match=says):
        ranks.launch("ends", step)


@pytest.mark.usefixtures("forked_ranks")
def test_ranks_refuse_alike_and_it_is_raised_once(root: Path, capfd: pytest.CaptureFixture[str], store: str) -> None:
    from mlflow import MlflowClient

    path = root / layout.SPLITS / "train.jsonl"
    files.write_jsonl(path, [*files.read_jsonl(path, Row), training_tree.row(255, "show the queue " * 60, "queue")])
    training_tree.seal(root)
    document = _document()
    document["tracking"] |= {"experiment": "refused"}
    with pytest.raises(
        TrainingRefused,
        match=r"row 00000000000000ff .*: reference: [0-9]+ tokens with its prompt, above train.max_length",
    ):
        train(as_params(document), root)
    assert "above train.max_length" not in capfd.readouterr().err  # what prints it is the stage's entry
    client = MlflowClient(tracking_uri=store)
    (run,) = client.search_runs([client.get_experiment_by_name("refused").experiment_id])
    assert (run.info.status, "above train.max_length" in run.data.tags["lockstep.refusal"]) == ("FAILED", True)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"devices": 0}, "train.devices"),
        ({"devices": 1, "shard": "fsdp2"}, "shard: fsdp2 divides the base among devices, and devices is 1; use null"),
        ({"shard": "fsdp2", "optimizer": "adamw_8bit"}, "shard: fsdp2 is not offered with optimizer adamw_8bit"),
        (
            {"shard": "fsdp2", "early_stopping": {"patience": 1, "per_epoch": 1}},
            "shard: fsdp2 is not offered with early_st",
        ),
        ({"shard": "fsdp2"} | training_tree.METHODS["grpo"], "train.method 'grpo' cannot use it: answers end at"),
    ],
)
def test_settings_that_cannot_be_are_refused_as_params_yaml_is_read(change: dict, says: str) -> None:
    with pytest.raises(ParamsRefused, match=says):
        as_params(_document(**change))
