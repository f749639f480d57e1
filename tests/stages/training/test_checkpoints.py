"""Checkpoints: whole or none, of this training or of none, here and on a remote."""

import json
import re
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from checks.process.errors import MachineRefused, ParamsRefused
from checks.storage import digest, layout
from stages.training import checkpoints
from stages.training.checkpoints import HERE, MANIFEST, THERE, Store
from stages.training.remote import SWITCH, Remote, Upload
from tests import spoil
from tests.http_standin import Handler, StandIn

pytestmark = pytest.mark.slow

KEY = digest.of_bytes(b"a training")
NAMES = sorted(checkpoints._NAMES - checkpoints._OPTIONAL - checkpoints._OWN)


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as the DVC remote of the repository at ``tmp_path``."""
    monkeypatch.setenv(SWITCH, "1")
    return make_remote(tmp_path)


def make_remote(root: Path, url: str = "../shared place") -> Path:
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


def home_of(root: Path) -> Path:
    return root / checkpoints.FOLDER / KEY.removeprefix("sha256:")


def _keep(root: Path, *steps: int) -> Store:
    """Keep checkpoints, and wait until they are uploaded."""
    with checkpoints.opened(root, KEY, kept=True) as store:
        for step in steps:
            store.keep(_saved(store, step), step, "{}")
            until(lambda: not store._upload.busy)
    return store


def until(true: Callable[[], object], seconds: float = 60) -> None:
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
    assert [p.name for p in home_of(tmp_path).iterdir()] == ["step-20"]
    assert sorted(p.name for p in (home_of(tmp_path) / "step-20").iterdir()) == sorted([*NAMES, MANIFEST])
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
        shutil.copytree(store.scratch, home_of(tmp_path) / ".killed")
    assert _newest(tmp_path) is None
    assert list(home_of(tmp_path).iterdir()) == []


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
    spoil(home_of(tmp_path) / "step-10")
    assert _newest(tmp_path) is None
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(rf"^train: a checkpoint of this machine is passed over: .*{says}", line)
    assert not (home_of(tmp_path) / "step-10").exists()


@pytest.mark.parametrize("what", [what for what in BAD if what != "with a link"])
def test_a_damaged_or_foreign_checkpoint_of_the_remote_likewise(
    tmp_path: Path, remote: Path, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    spoil, says = BAD[what]
    _keep(tmp_path, 10)
    shutil.rmtree(home_of(tmp_path))
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
    assert [p for p in home_of(tmp_path).glob("*") if p.name.startswith("step")] == []


def test_the_remote_holds_the_newest_and_stands_in_where_this_machine_has_none_or_a_damaged_one(
    tmp_path: Path, remote: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _keep(tmp_path, 10, 20)
    (place,) = (remote / "lockstep" / "checkpoints").iterdir()
    assert place.name == home_of(tmp_path).name
    assert len(list(place.iterdir())) == 2  # the manifest and one folder

    BAD["of other bytes"][0](home_of(tmp_path) / "step-20")
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
    shutil.rmtree(home_of(tmp_path))
    assert _resumed(tmp_path).step == 10


def test_a_training_that_is_done_leaves_none_here_and_none_on_the_remote(tmp_path: Path, remote: Path) -> None:
    (remote / "files").mkdir(parents=True)
    store = _keep(tmp_path, 10)
    (remote / "lockstep" / "checkpoints" / "of another").mkdir()
    store.remove()
    assert not home_of(tmp_path).exists()
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
    make_remote(tmp_path, url)
    (tmp_path / ".dvc" / "blocked").write_text("a file where a folder should be")
    _keep(tmp_path, 10)
    said = capsys.readouterr().err
    assert re.match(f"train: {says}.*\n$", said)
    assert "secret" not in said
    assert (home_of(tmp_path) / "step-10" / MANIFEST).is_file()


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
        make_remote(tmp_path, f"{server.url}/dvc")
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
        assert sorted(p.name for p in home_of(tmp_path).glob("step*")) == ["step-10", "step-30"]
        slow.lets.release(100)
        until(lambda: not store._upload.busy)
        assert slow.put == [*sorted(slow.put[:-1]), MANIFEST]  # last
        store.keep(_saved(store, 40), 40, "{}")
        assert [p.name for p in home_of(tmp_path).glob("step*")] == ["step-40"]
        until(lambda: not store._upload.busy)
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
    assert not home_of(tmp_path).exists()
    assert Upload(checkpoints.say).ended()


def test_a_state_folder_that_is_none_refuses(tmp_path: Path) -> None:
    (tmp_path / layout.STATE).write_text("a file")
    with pytest.raises(MachineRefused, match="LOCKSTEP_CHECKPOINT_MINUTES=0"):
        checkpoints.opened(tmp_path, KEY, kept=True).__enter__()
