"""Makes the environment of LLM Compressor, ``.lockstep/compressor``: it needs another transformers than the pipeline.

Run: python -m stages.tools.compressor 0.14.0.1
"""

import re
from pathlib import Path

import click

from checks.process.errors import ParamsRefused
from checks.training.quantization import COMPRESSOR, COMPRESSOR_PYTHON, COMPRESSOR_VERSION
from stages.tools import environments


def make(folder: Path, version: str) -> Path:
    """Make the environment ``folder`` anew and return its Python.

    Raises ParamsRefused for what is no version, MachineRefused if pip cannot install the package.
    """
    if not re.fullmatch(COMPRESSOR_VERSION, version):
        raise ParamsRefused(
            f"{version!r} is not a version of llmcompressor", "name one, such as 0.14.0.1"
        )
    python = environments.fresh(folder, COMPRESSOR_PYTHON)
    environments.install(python, f"llmcompressor=={version}")
    return python


@click.command()
@click.argument("version")
def main(version: str) -> None:
    """Make .lockstep/compressor. VERSION: as merge.quantization.calibration.version in params.yaml."""
    environments.run(lambda: make(COMPRESSOR, version))


if __name__ == "__main__":
    main()
