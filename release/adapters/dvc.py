"""DVC, and the stages that it runs, as processes of this interpreter."""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from checks.formats import refused
from checks.formats.refused import Refused
from checks.process.errors import MachineRefused, Refusal, RemoteRefused
from checks.process.text import redact
from checks.storage import layout
from release.adapters import commits, merge_conflicts
from release.adapters.children import ended_with_this_process
from release.adapters.listening import Listener, listen

# How DVC begins a line of error, and its words for most failures of a remote.
_ERROR, _BUG = ("ERROR: ", "unexpected error - ")
# A path of this machine without its last part. Pages and comments, which others read, quote why DVC failed.
_FOLDERS = re.compile(r"(?<=')/[^']*/|(?<=\")/[^\"]*/|(?:file://|(?<![\w:/'\"]))/[^\s'\"]*/")
# Every command of DVC is run so that it writes only into the folders of data and models.
MODULE = ("-m", "stages.tools.guarded_dvc")
# These options make a remote keep files by their names and versions.
_VERSIONING = ("version_aware", "worktree")
# Set for stages that may keep something on the DVC remote while they work.
REMOTE = "LOCKSTEP_REMOTE"


class StageRefused(Refusal):
    """A stage refused; it has said why, and left ``word``. Carries that stage's own exit code."""

    def __init__(self, word: Refused) -> None:
        super().__init__(
            f"{word.stage} refused",
            "fix what it says above, then run again; finished stages are kept",
        )
        self.exit_code = word.exit_code
        self.word = word


def has_remote(root: Path) -> bool:
    """Whether DVC has a default remote here. Raises RemoteRefused for one that is cloud-versioned."""
    return bool(default_remote(settings(root)))


def settings(root: Path) -> dict[str, str]:
    """DVC's configuration here, such as ``remote.NAME.url``; empty if there is none that DVC can read."""
    done = _quietly(root, "config", "--list")
    lines = (line.partition("=") for line in done.stdout.decode(errors="replace").splitlines())
    return {key: value for key, _, value in lines}  # DVC lists the file that wins last


def default_remote(config: Mapping[str, str]) -> str:
    """The name of the default remote in DVC's configuration; "" for none. Raises RemoteRefused as ``has_remote``."""
    name = config.get("core.remote", "").lower()  # so DVC compares names
    if versioned := versioning(config, name):
        raise RemoteRefused(*unfit(name, *versioned))
    return name


def versioning(config: Mapping[str, str], name: str) -> tuple[str, str] | None:
    """Return what makes the remote ``name`` cloud-versioned, None if nothing does: the remote that says so, and its
    option.

    Where an address is ``remote://OTHER/PATH``, DVC takes options that the remote does not set from the remote OTHER.
    """
    settings, seen = dict[str, tuple[str, str]](), set[str]()
    while name and name not in seen:
        seen.add(name)
        for option in _VERSIONING:
            if (value := config.get(f"remote.{name}.{option}")) is not None:
                settings.setdefault(option, (name, value))
        scheme, _, rest = config.get(f"remote.{name}.url", "").partition("://")
        name = rest.partition("/")[0].lower() if scheme == "remote" else ""
    return next(
        ((owner, option) for option, (owner, value) in settings.items() if value.lower() == "true"),
        None,
    )


def unfit(name: str, owner: str, option: str) -> tuple[str, str]:
    """Why a remote with ``option``, which ``owner`` sets, cannot keep the outputs of the pipeline, and what to do."""
    shown, there = redact(name, 80), redact(owner, 80)
    what = (
        f"DVC's default remote {shown} has {option}: with it `dvc push` removes the MD5 "
        f"of folders from {layout.LOCK}"
    )
    unset = f"./lockstep dvc remote modify --unset {there} {option}"
    todo = (
        f"run `{unset}` (with --local or --global if `./lockstep dvc config --list --show-origin` shows the option in "
        "such a file), or name another remote: `./lockstep dvc remote add --default NAME URL`"
    )
    return f"{what}, and the record is refused", todo


def dvc(root: Path, *arguments: str, listener: Listener | None = None, aside: bool = False) -> int:
    """Run DVC in ``root``; return its exit code. Its output is shown, or given to ``listener`` as a step of its own.

    ``aside``: as for ``python``.
    """
    if listener is not None:
        listener.step(arguments[0])
    out = sys.stderr if aside else None
    code, _ = _run([*MODULE, *arguments], listener, out, cwd=root, env=environment())
    return code


