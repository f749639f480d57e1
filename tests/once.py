"""Folders that are made once for all workers of a run of pytest: what takes seconds to make and is then only copied."""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest

_begun: list[Path] = []  # The folder of what is made once, since this run has begun.


def begin(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Remember the folder for ``shared``. tests/conftest.py calls it before the first test."""
    _begun[:] = [_folder(tmp_path_factory)]


def once(tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Return the folder ``name``, which the first caller makes by ``make``. Read-only by custom."""
    return _made(_folder(tmp_path_factory), name, make)


def shared(name: str, make: Callable[[Path], object]) -> Path:
    """Do the same for a function that is no fixture."""
    return _made(_begun[0], name, make)


def _folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.getbasetemp()
    folder = (home.parent if "PYTEST_XDIST_WORKER" in os.environ else home) / "once"
    folder.mkdir(exist_ok=True)
    return folder


def _made(folder: Path, name: str, make: Callable[[Path], object]) -> Path:
    made = folder / f"{name}.made"
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            make(folder / name)
            made.touch()
    return folder / name
