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
from release.ledger.git import printable


class StageRefused(Refusal):
    """A stage refused; it has said why. Carries that stage's own exit code."""

    def __init__(self, stage: str, code: int) -> None:
        super().__init__(f"{stage} refused", "mend what it says above, then run again; finished stages are kept")
        self.exit_code = code


REMOTE = "LOCKSTEP_REMOTE"  # set for stages that may keep something on the DVC remote while they work


def run(root: Path, targets: tuple[str, ...], force: bool, remote: bool = False) -> None:
    """Ask git which earlier models there are, then run ``dvc repro``: what changed, or with ``force`` everything.

    ``remote``: what was made before anywhere is taken from the DVC remote, by its run cache, and what was made here is
    put there, also when a later stage refuses. Without a remote there is nothing to share, and nothing is.

    Raises StageRefused with the stage's exit code, MachineRefused when DVC itself cannot run, EvidenceRefused when git
    cannot say which models were released before, RemoteRefused when the DVC remote does not take what was made.
    """
    references.write(root)
    shared = remote and has_remote(root)
    flags = [*(["--force"] if force else []), *(["--pull"] if shared else [])]
    try:
        python(root, ["-m", "dvc", "repro", *flags, "--", *targets], "dvc repro", {REMOTE: "1"} if shared else {})
    except StageRefused:
        if shared:
            _push(root, targets, whole=False)
        raise
    if shared:
        _push(root, targets, whole=True)


def has_remote(root: Path) -> bool:
    """Whether DVC has a default remote here. Raises MachineRefused when DVC cannot say."""
    said = _dvc(root, "config", "core.remote")
    if said.returncode not in (0, 251):  # DVC's word for a value that is not set
        raise MachineRefused(f"dvc config: {_words(said)}", "mend .dvc/config or .dvc/config.local")
    return bool(said.stdout.strip())


def _push(root: Path, targets: tuple[str, ...], *, whole: bool) -> None:
    """Put run cache and outputs on the remote. Of a run that was refused, what cannot be pushed costs nothing more."""
    said = _dvc(root, "push", "--quiet", "--run-cache", "--", *targets)
    if said.returncode and whole:
        raise RemoteRefused(f"dvc push: {_words(said)}", "see that the remote takes it: dvc push; then run it again")


def _dvc(root: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "dvc", *arguments]
    try:
        return subprocess.run(
            command, cwd=root, env=environment(), capture_output=True, text=True, errors="replace", check=False
        )
    except OSError as error:
        raise MachineRefused(f"{sys.executable}: {error.strerror}", "make the virtual environment again") from error


def _words(said: "subprocess.CompletedProcess[str]") -> str:
    """DVC's reason, on one line without credentials."""
    lines = [line for line in said.stderr.splitlines() if line.startswith("ERROR")]
    return printable(lines[0].removeprefix("ERROR: ") if lines else f"ended with {said.returncode}", 300)


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
