"""A training that is stopped or killed ends as if it had not been: from its checkpoints, or without a bad one."""

import json
import os
import pickle
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from checks.formats.training_reports import TrainMeasured, TrainReport
from checks.process.errors import EvidenceRefused
from checks.storage import digest, files, layout
from stages.training import checkpoints
from stages.training.checkpoints import HERE, MANIFEST, THERE, Store
from stages.training.remote import SWITCH
from tests import energy_standin, training_tree
from tests.conftest import REPOSITORY, as_params, scaled_down, written
from tests.stages.training.test_checkpoints import KEY, NAMES, home_of, make_remote, until

pytestmark = pytest.mark.slow

EXHAUSTIVE = pytest.mark.exhaustive  # In CI each method and each setting is interrupted once.
STEPS = 48
EPOCHS = 8  # of 6 batches


def _document(steps: int | None = None, method: str = "sft") -> dict:
    value = scaled_down()
    value["train"] |= {"epochs": None if steps else EPOCHS, "max_steps": steps, "learning_rate": 0.02}
    if method == "sft":
        value["train"]["lora"] |= {"dropout": 0.1}
    else:
        value["train"] |= training_tree.METHODS[method]
        value["validate"]["preferences"] = training_tree.BOUNDS
    return value


@pytest.fixture(scope="module")
def store(store: str) -> Iterator[str]:
    """The file's store, to which all trainings here are logged."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", store)
        yield store


class Straight:
    """A training that ran through, and what it left."""

    def __init__(self, root: Path, method: str = "sft") -> None:
        from stages.train import train

        train(as_params(_document(method=method)), root)
        self.adapter = digest.of_tree(root / layout.ADAPTER)
        self.curve = (root / layout.LOSS_CURVE).read_text()
        self.report = files.read_json(root / layout.TRAIN_REPORT, TrainReport)
        self.measured = files.read_json(root / layout.TRAIN_MEASURED, TrainMeasured)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, store: str) -> Straight:
    return Straight(training_tree.make(tmp_path_factory.mktemp("straight"), tiny_base))


class _StoppedError(Exception):
    """The training is interrupted here."""


def _parts(root: Path, document: dict, home: Store, stop: int | None = None) -> tuple[Any, Any, Any]:
    """Trainer, keeper of a checkpoint at each step, and recorder, as the stage has them; stops before step ``stop``."""
    from transformers import TrainerCallback

    from stages.training import resuming, stopping
    from stages.training.trainer import Recorder

    class Stop(TrainerCallback):
        def on_step_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
            if state.global_step == stop:
                raise _StoppedError

    recorder = Recorder(lambda *_: None)
    settings = as_params(document).train
    trainer = training_tree.trainer(settings, root, home.scratch, [recorder, Stop()])
    stopping.attach(trainer, settings, len(trainer.train_dataset), lambda *_: None)
    keeper = resuming.Keeper(home, 1e-9, trainer, recorder, "0123")
    trainer.add_callback(keeper)
    return trainer, keeper, recorder


def _weights(trainer: Any) -> dict[str, Any]:
    return {name: weight.detach().clone() for name, weight in trainer.model.named_parameters() if weight.requires_grad}


@pytest.mark.parametrize(
    ("method", "stops", "settings", "lora"),
    [
        ("sft", (2, 6, 7, 8), {}, {}), ("sft", (4,), {"gradient_accumulation": 2}, {}),
        ("sft", (7,), {"precision": "bf16"}, {"modules_to_save": ["embed_tokens", "lm_head"]}),
        ("sft", (3,), {"neftune_alpha": 5.0}, {"variant": "dora", "init": "gaussian"}),
        ("sft", (3,), {"optimizer": "adamw_8bit"}, {"r": 128, "targets": ["down_proj"]}),  # fewer stay in 32 bits
        pytest.param("sft", (7,), {"optimizer": "paged_adamw_8bit"}, {"r": 128, "targets": ["down_proj"]}, marks=EXHAUSTIVE),
        ("sft", (3,), {"quantization": {"kind": "nf4", "double": True}}, {"variant": "rslora"}),
        ("sft", (3, 8), {"early_stopping": {"patience": 9, "per_epoch": 3}}, {}),
        ("sft", (3, 7), {"lora": None, "full": {"layers": 1}, "optimizer": "adamw_8bit"}, {}),
        ("sft", (2,), {"early_stopping": {"patience": 1, "per_epoch": 6}, "learning_rate": 0.5, "schedule": "constant"}, {}),
        pytest.param("dpo", (7,), {"early_stopping": {"patience": 9, "per_epoch": 3}}, {}, marks=EXHAUSTIVE),
        ("dpo", (7, 8), {}, {}),
        pytest.param("dpo", (6,), {}, {}, marks=EXHAUSTIVE),
        pytest.param("dpo", (4,), {"gradient_accumulation": 2}, {}, marks=EXHAUSTIVE),
        ("kto", (7,), {}, {}),
        ("grpo", (7,), {"gradient_accumulation": 2}, {}),
        pytest.param("grpo", (6,), {"gradient_accumulation": 2}, {}, marks=EXHAUSTIVE),
    ],
)  # fmt: skip
def test_a_training_in_parts_is_the_training_in_one_part(
    tmp_path: Path, tiny_base: Path, method: str, stops: tuple[int, ...], settings: dict, lora: dict
) -> None:
    """Within an epoch, twice within one, between two, and with micro-batches; dropout, order and answers are random."""
    root = training_tree.make(tmp_path, tiny_base, preferences=method != "sft")
    document = _document(10, method)
    document["train"] |= {"gradient_accumulation": 1} | settings
    document["train"]["lora"] = (document["train"]["lora"] or {}) | lora or None
    with checkpoints.opened(root, KEY, kept=True) as home:
        trainer, _, recorder = _parts(root, document, home)
        before = _weights(trainer)
        trainer.train()
        assert any((trainer.model.get_parameter(name) != weight).any() for name, weight in before.items())
        stopped = trainer.stopper.restore(trainer.model) if trainer.stopper else None
        whole, points, tokens = _weights(trainer), recorder.points, trainer.state.num_input_tokens_seen
        home.remove()
    for stop in stops:
        with checkpoints.opened(root, KEY, kept=True) as home:
            trainer, keeper, _ = _parts(root, document, home, stop)
            found = keeper.resume()
            with pytest.raises(_StoppedError):
                trainer.train(resume_from_checkpoint=str(found.folder) if found else None)
    with checkpoints.opened(root, KEY, kept=True) as home:
        trainer, keeper, recorder = _parts(root, document, home)
        found = keeper.resume()
        assert found is not None
        assert found.step == stops[-1]
        trainer.train(resume_from_checkpoint=str(found.folder))
    assert recorder.points == points
    assert trainer.state.num_input_tokens_seen == tokens
    assert (trainer.stopper.restore(trainer.model) if trainer.stopper else None) == stopped
    again = _weights(trainer)
    assert whole.keys() == again.keys()
    assert all((again[name] == weight).all() for name, weight in whole.items())


@pytest.mark.parametrize(
    ("then", "hours"), [(energy_standin.running, True), (energy_standin.powercap, False)], ids=["counted", "unreadable"]
)
def test_the_energy_of_a_resumed_training_is_that_of_all_its_parts_or_was_not_measured(
    tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch, then: Callable[..., object], hours: bool
) -> None:
    root, document = training_tree.make(tmp_path / "root", tiny_base), _document(4)
    energy_standin.running(monkeypatch, tmp_path / "counters")
    with checkpoints.opened(root, KEY, kept=True) as home:
        trainer, keeper, _ = _parts(root, document, home, 3)
        with pytest.raises(_StoppedError):
            trainer.train()
        keeper.close()
    with checkpoints.opened(root, KEY, kept=True) as home:
        then(monkeypatch, tmp_path / "then")
        trainer, keeper, _ = _parts(root, document, home)
        found = keeper.resume()
        earlier = found.known.energy.watt_hours
        assert earlier is not None
        trainer.train(resume_from_checkpoint=str(found.folder))
        now = keeper._meters.read().watt_hours
        used = keeper.energy
        keeper.close()
    assert (now is not None) == hours
    if hours:
        assert used.watt_hours == pytest.approx(earlier + now, abs=2 / 3600)  # another look is another joule
    else:
        assert used.watt_hours is None
        assert "does not move" in used.missing[0]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """A root whose training was stopped, with a checkpoint of step 3."""
    root = training_tree.make(tmp_path_factory.mktemp("kept"), tiny_base)
    with checkpoints.opened(root, KEY, kept=True) as home:
        trainer, _, _ = _parts(root, _document(14), home, 3)
        with pytest.raises(_StoppedError):
            trainer.train()
    assert (home_of(root) / "step-3").is_dir()
    return root


def test_a_checkpoint_holds_no_weights_of_the_base(kept: Path) -> None:
    from safetensors.torch import load_file

    folder = home_of(kept) / "step-3"
    assert sorted(p.name for p in folder.iterdir()) == sorted([*NAMES, MANIFEST])
    assert all("lora_" in name for name in load_file(folder / "adapter_model.safetensors"))


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch evil",)


def _evil(path: Path) -> None:
    path.write_bytes(pickle.dumps(_Evil()))


def _json(**values: Any) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return spoil


@pytest.mark.parametrize(
    ("name", "spoil", "says"),
    [
        ("optimizer.pt", _evil, "optimizer.pt: "),
        ("scheduler.pt", _evil, "scheduler.pt: "),
        ("rng_state.pth", _evil, "rng_state.pth: "),
        ("adapter_model.safetensors", lambda p: p.write_bytes(b"{}"), "adapter_model.safetensors: "),
        ("trainer_state.json", _json(unheard_of=1), "trainer_state.json: "),
        ("progress.json", _json(seconds=-1.0), "progress.json: seconds"),
    ],
)
def test_a_whole_checkpoint_of_bad_contents_is_passed_over_and_runs_no_code(
    tmp_path: Path,
    kept: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    spoil: Callable[[Path], None],
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "root"
    shutil.copytree(kept, root)
    folder = home_of(root) / "step-3"
    spoil(folder / name)
    (folder / MANIFEST).unlink()
    with checkpoints.opened(root, KEY, kept=True) as home:
        shutil.move(folder, home.scratch / "checkpoint-3")
        folder = home.scratch / "checkpoint-3"
        home.keep(folder, 3, (folder / "progress.json").read_text())
        trainer, keeper, _ = _parts(root, _document(14), home)
        capsys.readouterr()
        assert keeper.resume() is None
    (line,) = capsys.readouterr().err.splitlines()
    assert "a checkpoint of this machine is passed over: " in line
    assert says in line
    assert trainer.resumed_order is None
    assert not Path("evil").exists()


def test_a_disk_that_does_not_take_a_checkpoint_costs_a_line_and_no_training(
    tmp_path: Path, tiny_base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no full disk to lend")
    root = training_tree.make(tmp_path, tiny_base)
    with checkpoints.opened(root, KEY, kept=True) as home:
        (home.scratch / "checkpoint-1").mkdir()
        (home.scratch / "checkpoint-1" / "optimizer.pt").symlink_to("/dev/full")
        trainer, _, _ = _parts(root, _document(3), home)
        capsys.readouterr()
        trainer.train()
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("train:")]
    assert len(lines) == 1
    assert lines[0].startswith("train: the checkpoint of step 1 is not kept: ")
    assert [p.name for p in home_of(root).glob("step*")] == ["step-2"]


def test_a_checkpoint_waits_for_its_minutes_and_for_a_point_of_the_curve(tmp_path: Path) -> None:
    from transformers import TrainerControl, TrainerState

    from stages.training import resuming

    def asked(minutes: float, step: int, logs: bool) -> bool:
        keeper = resuming.Keeper(None, minutes, None, None, "")  # type: ignore[arg-type] # none is touched
        keeper._last -= 60
        control = TrainerControl(should_log=logs)
        keeper.on_step_end(None, TrainerState(global_step=step, max_steps=20), control)
        return bool(control.should_save)

    assert asked(0.9, 10, True)
    assert not asked(1.1, 10, True)
    assert not asked(0.9, 10, False)
    assert not asked(0.9, 20, True)  # the last step
    assert not asked(0, 10, True)


def _killed(root: Path, place: Path, checkpoint: str, method: str = "sft") -> None:
    (root / layout.PARAMS).write_text(written(_document(method=method)))
    killed(root, place, checkpoint)


def killed(root: Path, place: Path, checkpoint: str) -> None:
    """Train in another process, and kill it when a checkpoint is whole: ``checkpoint`` is its manifest below ``place``."""
    process = training_tree.started(root)
    try:
        until(lambda: process.poll() is not None or any(place.glob(checkpoint)), 120)
    finally:
        process.kill()
        said = process.communicate()[0].decode()
    assert process.returncode == -signal.SIGKILL, said
    assert "train: a checkpoint every 0.0001 minutes, in .lockstep/checkpoints" in said
    assert not (root / layout.ADAPTER).exists()


# That a training goes on from here is held by test_full.py and test_steps.py.
@pytest.mark.parametrize("where", [pytest.param(HERE, marks=EXHAUSTIVE), THERE])
def test_a_killed_training_ends_in_the_bytes_of_one_that_ran_through(
    tmp_path: Path,
    tiny_base: Path,
    straight: Straight,
    store: str,
    where: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from mlflow import MlflowClient

    from stages.train import train

    root = training_tree.make(tmp_path, tiny_base)
    if where == HERE:
        _killed(root, root / checkpoints.FOLDER, f"*/step-*/{MANIFEST}")
    else:
        monkeypatch.setenv(SWITCH, "1")
        _killed(root, make_remote(root, "there"), f"lockstep/checkpoints/*/{MANIFEST}")
        shutil.rmtree(root / layout.STATE)
    capsys.readouterr()
    train(as_params(_document()), root)

    report = files.read_json(root / layout.TRAIN_REPORT, TrainReport)
    measured = files.read_json(root / layout.TRAIN_MEASURED, TrainMeasured)
    assert measured.resumed_at is not None
    assert 0 < measured.resumed_at < STEPS
    assert f"train: goes on at step {measured.resumed_at} of {STEPS}, from {where}\n" in capsys.readouterr().err
    assert digest.of_tree(root / layout.ADAPTER) == straight.adapter
    assert (root / layout.LOSS_CURVE).read_text() == straight.curve
    assert report == straight.report

    client = MlflowClient(tracking_uri=store)
    run = client.get_run(measured.mlflow_run)
    assert run.data.tags["lockstep.resumed_at"] == str(measured.resumed_at)
    assert client.get_run(run.data.tags["lockstep.resumed_from"]).info.run_id != measured.mlflow_run
    logged = [(point.step, point.value) for point in client.get_metric_history(measured.mlflow_run, "loss")]
    through = [(point.step, point.value) for point in client.get_metric_history(straight.measured.mlflow_run, "loss")]
    assert sorted(logged) == sorted(through)

    assert not list((root / checkpoints.FOLDER).iterdir())
    if where == THERE:
        assert not list((root / ".dvc" / "there" / "lockstep" / "checkpoints").iterdir())


@EXHAUSTIVE  # As the one above; that dpo goes on from its checkpoint is held by the training in parts.
def test_a_killed_training_by_dpo_ends_in_the_bytes_of_one_that_ran_through(
    tmp_path: Path, tiny_base: Path, store: str
) -> None:
    from stages.train import train

    straight = Straight(training_tree.make(tmp_path / "straight", tiny_base, preferences=True), "dpo")
    root = training_tree.make(tmp_path / "killed", tiny_base, preferences=True)
    _killed(root, root / checkpoints.FOLDER, f"*/step-*/{MANIFEST}", "dpo")
    train(as_params(_document(method="dpo")), root)
    assert files.read_json(root / layout.TRAIN_MEASURED, TrainMeasured).resumed_at in range(1, STEPS)
    assert digest.of_tree(root / layout.ADAPTER) == straight.adapter
    assert (root / layout.LOSS_CURVE).read_text() == straight.curve
    assert files.read_json(root / layout.TRAIN_REPORT, TrainReport) == straight.report


def test_tokens_are_those_of_every_row_in_every_epoch(straight: Straight, tmp_path: Path, tiny_base: Path) -> None:
    root = training_tree.make(tmp_path, tiny_base)
    with checkpoints.opened(root, KEY, kept=False) as home:
        trainer, _, _ = _parts(root, _document(), home)
    assert straight.report.tokens == EPOCHS * sum(len(row["input_ids"]) for row in trainer.train_dataset)
    assert straight.measured.resumed_at is None


def test_a_report_without_tokens_is_readable(straight: Straight) -> None:
    old = TrainReport.model_validate(straight.report.model_dump(exclude={"tokens"}))
    assert old.tokens is None
    with pytest.raises(EvidenceRefused):
        files.read_json(REPOSITORY / layout.PARAMS, TrainReport)
