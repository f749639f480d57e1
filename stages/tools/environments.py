"""Makes environments of Python for packages that cannot live beside the pipeline's."""

import shutil
import subprocess
import venv
from collections.abc import Callable
from pathlib import Path

import click

from checks.process.errors import MachineRefused, Refusal


def fresh(folder: Path, variable: str | None = None) -> Path:
    """Make an environment with pip in place of ``folder``; its Python.

    Raises MachineRefused if ``folder`` is a link. ``variable``: names another Python instead of this folder's.
    """
    if folder.is_symlink():
        otherwise = f", or set {variable} to the Python that it leads to" if variable else ""
        raise MachineRefused(f"{folder} is a link", f"remove the link{otherwise}")
    folder = folder.absolute()
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True, symlinks=True)
    return folder / "bin" / "python"


def install(python: Path, *wanted: str) -> None:
    """Install packages for ``python``. Raises MachineRefused if pip cannot."""
    if (
        subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=False).returncode
        != 0
    ):
        raise MachineRefused(
            f"pip cannot install {' '.join(wanted)} for {python}", "read what it says above"
        )


def run(make: Callable[[], Path]) -> None:
    """Call ``make`` and print the Python that it made; a refusal is one line and its exit code."""
    try:
        click.echo(make())
    except Refusal as refusal:
        click.echo(str(refusal), err=True)
        raise SystemExit(refusal.exit_code) from refusal
