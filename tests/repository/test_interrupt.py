"""Ctrl-C ends a run of the tests at once, and nothing that the tests started goes on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.release.adapters.test_children import interruptible, until

pytestmark = pytest.mark.slow

# A test with a server that a fixture ends, and with a process that nobody ends. Both are deaf to SIGINT and SIGTERM.
_TEST = """
import subprocess, time
from pathlib import Path
import pytest

DEAF = "trap '' INT TERM; echo $$ >>{pids}; while true; do sleep 1; done"

@pytest.fixture(scope="session")
def server():
    process = subprocess.Popen(["sh", "-c", DEAF], start_new_session=True)
    yield
    process.kill()
    {teardown}

@pytest.mark.parametrize("number", range(2))
def test_that_waits(server, number):
    subprocess.Popen(["sh", "-c", DEAF], start_new_session=True)
    time.sleep(300)
"""


def runs(process: str) -> bool:
    """Whether a process has not ended. One that nobody has waited for yet has."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(("workers", "teardown"), [("0", "pass"), ("2", "pass"), ("2", "time.sleep(300)")])
def test_ctrl_c_ends_the_run_and_leaves_no_process(workers: str, teardown: str, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    (tmp_path / "test_waits.py").write_text(_TEST.format(pids=pids, teardown=teardown))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", "-p", "tests.interrupt", "-c", os.devnull, "--rootdir", str(tmp_path)]
    running = subprocess.Popen(
        [*command, "-n", workers, str(tmp_path)], cwd=REPOSITORY, env=environment, stdout=subprocess.DEVNULL,
        start_new_session=True, preexec_fn=interruptible,
    )  # fmt: skip
    expected = 2 * max(1, int(workers))
    until(lambda: pids.exists() and len(pids.read_text().split()) == expected)
    started = time.monotonic()
    os.killpg(running.pid, signal.SIGINT)
    assert running.wait(30) == pytest.ExitCode.INTERRUPTED
    assert time.monotonic() - started < 20  # half of what pytest-xdist takes alone
    assert not [pid for pid in pids.read_text().split() if runs(pid)]
