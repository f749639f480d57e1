"""run: the pipeline through DVC, to a verdict."""

import json
import os
import subprocess
import sys
from pathlib import Path

from checks import layout
from checks.errors import MachineRefused, Refusal
from release import references


class StageRefused(Refusal):
    """A stage refused; it has said why. Carries that stage's own exit code."""

    def __init__(self, stage: str, code: int) -> None:
        super().__init__(f"{stage} refused", "mend what it says above, then run again; finished stages are kept")
        self.exit_code = code


def run(root: Path, targets: tuple[str, ...], force: bool) -> None:
    """Ask git which earlier models there are, then run ``dvc repro``: what changed, or with ``force`` everything.

    Raises StageRefused with the stage's exit code, MachineRefused when DVC itself cannot run, EvidenceRefused when git
    cannot say which models were released before.
    """
    references.write(root)
    python(root, ["-m", "dvc", "repro", *(["--force"] if force else []), "--", *targets], "dvc repro")


def python(root: Path, arguments: list[str], name: str) -> None:
    """Run this interpreter with ``arguments`` in ``root``; refusals call it ``name``. Raises as ``run`` does."""
    refusal = root / layout.REFUSAL
    refusal.unlink(missing_ok=True)
    try:
        code = subprocess.run([sys.executable, *arguments], cwd=root, env=environment(), check=False).returncode
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
