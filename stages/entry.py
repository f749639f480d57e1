"""Runs a stage: reads the parameters, prints one line of result, and turns a refusal into one line and an exit code."""

import fcntl
import gc
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, cast

import click

from checks.code import lock as code_lock
from checks.config import params_file
from checks.config.params import Params
from checks.formats import refused
from checks.machine import disk
from checks.process import distribution
from checks.process.errors import MachineRefused, Refusal
from checks.storage import layout
from stages import cpu_arithmetic

Stage = Callable[[Params, Path], str]


def run(name: str, stage: Stage, unneeded: Iterable[str] = ()) -> None:
    """Run ``stage(params, root)`` in the current directory, the repository's root, and exit with its outcome.

    The stage returns one line that says what it did. A Refusal is printed to standard error, written to
    ``.lockstep/refusal.json`` for `lockstep run`, and sets the exit code. ``unneeded``: libraries that
    others load where they are installed, for a second of every run, and that this run has no use for.
    """
    root = Path()
    # Libraries and rows are millions of objects that stay: looking for garbage among them rarely saves seconds.
    gc.set_threshold(100_000)
    # Libraries mean these for their own callers, not for this command's user.
    warnings.simplefilter("ignore", FutureWarning)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    cpu_arithmetic.settle()
    # torch reads this when it is loaded. Threads that spin while they wait make training much slower on a busy machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    hide(unneeded)
    # The parameters of now: they may be edited while the stage works.
    params = refused.params(root)
    try:
        with _alone(name, root):
            refused.forget(root)
            read = params_file.load(root / layout.PARAMS)
            # DVC runs this stage, and so will record what it makes.
            is_recorded = os.environ.get("DVC_STAGE", "").rpartition(":")[2] == name
            if is_recorded and name != code_lock.STAGE:
                code_lock.hold(root, name, read)
            click.echo(f"{name}: {stage(read, root)}", err=True)
    except Refusal as refusal:
        _refuse(name, root, refusal, params)
    except OSError as error:
        if full := disk.full(error, [root]):
            _refuse(name, root, full, params)
        raise
    except KeyboardInterrupt:
        click.echo(f"{name}: interrupted; run the same command again to go on", err=True)
        sys.exit(130)


@contextmanager
def _alone(name: str, root: Path) -> Iterator[None]:
    """Hold the stage in ``root`` alone: another run of it would delete what this one is writing.

    The kernel lets go of the lock when this process ends, however it ends. Where no lock can be had, as on a full disk,
    the stage runs without it.
    """
    path = root / layout.RUNNING / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDONLY | os.O_CREAT, 0o666)
    except OSError:
        yield
        return
    with os.fdopen(handle):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise MachineRefused(
                f"another process runs this stage in {root.resolve()}",
                "wait until it ends, then run the command again",
            ) from error
        except OSError:  # NFS may lock no file
            pass
        yield


def hide(libraries: Iterable[str]) -> None:
    """Make those of ``libraries`` that are not loaded yet look as if they were not installed, in this process."""
    for library in libraries:
        cast(dict[str, Any], sys.modules).setdefault(library, None)


def _refuse(name: str, root: Path, refusal: Refusal, params: str | None) -> NoReturn:
    lines = [f"{name}: {refusal}", *(f"{name}: {other}" for other in refusal.others)]
    click.echo(distribution.linked("\n".join(lines)), err=True)
    refused.write(root, refused.of(name, refusal, params))
    sys.exit(refusal.exit_code)
