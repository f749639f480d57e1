"""Workers: programs that run in an environment of their own, because they need other packages than the pipeline."""

import os
import subprocess
import sys
from collections.abc import Collection, Mapping
from pathlib import Path

from checks.process.errors import MachineRefused
from checks.process.text import redact

_SECONDS_TO_SAY = 300  # The first import of torch takes a minute on a busy machine.


def python(root: Path, variable: str, folder: Path) -> str:
    """Return the Python that ``variable`` names, or the one of the environment ``folder`` below ``root``."""
    named = os.environ.get(variable) or str(root / folder / "bin" / "python")
    # A worker may run in another folder.
    return str(Path(named).absolute()) if os.sep in named else named


def install(tool: str, version: str, root: Path) -> None:
    """Install ``version`` of what ``stages.tools.TOOL`` installs below ``root``. Raises MachineRefused if it cannot."""
    command = [sys.executable, "-P", "-m", f"stages.tools.{tool}", version]
    # Modules are searched where this process searches them: the folder of `stages` has files of a team, too.
    done = subprocess.run(command, stdout=subprocess.DEVNULL, cwd=root, check=False)
    if done.returncode != 0:
        raise MachineRefused(
            f"{tool} {version} cannot be installed",
            f"fix what `python {' '.join(command[2:])}` says above",
        )


def environment(
    dropped: tuple[str, ...], added: Mapping[str, str], kept: Collection[str] = ()
) -> dict[str, str]:
    """Return this process's variables but for those that begin with ``dropped``, with ``added``."""
    variables = {
        name: value
        for name, value in os.environ.items()
        if name in kept or not name.startswith(dropped)
    }
    return variables | dict(added)


def about(
    command: list[str], variables: Mapping[str, str], needed: str, todo: str
) -> subprocess.CompletedProcess[str]:
    """Run ``command``, which says what its environment has. Raises MachineRefused if it cannot be started, or waits.

    ``needed`` says which parameter needs which package.
    """
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            env=variables,
            check=False,
            timeout=_SECONDS_TO_SAY,
        )
    except OSError as error:
        raise MachineRefused(f"{command[0]}: {error.strerror}: {needed}", todo) from error
    except subprocess.TimeoutExpired as error:
        raise MachineRefused(
            f"{command[0]}: did not say what it has in {_SECONDS_TO_SAY} s: {needed}", todo
        ) from error


def last_line(text: str) -> str:
    """Return the last line that a worker printed, safe to show."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return redact(lines[-1] if lines else "it printed nothing")
