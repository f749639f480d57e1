"""A signal to `lockstep run` alone ends what DVC started for it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

pytestmark = pytest.mark.slow

_PIPELINE = "stages:\n  train:\n    cmd: echo $$ > pid; exec sleep 300\n    outs: [pid]\n"
_PROGRAM = """
import sys
from pathlib import Path
from release.adapters import dvc
from release.cli.stage_lines import StageLines
{call}
"""
_CALLS = {
    "a pipeline": "dvc.python(Path(), ['-m', 'dvc', 'repro'], 'dvc repro', listener=StageLines(Path()))",
    "a command of DVC": "dvc.dvc(Path(), 'repro', '--quiet')",
}


@pytest.mark.parametrize(
    ("name", "number", "code"),
    [
        ("a pipeline", signal.SIGTERM, 128 + signal.SIGTERM),
        ("a pipeline", signal.SIGINT, -signal.SIGINT),
        ("a command of DVC", signal.SIGTERM, 128 + signal.SIGTERM),
    ],
)
def test_a_run_that_is_ended_leaves_no_stage_behind(name: str, number: int, code: int, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "dvc", "init", "--no-scm", "--quiet"], cwd=tmp_path, check=True)
    (tmp_path / "dvc.yaml").write_text(_PIPELINE)
    repository = str(REPOSITORY)
    running = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM.format(call=_CALLS[name])],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": repository}, start_new_session=True, preexec_fn=interruptible,
    )  # fmt: skip
    pid = tmp_path / "pid"
    until(lambda: pid.exists() and pid.read_text().strip() != "")
    stage = int(pid.read_text())
    os.kill(running.pid, number)
    assert running.wait(30) == code
    until(lambda: not alive(stage))


_STUBBORN = """
import subprocess
from release.adapters import children
children._GRACE = 1.0
with children.ended_with_this_process():
    subprocess.run(["sh", "-c", "sh -c \\"trap '' TERM; echo \\\\$\\\\$ > pid; exec sleep 300\\"; true"])
"""


def test_a_second_signal_does_not_save_what_ignores_the_first(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    running = subprocess.Popen([sys.executable, "-c", _STUBBORN], cwd=tmp_path, env=environment, start_new_session=True)
    pid = tmp_path / "pid"
    until(lambda: pid.exists() and pid.read_text().strip() != "")
    os.kill(running.pid, signal.SIGTERM)
    time.sleep(0.5)
    os.kill(running.pid, signal.SIGTERM)
    assert running.wait(30) == 128 + signal.SIGTERM
    until(lambda: not alive(int(pid.read_text())))


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def interruptible() -> None:
    """To run in a new process: a shell's job in the background, as tests may be, ignores SIGINT, and hands that on."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)
