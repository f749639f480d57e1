"""run: the pipeline through DVC, to a verdict."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from checks import layout
from checks.errors import MachineRefused, Refusal, RemoteRefused
from release import references


class StageRefused(Refusal):
    """A stage refused; it has said why. Carries that stage's own exit code."""

    def __init__(self, stage: str, code: int) -> None:
        super().__init__(f"{stage} refused", "mend what it says above, then run again; finished stages are kept")
        self.exit_code = code


REMOTE = "LOCKSTEP_REMOTE"  # set for stages that may keep something on the DVC remote while they work


def run(root: Path, targets: tuple[str, ...], force: bool, remote: bool = False) -> None:
    """Ask git which earlier models there are, then run ``dvc repro``: what changed, or with ``force`` everything.

    ``remote``: outputs that dvc.lock names are taken from the DVC remote first, and what was made here is put there,
    also when a later stage refuses. Where no remote is set there is nothing to share, and nothing is.

    Raises StageRefused with the stage's exit code, MachineRefused when DVC itself cannot run, EvidenceRefused when git
    cannot say which models were released before, RemoteRefused when the DVC remote does not take what was made.
    """
    references.write(root)
    shared = remote and has_remote(root)
    if shared:  # what the remote lacks or does not give is made again: its lines say so, and the push asks it once more
        _dvc(root, "pull", "--allow-missing", *(["--with-deps"] if targets else []), "--", *targets)
    arguments = ["-m", "dvc", "repro", *(["--force"] if force else []), "--", *targets]
    try:
        python(root, arguments, "dvc repro", {REMOTE: "1"} if shared else {})
    except StageRefused:
        if shared:
            _dvc(root, "push")
        raise
    if shared and (code := _dvc(root, "push", *(["--with-deps"] if targets else []), "--", *targets)):
        raise RemoteRefused(
            f"dvc push ended with {code}", "read its lines above; when the remote takes it: dvc push, then go on"
        )


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


def _dvc(root: Path, *arguments: str) -> int:
    return subprocess.run(
        [sys.executable, "-m", "dvc", *arguments], cwd=root, env=environment(), check=False
    ).returncode


def python(root: Path, arguments: list[str], name: str, more: Mapping[str, str] | None = None) -> None:
    """Run this interpreter with ``arguments`` in ``root``; refusals call it ``name``. Raises as ``run`` does.

    ``more`` is added to its environment.
    """
    refusal = root / layout.REFUSAL
    refusal.unlink(missing_ok=True)
    try:
        env = environment() | dict(more or {})
        code = subprocess.run([sys.executable, *arguments], cwd=root, env=env, check=False).returncode
    except OSError as error:
        raise MachineRefused(f"{sys.executable}: {error.strerror}", "make the virtual environment again") from error
    if code and (refused := said(refusal)):
        raise StageRefused(*refused)
    if code:
        raise MachineRefused(
            f"{name} ended with {code}", "read its lines above; `lockstep doctor` says what is missing"
        )


def said(path: Path) -> tuple[str, int] | None:
    """The stage that refused and its exit code; None when no stage left word."""
    try:
        word = json.loads(path.read_text(encoding="utf-8"))
        return str(word["stage"]), int(word["exit_code"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def environment() -> dict[str, str]:
    """The environment of stages: this interpreter's folder first in PATH, so that ``python`` is this one."""
    folder = str(Path(sys.executable).parent)
    return os.environ | {"PATH": os.pathsep.join([folder, os.environ.get("PATH", os.defpath)])}
