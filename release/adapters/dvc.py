"""DVC, and the stages that it runs, as processes of this interpreter."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from checks import refused
from checks.errors import MachineRefused, Refusal
from checks.refused import Refused

REMOTE = "LOCKSTEP_REMOTE"  # set for stages that may keep something on the DVC remote while they work


class StageRefused(Refusal):
    """A stage refused; it has said why, and left ``word``. Carries that stage's own exit code."""

    def __init__(self, word: Refused) -> None:
        super().__init__(f"{word.stage} refused", "fix what it says above, then run again; finished stages are kept")
        self.exit_code = word.exit_code
        self.word = word


def has_remote(root: Path) -> bool:
    """Whether DVC has a default remote here."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "dvc", "config", "core.remote"],
            cwd=root, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False,
        )  # fmt: skip
    except OSError as error:
        raise MachineRefused(f"{sys.executable}: {error.strerror}", "make the virtual environment again") from error
    return bool(done.stdout.strip())


def dvc(root: Path, *arguments: str) -> int:
    """Run DVC in ``root`` with its output shown; its exit code."""
    return subprocess.run(
        [sys.executable, "-m", "dvc", *arguments], cwd=root, env=environment(), check=False
    ).returncode


def python(
    root: Path, arguments: list[str], name: str, more: Mapping[str, str] | None = None, aside: bool = False
) -> None:
    """Run this interpreter with ``arguments`` in ``root``; refusals call it ``name``. Raises as ``run`` does.

    ``more`` is added to its environment. ``aside``: what it prints goes to standard error, so that the caller can print
    JSON alone.
    """
    refused.forget(root)
    try:
        env = environment() | dict(more or {})
        out = sys.stderr if aside else None
        code = subprocess.run([sys.executable, *arguments], cwd=root, env=env, stdout=out, check=False).returncode
    except OSError as error:
        raise MachineRefused(f"{sys.executable}: {error.strerror}", "make the virtual environment again") from error
    if code and (word := refused.read(root)):
        raise StageRefused(word)
    if code:
        raise MachineRefused(
            f"{name} ended with {code}", "read what it printed; `lockstep doctor` says what is missing"
        )


def environment() -> dict[str, str]:
    """The environment of stages: this interpreter's folder first in PATH, so that ``python`` is this one."""
    folder = str(Path(sys.executable).parent)
    return os.environ | {"PATH": os.pathsep.join([folder, os.environ.get("PATH", os.defpath)])}