def stale(root: Path, targets: Sequence[str], listener: Listener | None = None) -> str | None:
    """Return what differs from dvc.lock in ``targets`` and the stages before them, or in all stages; None: nothing
    does.

    Checks the local sources and writes code.lock first: DVC tracks the pins of sources, and compares the digests in
    code.lock. Raises as ``python`` does.
    """
    printed = python(
        root, ["-m", "stages.unchanged", *targets], "the look at what changed",
        heard=True, listener=listener, step="sources",
    )  # fmt: skip
    if not printed:
        return "dvc status failed"
    return None if printed == "{}" else redact(printed, 300)


def get(root: Path, commit: str, path: Path, to: Path) -> str | None:
    """Copy an output as it was in ``commit``, from DVC's cache or a remote, to ``to``; None, or why it cannot be had.

    The work tree, its outputs and git's index stay as they are.
    """
    wanted = from_top(root, path).as_posix()
    return _asked(root, "get", ".", wanted, "--rev", commit, "--out", str(to.resolve()))


def read_lists(root: Path, commit: str) -> str | None:
    """Read the lists of all folders below ``root`` that DVC knows in ``commit``.

    Return None, or why one cannot be read or is refused.
    """
    below = from_top(root, Path()).as_posix()
    return _asked(root, "list", ".", below, "--recursive", "--dvc-only", "--rev", commit)


def _asked(root: Path, *arguments: str) -> str | None:
    """Run DVC silently; None if it ends well, else its first error, without the folders of this machine."""
    done = _quietly(root, *arguments)
    if done.returncode == 0:
        return None
    printed = [line for line in done.stderr.decode(errors="replace").splitlines() if line.strip()]
    errors = [
        line.removeprefix(_ERROR).removeprefix(_BUG) for line in printed if line.startswith(_ERROR)
    ]
    why = next(iter(errors or printed[-1:]), f"it ended with {done.returncode}")
    return redact(_FOLDERS.sub("…/", why), 160)


def _quietly(root: Path, *arguments: str) -> "subprocess.CompletedProcess[bytes]":
    """Run DVC and show nothing. Raises MachineRefused if this Python does not start."""
    command = [sys.executable, *MODULE, *arguments]
    try:
        return subprocess.run(
            command, cwd=root, env=environment(), capture_output=True, check=False
        )
    except OSError as error:
        raise _no_python(error) from error


def _no_python(error: OSError) -> MachineRefused:
    return MachineRefused(
        f"{sys.executable}: {error.strerror}", "make the virtual environment again"
    )


def from_top(root: Path, path: Path) -> Path:
    """``path``, relative to ``root``, as DVC names it in a past commit: from the top of the repository."""
    return commits.prefix(root) / path


def python(
    root: Path,
    arguments: list[str],
    name: str,
    more: Mapping[str, str] | None = None,
    aside: bool = False,
    heard: bool = False,
    listener: Listener | None = None,
    step: str = "",
) -> str:
    """Run this interpreter with ``arguments`` in ``root``; refusals call it ``name``. Raises as ``run`` does.

    Raises EvidenceRefused before that if a merge has left conflict markers in the record: DVC would not say how to
    resolve them, or train again.

    ``more`` is added to its environment. ``aside``: what it prints goes to standard error, so that the caller can print
    JSON alone. ``heard``: what it prints on standard output is returned, and not shown; else "" is returned.
    ``listener`` gets the rest of the output as the step ``step``, and nothing else is shown.
    """
    merge_conflicts.check(root)
    refused.forget(root)
    if listener is not None:
        listener.step(step)
    try:
        env = environment() | dict(more or {})
        out = subprocess.PIPE if heard else sys.stderr if aside else None
        code, printed = _run(arguments, listener, cwd=root, env=env, stdout=out)
    except OSError as error:
        raise _no_python(error) from error
    if code and (word := refused.read(root)):
        raise StageRefused(word)
    if code:
        raise MachineRefused(
            f"{name} ended with {code}",
            "read what it printed; `lockstep doctor` says what is missing",
        )
    return printed.decode(errors="replace")


def _run(
    arguments: list[str], listener: Listener | None, stdout: Any, **options: Any
) -> tuple[int, bytes]:
    """Run this interpreter with ``arguments``; its exit code, and what it wrote if ``stdout`` is a pipe."""
    command = [sys.executable, *arguments]
    with ended_with_this_process():
        if listener is not None and stdout == subprocess.PIPE:
            with tempfile.TemporaryFile() as heard:
                code = listen(command, listener, stdout=heard, **options)
                heard.seek(0)
                return code, heard.read()
        if listener is not None:
            return listen(command, listener, **options), b""
        done = subprocess.run(command, check=False, stdout=stdout, **options)
    return done.returncode, done.stdout or b""


def environment() -> dict[str, str]:
    """The environment of stages: this interpreter's folder first in PATH, so that ``python`` is this one."""
    folder = str(Path(sys.executable).parent)
    return os.environ | {"PATH": os.pathsep.join([folder, os.environ.get("PATH", os.defpath)])}
