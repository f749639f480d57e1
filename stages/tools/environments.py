"""Makes environments of Python for packages that cannot live beside the pipeline's."""

import re
import shutil
import subprocess
import venv
from collections.abc import Callable
from pathlib import Path

import click

from checks.process.errors import MachineRefused, ParamsRefused, Refusal

_VERSION = r"[0-9][0-9a-z.]*"


def refuse_unfit(folder: Path, variable: str, version: str, pattern: str = _VERSION) -> None:
    """Raise ParamsRefused for what is no version, MachineRefused if ``folder`` is a link.

    ``variable``: names another place instead of ``folder``.
    """
    if not re.fullmatch(pattern, version):
        raise ParamsRefused(f"{version!r} is no version", "name one, such as 0.32.0")
    if folder.is_symlink():
        raise MachineRefused(
            f"{folder} is a link",
            f"remove the link, or set {variable} to the place that it leads to",
        )


def fresh(folder: Path, variable: str, version: str) -> Path:
    """Make an environment with pip in place of ``folder``, for a package of ``version``; return its Python.

    Raises as ``refuse_unfit``.
    """
    refuse_unfit(folder, variable, version)
    folder = folder.absolute()
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True, symlinks=True)
    return folder / "bin" / "python"


def install(python: Path, *wanted: str) -> None:
    """Install packages for ``python``. Raises MachineRefused if pip cannot."""
    click.echo(f"pip installs {' '.join(wanted)}", err=True)
    command: list[str | Path] = [python, "-m", "pip", "install", "--quiet", *wanted]
    if subprocess.run(command, check=False).returncode != 0:
        raise MachineRefused(
            f"pip cannot install {' '.join(wanted)} for {python}", "read what it says above"
        )


def command(
    make: Callable[..., Path], folder: Path, text: str, *options: click.Parameter
) -> click.Command:
    """Return the command that makes ``folder`` for a version, and prints the Python or folder that it made.

    ``text``: its help. ``options``: further arguments of ``make``. A refusal is one line and its exit code.
    """

    def run(version: str, **chosen: object) -> None:
        try:
            click.echo(make(folder, version, **chosen))
        except Refusal as refusal:
            click.echo("\n".join([str(refusal), *refusal.others]), err=True)
            raise SystemExit(refusal.exit_code) from refusal

    return click.Command(
        None, params=[click.Argument(["version"]), *options], callback=run, help=text
    )
