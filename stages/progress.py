"""Progress bars on standard error, and the hash of a folder, which has one."""

from collections.abc import Iterable
from pathlib import Path
from typing import Never, TypeVar

from tqdm import tqdm

from checks.storage import digest

T = TypeVar("T")


def of_bytes(what: str, total: int | None = None, done: int = 0) -> "tqdm[Never]":
    """A progress bar of ``total`` bytes (None: unknown), of which ``done`` are complete; a context manager.

    It appears after one second, so that short work shows no bar.
    """
    return tqdm(
        desc=what,
        total=total,
        initial=done,
        unit="B",
        unit_scale=True,
        mininterval=1,
        delay=1,
        leave=False,
    )


def tree_digest(folder: Path, name: object) -> str:
    """Hash a folder, with a progress bar that calls it ``name``; return the digest of its tree."""
    with of_bytes(f"hash {name}") as bar:
        return digest.of_tree(folder, bar.update).digest


def of_rows(
    what: str, rows: Iterable[T], total: int | None = None, unit: str = " rows"
) -> "tqdm[T]":
    """``rows`` with a progress bar, which appears after a second too."""
    return tqdm(
        rows,
        desc=what,
        total=total,
        unit=unit,
        unit_scale=True,
        mininterval=1,
        delay=1,
        leave=False,
    )
