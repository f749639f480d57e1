"""Checkpoints: whole or none, of this training or of none, and a killed training ends as if it had not been killed."""

import json
import os
import pickle
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from checks import digest, files, layout
from checks.errors import EvidenceRefused, MachineRefused, ParamsRefused
from checks.formats.training_reports import TrainMeasured, TrainReport
from stages.training import checkpoints
from stages.training.checkpoints import HERE, MANIFEST, THERE, Store
from stages.training.remote import SWITCH, Remote, Upload
from tests import energy_standin, spoil, training_tree
from tests.conftest import REPOSITORY, as_params, scaled_down, written
from tests.http_standin import Handler, StandIn

pytestmark = pytest.mark.slow

KEY = digest.of_bytes(b"a training")
NAMES = sorted(checkpoints._NAMES - checkpoints._OPTIONAL - checkpoints._OWN)


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as the DVC remote of the repository at ``tmp_path``."""
    monkeypatch.setenv(SWITCH, "1")
    return _remote(tmp_path)


def _remote(root: Path, url: str = "../shared place") -> Path:
    (root / ".dvc").mkdir()
    (root / ".dvc" / "config").write_text(f"[core]\n    remote = team\n['remote \"team\"']\n    url = {url}\n")
    return (root / ".dvc" / url).resolve()


def _saved(store: Store, step: int, **more: bytes) -> Path:
    """A folder as the trainer leaves it in the store's scratch."""
    folder = store.scratch / f"checkpoint-{step}"
    folder.mkdir()
    for name in NAMES:
        (folder / name).write_bytes(f"{name} at {step}".encode())
    for name, data in more.items():
        (folder / name).write_bytes(data)
    return folder


def _newest(root: Path, key: str = KEY) -> checkpoints.Found[str] | None:
    with checkpoints.opened(root, key, kept=True) as store:
        return store.newest(lambda folder, _: (folder / "optimizer.pt").read_text())


def _resumed(root: Path) -> checkpoints.Found[str]:
    found = _newest(root)
    assert found is not None
    return found


def _home(root: Path) -> Path:
    return root / checkpoints.FOLDER / KEY.removeprefix("sha256:")


def _keep(root: Path, *steps: int) -> Store:
    """Keep checkpoints, and wait until they are uploaded."""
    with checkpoints.opened(root, KEY, kept=True) as store:
        for step in steps:
            store.keep(_saved(store, step), step, "{}")
            _until(lambda: not store._upload.busy)
    return store


