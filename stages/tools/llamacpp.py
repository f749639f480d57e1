"""Makes the environment of the runtime llamacpp, ``.lockstep/llamacpp``: llama.cpp's own server, for a processor.

Run: python -m stages.tools.llamacpp 2026.10.11549
With --beside it is ``.lockstep/llamacpp-VERSION``, for `lockstep verify --against-python`.
"""

import shutil
import subprocess
from pathlib import Path

import click

from checks.formats.engines import LLAMACPP, LLAMACPP_PYTHON
from checks.process.errors import MachineRefused
from stages.tools import environments

SERVER = (
    Path(__file__).parents[2] / "release" / "runtimes" / "recipes" / "llamacpp" / "llama-server"
)


def make(folder: Path, version: str, beside: bool = False) -> Path:
    """Make the environment ``folder`` anew and return its Python. The server is the one of the runtime's recipe.

    ``beside``: make FOLDER-VERSION instead.

    Raises ParamsRefused for what is no version, MachineRefused if pip cannot install the package or it does not load.
    """
    python = environments.fresh(
        folder.parent / f"{folder.name}-{version}" if beside else folder, LLAMACPP_PYTHON, version
    )
    server = python.with_name("llama-server")
    _, text = SERVER.read_text(encoding="utf-8").split("\n", 1)
    server.write_text(f"#!{python}\n{text}", encoding="utf-8")
    server.chmod(0o755)
    # It comes last: an environment with this package is taken for a whole one.
    environments.install(python, f"xllamacpp=={version}")
    _check_that_it_loads(python)
    return python


def _check_that_it_loads(python: Path) -> None:
    """Remove the environment of ``python``, and raise MachineRefused, if llama.cpp does not load.

    Its package needs a library of the machine, which small images of Debian do not have.
    """
    command: list[str | Path] = [python, "-c", "import xllamacpp"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        shutil.rmtree(python.parents[1])
        reason = (done.stderr.strip() or f"it ended with {done.returncode}").splitlines()[-1]
        raise MachineRefused(
            f"llama.cpp does not load: {reason}", "on Debian: apt-get install libgomp1"
        )


main = environments.command(
    make,
    LLAMACPP,
    "Make .lockstep/llamacpp. VERSION: as evaluate.engine.version; the runtime names the one that was tested.",
    click.Option(["--beside"], is_flag=True, help="Make .lockstep/llamacpp-VERSION instead."),
)


if __name__ == "__main__":
    main()
