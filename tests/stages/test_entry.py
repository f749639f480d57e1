"""Two runs of one stage in one folder: the second one is refused in one line, and the first one is not disturbed."""

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from checks.storage import layout
from stages import entry
from tests.conftest import REPOSITORY

SCRIPT = """
import sys, time
from pathlib import Path
from checks.storage import files
from stages import entry

def stage(params, root):
    with files.replacing_folder(root / "models" / "adapter") as folder:
        Path("holds").touch()
        while not Path("go").exists():
            time.sleep(0.01)
        (folder / "weights").write_text("x")
    return "done"

entry.run(sys.argv[1], stage)
"""


@contextlib.contextmanager
def _started(root: Path, name: str) -> Iterator["subprocess.Popen[str]"]:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", SCRIPT, name]
    with subprocess.Popen(command, cwd=root, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def _until_it_holds(root: Path) -> None:
    while not (root / "holds").exists():
        time.sleep(0.01)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    shutil.copy(REPOSITORY / layout.PARAMS, tmp_path / layout.PARAMS)
    return tmp_path


@pytest.mark.slow
def test_the_second_of_two_runs_of_a_stage_is_refused_in_one_line_and_disturbs_nothing(root: Path) -> None:
    with _started(root, "train") as first:
        _until_it_holds(root)
        with _started(root, "train") as second:
            refused = second.communicate(timeout=60)[1]
        (root / "go").touch()
        assert first.communicate(timeout=60)[1] == "train: done\n"
    assert (first.returncode, second.returncode) == (0, 9)
    assert refused == (
        f"train: another process runs this stage in {root}; wait until it ends, then run the command again\n"
    )
    assert (root / "models/adapter/weights").read_text() == "x"


@pytest.mark.slow
def test_a_stage_that_was_killed_and_another_stage_hold_nothing(root: Path) -> None:
    with _started(root, "train") as killed:
        _until_it_holds(root)
        killed.kill()
        killed.communicate()
    (root / "holds").unlink()
    with _started(root, "merge") as running:
        _until_it_holds(root)
        (root / "go").touch()
        with _started(root, "train") as again:
            for process in (running, again):
                process.communicate(timeout=60)
                assert process.returncode == 0


def test_without_a_place_for_the_lock_a_stage_runs_all_the_same(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    (root / ".lockstep").mkdir()
    (root / layout.RUNNING).write_text("no folder")
    entry.run("train", lambda _, here: str((here / "ran").write_text("x")))
    assert (root / "ran").exists()