def _until(true: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.mark.parametrize("text", ["five", "-1", "nan", "inf", "5m"])
def test_minutes_that_are_none_refuse(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(checkpoints.MINUTES, text)
    with pytest.raises(ParamsRefused, match=f"LOCKSTEP_CHECKPOINT_MINUTES: '{text}' is not a number of minutes"):
        checkpoints.minutes()


@pytest.mark.parametrize(("text", "minutes"), [("", 5), ("0", 0), ("0.5", 0.5)])
def test_minutes_are_five_unless_the_environment_says_otherwise(
    text: str, minutes: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(checkpoints.MINUTES, text)
    assert checkpoints.minutes() == minutes


def test_the_newest_alone_is_kept_whole_and_without_other_files(tmp_path: Path) -> None:
    with checkpoints.opened(tmp_path, KEY, kept=True) as store:
        for step in (10, 20):
            store.keep(_saved(store, step, **{"README.md": b"card", "model.safetensors": b"a base"}), step, '{"n": 1}')
    assert [p.name for p in _home(tmp_path).iterdir()] == ["step-20"]
    assert sorted(p.name for p in (_home(tmp_path) / "step-20").iterdir()) == sorted([*NAMES, MANIFEST])
    found = _resumed(tmp_path)
    assert (found.step, found.where, found.known) == (20, HERE, "optimizer.pt at 20")
    assert (found.folder / "progress.json").read_text() == '{"n": 1}'


def test_without_checkpoints_nothing_is_kept_and_nothing_is_found(tmp_path: Path, remote: Path) -> None:
    _keep(tmp_path, 10)
    with checkpoints.opened(tmp_path, KEY, kept=False) as store:
        assert store.newest(lambda *_: None) is None
    assert (store.remote, store.scratch.exists()) == (None, False)
    assert _newest(tmp_path) is not None


def test_what_a_kill_leaves_while_a_checkpoint_is_written_is_removed_and_taken_for_none(tmp_path: Path) -> None:
    with checkpoints.opened(tmp_path, KEY, kept=True) as store:
        _saved(store, 10)
        shutil.copytree(store.scratch, _home(tmp_path) / ".killed")
    assert _newest(tmp_path) is None
    assert list(_home(tmp_path).iterdir()) == []


def test_another_key_never_resumes(tmp_path: Path, remote: Path) -> None:
    _keep(tmp_path, 10)
    assert _newest(tmp_path, digest.of_bytes(b"another training")) is None


def test_the_key_is_of_every_value_and_of_the_bytes_of_the_modules(tmp_path: Path) -> None:
    module = tmp_path / "sft.py"
    module.write_text("one")
    values = {"train": {"seed": 17}, "device": "cpu"}
    first = checkpoints.key(values, (module,))
    assert checkpoints.key(dict(reversed(values.items())), (module,)) == first
    assert checkpoints.key(values | {"device": "cuda"}, (module,)) != first
    module.write_text("two")
    assert checkpoints.key(values, (module,)) != first


def _link(folder: Path) -> None:
    (folder / "optimizer.pt").rename(folder.parent.parent / "elsewhere")
    (folder / "optimizer.pt").symlink_to(folder.parent.parent / "elsewhere")


BAD: dict[str, tuple[spoil.Spoil, str]] = {
    "cut off": (spoil.edit("optimizer.pt", lambda text: text[:3]), "step 10: optimizer.pt has 3 bytes, not the 18 of its manifest"),
    "of other bytes": (spoil.write("optimizer.pt", "optimizer.pt at 99"), "step 10: optimizer.pt has other bytes than its manifest names"),
    "without a file": (spoil.remove("rng_state.pth"), "rng_state.pth: not a regular file"),
    "with a link": (_link, "optimizer.pt: not a regular file"),
    "half a manifest": (spoil.edit(MANIFEST, lambda text: text[:20]), "manifest.json: Invalid JSON"),
    "another key": (spoil.edit_json(MANIFEST, lambda m: m.update(key=digest.of_bytes(b"x"))), "manifest.json is of another training"),
    "a path that leads out": (spoil.edit_json(MANIFEST, lambda m: m["files"].update({"../../evil": m["files"]["optimizer.pt"]})), "manifest.json: files"),
    "a file of another name": (spoil.edit_json(MANIFEST, lambda m: m["files"].update({"pytorch_model.bin": m["files"]["optimizer.pt"]})), "manifest.json: files"),
    "a file unnamed": (spoil.edit_json(MANIFEST, lambda m: m["files"].pop("scheduler.pt")), "names no scheduler.pt"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_a_damaged_or_foreign_checkpoint_is_passed_over_with_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    spoil, says = BAD[what]
    _keep(tmp_path, 10)
    spoil(_home(tmp_path) / "step-10")
    assert _newest(tmp_path) is None
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(rf"^train: a checkpoint of this machine is passed over: .*{says}", line)
    assert not (_home(tmp_path) / "step-10").exists()


@pytest.mark.parametrize("what", [what for what in BAD if what != "with a link"])
def test_a_damaged_or_foreign_checkpoint_of_the_remote_likewise(
    tmp_path: Path, remote: Path, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    spoil, says = BAD[what]
    _keep(tmp_path, 10)
    shutil.rmtree(_home(tmp_path))
    (place,) = (remote / "lockstep" / "checkpoints").iterdir()
    (folder,) = (p for p in place.iterdir() if p.is_dir())
    (place / MANIFEST).rename(folder / MANIFEST)
    spoil(folder)
    (folder / MANIFEST).rename(place / MANIFEST)
    assert _newest(tmp_path) is None
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("train: a checkpoint of the remote is passed over: ")
    if what not in ("cut off", "of other bytes", "without a file", "a file unnamed"):
        assert re.search(says, line)
    assert [p for p in _home(tmp_path).glob("*") if p.name.startswith("step")] == []


def test_the_remote_holds_the_newest_and_stands_in_where_this_machine_has_none_or_a_damaged_one(
    tmp_path: Path, remote: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _keep(tmp_path, 10, 20)
    (place,) = (remote / "lockstep" / "checkpoints").iterdir()
    assert place.name == _home(tmp_path).name
    assert len(list(place.iterdir())) == 2  # the manifest and one folder

    BAD["of other bytes"][0](_home(tmp_path) / "step-20")
    found = _resumed(tmp_path)
    assert (found.step, found.where, found.known) == (20, THERE, "optimizer.pt at 20")
    assert len(capsys.readouterr().err.splitlines()) == 1

    shutil.rmtree(tmp_path / layout.STATE)
    assert _resumed(tmp_path).where == THERE
    assert _resumed(tmp_path).where == HERE  # it was brought


def test_an_upload_that_was_killed_leaves_the_checkpoint_before_it(tmp_path: Path, remote: Path) -> None:
    _keep(tmp_path, 10)
    (place,) = (remote / "lockstep" / "checkpoints").iterdir()
    (place / "step-20-0123456789abcdef").mkdir()
    (place / "step-20-0123456789abcdef" / "optimizer.pt").write_text("half")
    shutil.rmtree(_home(tmp_path))
    assert _resumed(tmp_path).step == 10


def test_a_training_that_is_done_leaves_none_here_and_none_on_the_remote(tmp_path: Path, remote: Path) -> None:
    (remote / "files").mkdir(parents=True)
    store = _keep(tmp_path, 10)
    (remote / "lockstep" / "checkpoints" / "of another").mkdir()
    store.remove()
    assert not _home(tmp_path).exists()
    left = sorted(p.relative_to(remote).as_posix() for p in remote.rglob("*"))
    assert left == ["files", "lockstep", "lockstep/checkpoints", "lockstep/checkpoints/of another"]


def test_a_remote_is_asked_only_where_the_run_says_so(
    tmp_path: Path, remote: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(SWITCH)
    _keep(tmp_path, 10)
    assert not remote.exists()
    monkeypatch.setenv(SWITCH, "1")
    (tmp_path / ".dvc" / "config").write_text("")
    assert Remote.of(tmp_path, "lockstep") is None


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("blocked/below", "the checkpoint of step 10 is not on the remote: (NotADirectoryError|FileExistsError)"),
        ("gdrive://user:secret@nowhere", "no checkpoint is taken from the remote or kept there: "),
        ("nonsense://x", "no checkpoint is taken from the remote or kept there: "),
    ],
)
def test_a_remote_that_fails_costs_a_line_and_no_checkpoint_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], url: str, says: str
) -> None:
    monkeypatch.setenv(SWITCH, "1")
    _remote(tmp_path, url)
    (tmp_path / ".dvc" / "blocked").write_text("a file where a folder should be")
    _keep(tmp_path, 10)
    said = capsys.readouterr().err
    assert re.match(f"train: {says}.*\n$", said)
    assert "secret" not in said
    assert (_home(tmp_path) / "step-10" / MANIFEST).is_file()


class _Put(Handler):
    """A server that takes files and gives them, and removes none."""

    place: ClassVar[dict[str, bytes]] = {}

    def do_GET(self) -> None:
        known = self.path in self.place
        self.reply(200 if known else 404, self.place.get(self.path, b""))

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self.place[self.path] = self.body()
        self.reply(200)


def test_a_remote_that_can_neither_list_nor_remove_keeps_them_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(SWITCH, "1")
    with StandIn(_Put) as server:
        _remote(tmp_path, f"{server.url}/dvc")
        store = _keep(tmp_path, 10, 20, 30)
        shutil.rmtree(tmp_path / layout.STATE)
        found = _resumed(tmp_path)
        assert (found.step, found.where) == (30, THERE)
        store.remove()
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("train: older checkpoints stay on the remote: ")
    assert second.startswith("train: the checkpoints on the remote are not removed: NotImplementedError: http")


class _Slow:
    """A folder that takes one file each time it is let: DVC's file system for a slow line."""

    def __init__(self) -> None:
        from dvc.fs import LocalFileSystem

        self._fs = LocalFileSystem()
        self.lets = threading.Semaphore(0)
        self.begun = threading.Event()
        self.put: list[str] = []

    def put_file(self, source: str, target: str) -> None:
        self.begun.set()
        self.lets.acquire()
        self.put.append(Path(target).name)
        self._fs.put_file(source, target)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._fs, name)


def test_one_upload_at_a_time_and_its_folder_stays_until_it_ends(tmp_path: Path) -> None:
    slow = _Slow()
    place = tmp_path / "remote"
    with checkpoints.opened(tmp_path, KEY, kept=True) as store:
        store.remote = Remote("slow", slow, str(place))
        for step in (10, 20, 30):
            store.keep(_saved(store, step), step, "{}")
        assert sorted(p.name for p in _home(tmp_path).glob("step*")) == ["step-10", "step-30"]
        slow.lets.release(100)
        _until(lambda: not store._upload.busy)
        assert slow.put == [*sorted(slow.put[:-1]), MANIFEST]  # last
        store.keep(_saved(store, 40), 40, "{}")
        assert [p.name for p in _home(tmp_path).glob("step*")] == ["step-40"]
        _until(lambda: not store._upload.busy)
    assert json.loads((place / MANIFEST).read_text())["step"] == 40
    assert len(list(place.iterdir())) == 2


def test_the_end_of_the_training_waits_for_the_file_on_its_way_alone(tmp_path: Path) -> None:
    slow = _Slow()
    with checkpoints.opened(tmp_path, KEY, kept=True) as store:
        store.remote = Remote("slow", slow, str(tmp_path / "remote"))
        store.keep(_saved(store, 10), 10, "{}")
        assert slow.begun.wait(60)
        threading.Timer(0.2, slow.lets.release).start()
        store.remove()
    assert len(slow.put) == 1
    assert not (tmp_path / "remote").exists()
    assert not _home(tmp_path).exists()
    assert Upload(checkpoints.say).ended()


def test_a_state_folder_that_is_none_refuses(tmp_path: Path) -> None:
    (tmp_path / layout.STATE).write_text("a file")
    with pytest.raises(MachineRefused, match="LOCKSTEP_CHECKPOINT_MINUTES=0"):
        checkpoints.opened(tmp_path, KEY, kept=True).__enter__()


# What follows trains the tiny model.

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
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One MLflow store for all tests here: making its tables takes seconds."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        yield uri


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
        ("sft", (2,), {}, {}), ("sft", (7, 8), {}, {}), ("sft", (6,), {}, {}), ("sft", (4,), {"gradient_accumulation": 2}, {}),
        ("sft", (7,), {"precision": "bf16"}, {"modules_to_save": ["embed_tokens", "lm_head"]}),
        ("sft", (3,), {"neftune_alpha": 5.0}, {"variant": "dora", "init": "gaussian"}),
        ("sft", (3,), {"optimizer": "adamw_8bit"}, {"r": 128, "targets": ["down_proj"]}),  # fewer stay in 32 bits
        ("sft", (7,), {"optimizer": "paged_adamw_8bit"}, {"r": 128, "targets": ["down_proj"]}),
        ("sft", (3,), {"quantization": {"kind": "nf4", "double": True}}, {"variant": "rslora"}),
        ("sft", (3, 8), {"early_stopping": {"patience": 9, "per_epoch": 3}}, {}),
        ("sft", (3, 7), {"lora": None, "full": {"layers": 1}, "optimizer": "adamw_8bit"}, {}),
        ("sft", (2,), {"early_stopping": {"patience": 1, "per_epoch": 6}, "learning_rate": 0.5, "schedule": "constant"}, {}),
        ("dpo", (7,), {"early_stopping": {"patience": 9, "per_epoch": 3}}, {}),
        ("dpo", (7, 8), {}, {}), ("dpo", (6,), {}, {}), ("dpo", (4,), {"gradient_accumulation": 2}, {}),
        ("kto", (7,), {}, {}),
        ("grpo", (7,), {"gradient_accumulation": 2}, {}), ("grpo", (6,), {"gradient_accumulation": 2}, {}),
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
    assert (_home(root) / "step-3").is_dir()
    return root


def test_a_checkpoint_holds_no_weights_of_the_base(kept: Path) -> None:
    from safetensors.torch import load_file

    folder = _home(kept) / "step-3"
    assert sorted(p.name for p in folder.iterdir()) == sorted([*NAMES, MANIFEST])
    assert all("lora_" in name for name in load_file(folder / "adapter_model.safetensors"))


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch evil",)


def _evil(path: Path) -> None:
    path.write_bytes(pickle.dumps(_Evil()))


def _torch(change: Callable[[Any], object]) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        import torch
        from transformers.trainer_pt_utils import safe_globals

        with safe_globals():
            value = torch.load(path, weights_only=True)
        change(value)
        torch.save(value, path)

    return spoil


def _other_adapter(path: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(path)
    weights.popitem()
    save_file(weights, path)


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
        ("optimizer.pt", _torch(lambda o: o["state"].pop(0)), "optimizer.pt: other weights"),
        ("scheduler.pt", _torch(lambda s: s.update(last_epoch=40)), "scheduler.pt: of another step"),
        ("rng_state.pth", _torch(lambda r: r.pop("numpy")), "rng_state.pth: 'numpy'"),
        ("adapter_model.safetensors", _other_adapter, "adapter_model.safetensors: other weights"),
        ("adapter_model.safetensors", lambda p: p.write_bytes(b"{}"), "adapter_model.safetensors: "),
        ("trainer_state.json", _json(global_step=4), "trainer_state.json: of another step"),
        ("trainer_state.json", _json(max_steps=3), "trainer_state.json: of a training of 3 steps"),
        ("trainer_state.json", _json(unheard_of=1), "trainer_state.json: "),
        ("progress.json", _json(points=[[9, {"loss": 1.0, "learning_rate": 1.0}]]), "progress.json: a point"),
        ("progress.json", _json(order="AAAA"), "progress.json: "),
        ("progress.json", _json(valid=[[1, 0.5]]), "best.safetensors: best weights without losses"),
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
    folder = _home(root) / "step-3"
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
    assert [p.name for p in _home(root).glob("step*")] == ["step-2"]


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
        _until(lambda: process.poll() is not None or any(place.glob(checkpoint)), 120)
    finally:
        process.kill()
        said = process.communicate()[0].decode()
    assert process.returncode == -signal.SIGKILL, said
    assert "train: a checkpoint every 0.0001 minutes, in .lockstep/checkpoints" in said
    assert not (root / layout.ADAPTER).exists()


@pytest.mark.parametrize("where", [HERE, THERE])
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
        _killed(root, _remote(root, "there"), f"lockstep/checkpoints/*/{MANIFEST}")
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
