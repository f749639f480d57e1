"""`lockstep run --remote`: what one machine made, another takes from DVC's remote by dvc.lock."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from checks.storage import layout
from tests import pipeline_repository as repository
from tests.conftest import scaled_down

pytestmark = pytest.mark.slow


def run(root: Path, *args: str) -> list[str]:
    """The steps that ran."""
    command = [repository.interpreter(), "-m", "release.cli", "run", "--remote", *args]
    env = repository.environment(PYTHONPATH=str(root))
    done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return re.findall(r"^  [✓✗] (\w+)", done.stderr, re.MULTILINE)


def test_a_machine_that_dies_after_training_costs_no_training(tiny_base: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    repository.make(first, tiny_base, scaled_down(), repository.table())
    (first / ".dvc" / "config").write_text(
        f"[core]\n    remote = store\n    analytics = false\n['remote \"store\"']\n    url = {tmp_path / 'store'}\n"
    )
    repository.commit(first, "a remote")
    shutil.copytree(first, second)
    assert run(first, "train") == ["sources", "pull", "code", "fetch", "prepare", "validate", "train", "push"]
    # What the workflow's artifact brings to the next machine; adapter, splits and base come from the remote.
    shutil.copy(first / layout.LOCK, second / layout.LOCK)
    shutil.copytree(first / layout.REPORTS, second / layout.REPORTS, dirs_exist_ok=True)
    adapter = (first / layout.ADAPTER / "adapter_model.safetensors").read_bytes()
    shutil.rmtree(first)
    assert run(second, "merge") == ["sources", "pull", "code", "merge", "push"]
    assert (second / layout.ADAPTER / "adapter_model.safetensors").read_bytes() == adapter
