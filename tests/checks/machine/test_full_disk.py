"""A full disk is said to be one, and where it is; when there is room again, the same command goes through.

On a real file system of a few MiB, which root alone may mount: elsewhere these tests are skipped.
"""

import contextlib
import errno
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from checks.machine import disk
from checks.process.errors import MachineRefused
from checks.storage import layout
from release.cli import main
from stages.tracking.store import opened
from stages.training import checkpoints
from tests import pipeline_repository, training_tree
from tests import promotion_tree as tree
from tests.conftest import REPOSITORY, as_params, scaled_down, written
from tests.ledger_tree import git, refs

pytestmark = pytest.mark.slow

alone, trio, root = tree.alone, tree.trio, tree.root


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=24m", "none", str(place)]
    done = subprocess.run(command, capture_output=True, text=True, check=False) if shutil.which("mount") else None
    if done is None or done.returncode:
        pytest.skip(
            f"A FULL DISK IS NOT TRIED: mount -t tmpfs needs root: {done.stderr.strip() if done else 'no mount'}"
        )
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@contextlib.contextmanager
def full(place: Path) -> Iterator[None]:
    """Fill the disk to its last byte, for as long as the block runs."""
    with contextlib.suppress(OSError), (place / "filler").open("wb", buffering=0) as stream:
        while True:
            stream.write(b"x" * 4096)
    try:
        yield
    finally:
        (place / "filler").unlink()


def run(root: Path, *args: str) -> Result:
    done = CliRunner().invoke(main, ["-C", str(root), *args])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exc_info
    return done


def refused(done: Result, place: Path) -> None:
    assert done.exit_code == 9, done.output
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"lockstep: the disk of {place}"), line
    assert " is full, 0 bytes are free: " in line
    assert f"free space there (df -h {place}" in line
    assert line.endswith("then run it again")


VERBS = {
    "promote": ("promote", "production"),
    "rollback": ("rollback", "production", "--why", "answers in French"),
    "empty": ("rollback", "production", "--to", "none", "--why", "answers in French"),
    "approve": ("approve", "production", "--why", "yes"),
    "quarantine": ("quarantine", "v0.2.0", "--why", "answers in French"),
}


@pytest.mark.parametrize("verb", VERBS)
def test_where_git_cannot_write_its_objects_the_disk_is_named(root: Path, small: Path, verb: str) -> None:
    shutil.move(root / ".git", small / "git")
    (root / ".git").write_text(f"gitdir: {small / 'git'}\n")
    git(root, "config", "core.worktree", str(root))
    key = ["--key", str(tree.key(root, "bob"))] if verb == "approve" else []
    before = refs(root)
    with full(small):
        refused(run(root, *VERBS[verb], *key), small / "git")
    assert refs(root) == before
    assert run(root, *VERBS[verb], *key).exit_code == 0
    assert refs(root) != before


def test_the_folder_of_an_atomic_write_is_named(root: Path, small: Path) -> None:
    """As those of the record, of a build's report, of an environment."""
    shutil.copytree(root, small / "work", symlinks=True, ignore=shutil.ignore_patterns("image"))
    work = small / "work"
    folder = work / layout.ENVIRONMENTS / "production"
    (folder / "kustomization.yaml").unlink()
    with full(small):
        refused(run(work, "render", "production"), folder)
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    assert run(work, "render", "production").exit_code == 0


