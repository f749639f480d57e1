"""What stands in for ``python`` in tests of the pipeline: a stage cannot tell, but for the libraries that are loaded."""

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from release import runtimes
from release.serving import processes
from tests import pipeline_repository as repository
from tests import warm
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.slow

STAGE = """
import json, os, sys, time
if sys.argv[1:] == ["wait"]:
    print(os.getpid(), flush=True)
    time.sleep(600)
mask = os.umask(0)
told = [sys.argv[1:], os.getcwd(), os.environ.get("MARK"), mask, sys.stdin.read(), sys.executable, sys.path[0], __name__]
told.append(os.getppid())
print(json.dumps([told, [os.getpid(), "torch" in sys.modules, hash("seed")]]))
print("an error", file=sys.stderr)
sys.exit(7)
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages" / "merge.py").write_text(STAGE)
    return tmp_path


def start(root: Path, *words: str, mask: int = -1, **more: str) -> "subprocess.Popen[str]":
    command = [repository.interpreter(), "-m", "stages.merge", *words]
    return subprocess.Popen(
        command, cwd=root, env=repository.environment(**more), umask=mask, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("once", "forked"),
    [({}, True), ({"OMP_WAIT_POLICY": "PASSIVE"}, True), ({"OMP_NUM_THREADS": "3"}, False)],
    ids=["as the first", "with what a stage sets", "in another environment"],
)
def test_a_stage_has_arguments_folder_environment_streams_and_exit_code(
    root: Path, once: dict[str, str], forked: bool
) -> None:
    process = start(root, "a", "b c", mask=0o27, MARK="é", **once)
    out, err = process.communicate("from outside")
    told, (pid, loaded, _) = json.loads(out)
    here = [repository.interpreter(), str(root), "__main__", os.getpid()]
    assert told == [["a", "b c"], str(root), "é", 0o27, "from outside", *here]
    assert (process.returncode, err) == (7, "an error\n")
    assert loaded == forked
    assert (pid == process.pid) == (not forked)
    assert os.getpid() != pid


@pytest.mark.parametrize(("option", "more"), [(["-P"], {}), ([], {"PYTHONSAFEPATH": "1"})], ids=["option", "variable"])
def test_a_stage_that_imports_nothing_from_its_folder_is_forked_too(
    root: Path, option: list[str], more: dict[str, str]
) -> None:
    """As dvc.yaml and the launcher start it."""
    team = root / "team"
    (team / "stages").mkdir(parents=True)
    (team / "stages" / "merge.py").write_text("raise SystemExit('a module of the folder')\n")
    command = [repository.interpreter(), *option, "-m", "stages.merge"]
    env = repository.environment(PYTHONPATH=str(root), **more)
    done = subprocess.run(command, cwd=team, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    (_, folder, *_), (_, loaded, _) = json.loads(done.stdout)
    assert (folder, loaded, done.returncode) == (str(team), True, 7)


def test_what_is_forked_with_other_hashes_has_another_seed(root: Path) -> None:
    def hashed(python: str, **more: str) -> tuple[bool, int]:
        command, env = [python, "-m", "stages.merge"], repository.environment(**more)
        done = subprocess.run(command, cwd=root, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        _, (_, loaded, number) = json.loads(done.stdout)
        return loaded, number

    other = warm.other_hashes()
    seed = hashed(sys.executable, **other)[1]  # of a new interpreter that is told it
    assert hashed(repository.interpreter(**other), **other) == (True, seed)
    loaded, first = hashed(repository.interpreter())
    assert loaded
    assert first != seed


@pytest.mark.skipif("ATEN_CPU_CAPABILITY" not in os.environ, reason="this processor has no AVX2")
@pytest.mark.parametrize("told", [True, False], ids=["by its environment", "by itself"])
def test_what_is_forked_computes_with_the_instructions_that_stages_settle_on(told: bool) -> None:
    """Else a training in this process and its other half in a forked one end in other bytes where there is AVX-512."""
    program = repository.script(
        "import torch; from numpy._core._multiarray_umath import __cpu_features__ as has;"
        'print(torch.backends.cpu.get_cpu_capability(), has["X86_V4"])'
    )
    env = repository.environment(PYTHONPATH=str(REPOSITORY))
    if not told:
        for name in ("ATEN_CPU_CAPABILITY", "NPY_DISABLE_CPU_FEATURES"):
            del env[name]
    done = subprocess.run(program, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.lower().split() == [os.environ["ATEN_CPU_CAPABILITY"], "false"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_ends_the_stage_and_what_stands_for_it(root: Path, number: signal.Signals) -> None:
    process = start(root, "wait")
    assert process.stdout is not None
    stage = int(process.stdout.readline())
    ended = os.pidfd_open(stage)
    process.send_signal(number)
    assert process.wait(60) == -number
    assert select.select([ended], [], [], 60)[0] == [ended]
    os.close(ended)


def test_all_else_is_a_new_interpreter_of_this_environment(root: Path) -> None:
    command = [repository.interpreter(), "-c", "import sys; print(sys.executable, 'torch' in sys.modules); import yaml"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [repository.interpreter(), "False"]
    assert sys.executable != repository.interpreter()


def test_a_server_of_a_model_is_forked_as_verify_starts_it(root: Path) -> None:
    runtime = runtimes.load("transformers")
    given = processes.private(runtime, runtime.environment, root) | {"PATH": os.environ["PATH"]} | warm.NOWHERE
    command = [str(warm.serving()), "-m", "stages.merge"]
    done = subprocess.run(command, cwd=root, env=given, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    _, (_, loaded, _) = json.loads(done.stdout)
    assert (loaded, done.returncode) == (True, 7)
    program = warm.serving().with_name("transformers")
    assert f"{warm.serving()} -m transformers.cli.transformers" in program.read_text()
