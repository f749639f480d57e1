"""Makes the environment of LLM Compressor, ``.lockstep/compressor``: it needs another transformers than the pipeline.

Run: python -m stages.tools.compressor 0.14.0.1
"""

from pathlib import Path

import click

from checks.training.quantization import COMPRESSOR, COMPRESSOR_PYTHON
from stages.tools import environments


def make(folder: Path, version: str) -> Path:
    """Make the environment ``folder`` anew and return its Python.

    Raises ParamsRefused for what is no version, MachineRefused if pip cannot install the package.
    """
    python = environments.fresh(folder, COMPRESSOR_PYTHON, version)
    environments.install(python, f"llmcompressor=={version}")
    return python


@click.command()
@click.argument("version")
def main(version: str) -> None:
    """Make .lockstep/compressor. VERSION: as merge.quantization.calibration.version in params.yaml."""
    environments.run(lambda: make(COMPRESSOR, version))


if __name__ == "__main__":
    main()
