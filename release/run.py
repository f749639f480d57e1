"""run: the pipeline through DVC, to a verdict."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from checks import refused
from checks.errors import MachineRefused, Refusal, RemoteRefused
from checks.refused import Refused
from release import references


class StageRefused(Refusal):
    """A stage refused; it has said why, and left ``word``. Carries that stage's own exit code."""

    def __init__(self, word: Refused) -> None:
        super().__init__(f"{word.stage} refused", "mend what it says above, then run again; finished stages are kept")
        self.exit_code = word.exit_code
        self.word = word


REMOTE = "LOCKSTEP_REMOTE"  # set for stages that may keep something on the DVC remote while they work


def run(root: Path, targets: tuple[str, ...], force: bool, remote: bool = False) -> None:
    """Hold local sources to their pins, ask git which earlier models there are, then run ``dvc repro``.

    It runs what changed, or with ``force`` everything. DVC tracks params.yaml and not the local files that it names:
    an edited one would be passed over without a word. One that is absent is left to fetch, if that has to run.

    ``remote``: outputs that dvc.lock names are taken from the DVC remote first, and what was made here is put there,
    also when a later stage refuses. Where no remote is set there is nothing to share, and nothing is.

    What runs may make another model than the one that the references were kept for: then it is compared again.

    Raises StageRefused with the stage's exit code, MachineRefused when DVC itself cannot run, EvidenceRefused when git
    cannot say which models were released before, RemoteRefused when the DVC remote does not take what was made.
    """
    python(root, ["-m", "stages.sources.still_pinned"], "the look at local sources")
    references.write(root)
    shared = remote and has_remote(root)
    if shared:  # what the remote lacks or does not give is made again: its lines say so, and the push asks it once more
        _dvc(root, "pull", "--allow-missing", *(["--with-deps"] if targets else []), "--", *targets)
    arguments = ["-m", "dvc", "repro", *(["--force"] if force else []), "--", *targets]
    try:
        python(root, arguments, "dvc repro", {REMOTE: "1"} if shared else {})
        if references.write(root).changed:
            python(root, ["-m", "dvc", "repro", "--", *targets], "dvc repro", {REMOTE: "1"} if shared else {})
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
    refused.forget(root)
    try:
        env = environment() | dict(more or {})
        code = subprocess.run([sys.executable, *arguments], cwd=root, env=env, check=False).returncode
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