def test_a_stage_ends_with_the_same_line(small: Path) -> None:
    script = (
        "from pathlib import Path; from checks.storage import files; from stages import entry;"
        "entry.run('fetch', lambda params, root: str(files.write_json(root / 'reports' / 'x.json', {})))"
    )
    (small / "reports").mkdir()
    shutil.copy(REPOSITORY / layout.PARAMS, small / layout.PARAMS)
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1"}
    with full(small):
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=small, env=environment, capture_output=True, text=True, check=False
        )
    assert done.returncode == 9, done.stderr
    assert f"fetch: the disk of {small / 'reports'} is full, 0 bytes are free: writing reports/" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_copy_to_a_full_disk_names_that_disk_and_not_the_one_that_is_read(tmp_path: Path, small: Path) -> None:
    (tmp_path / "source").write_bytes(b"x" * (1 << 20))
    with full(small):
        with pytest.raises(OSError, match="No space left") as raised:
            shutil.copyfile(tmp_path / "source", small / "copy")
        refusal = disk.full(raised.value, [tmp_path])
    assert refusal is not None
    assert refusal.what.startswith(f"the disk of {small} is full, 0 bytes are free: writing {small / 'copy'}")


def test_a_temporary_folder_that_is_gone_names_the_disk_that_it_was_on(small: Path) -> None:
    error = OSError(errno.ENOSPC, "No space left on device", str(small / "models" / ".adapter.x" / "adapter_model"))
    refusal = disk.full(error, [])
    assert refusal is not None
    assert refusal.what.startswith(f"the disk of {small} is full, ")


def test_where_no_disk_is_full_any_more_none_is_called_so(tmp_path: Path) -> None:
    refusal = disk.full(OSError(errno.ENOSPC, "No space left on device"), [tmp_path])
    assert refusal is not None
    assert refusal.what == "a disk is full: writing a file"
    assert str(tmp_path) in refusal.todo
    assert tempfile.gettempdir() in refusal.todo


def test_an_error_of_a_library_is_a_full_disk_only_where_the_disk_is_full(tmp_path: Path, small: Path) -> None:
    words = "[enforce fail at inline_container.cc:863] . PytorchStreamWriter failed writing file data/0"
    with pytest.raises(RuntimeError, match="PytorchStreamWriter"), disk.writing(tmp_path):
        raise RuntimeError(words)
    with full(small), pytest.raises(OSError, match="No space left on device") as raised, disk.writing(small):
        raise RuntimeError(words)
    assert raised.value.filename == str(small)


def _stage(root: Path, name: str) -> subprocess.CompletedProcess[str]:
    more = {"PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1", checkpoints.MINUTES: "0.0001"}
    command = [pipeline_repository.interpreter(), "-m", f"stages.{name}"]
    return subprocess.run(
        command, cwd=root, env=pipeline_repository.environment(**more, MLFLOW_TRACKING_URI=os.environ["MLFLOW_TRACKING_URI"]),
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_store_of_runs_that_finds_no_room_names_its_disk(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with full(small), pytest.raises(MachineRefused) as refused:
        opened(
            as_params(scaled_down() | {"tracking": {"uri": "sqlite:///mlflow.db", "experiment": "x"}}).tracking, small
        )
    assert refused.value.what.startswith(f"the disk of {small} is full, ")
    assert f": writing {small / 'mlflow.db'}" in refused.value.what


@pytest.mark.parametrize("room", [0, 20_000])
def test_an_adapter_that_finds_no_room_names_the_disk_of_the_models(
    tmp_path: Path, small: Path, tiny_base: Path, store: str, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    root = training_tree.make(tmp_path / "root", tiny_base)
    shutil.move(root / "models", small / "models")
    (root / "models").symlink_to(small / "models")
    document = scaled_down()
    document["train"] |= {"max_steps": 2, "epochs": None}
    (root / layout.PARAMS).write_text(written(document))
    with full(small):
        os.truncate(small / "filler", (small / "filler").stat().st_size - room)
        done = _stage(root, "train")
    assert (done.returncode, "Traceback" in done.stderr) == (9, False), done.stderr
    assert not re.search("(?i)stream ?writer|serializ|enforce", done.stderr), "words of torch or safetensors"
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"train: the disk of {small / 'models'} is full, "), last


def test_what_another_machine_says_of_its_disk_is_not_said_of_this_one() -> None:
    assert disk.said("fatal: write error: No space left on device")
    assert disk.said("error: unable to write: Disk quota exceeded")
    assert not disk.said("fatal: bad object")
