"""Makes the environment of LLM Compressor, ``.lockstep/compressor``: it needs another transformers than the pipeline.

Run: python -m stages.tools.compressor 0.14.0.1
"""

from pathlib import Path

from checks.training.quantization import COMPRESSOR, COMPRESSOR_PYTHON
from stages.tools import environments


def make(folder: Path, version: str) -> Path:
    """Make the environment ``folder`` anew and return its Python.

    Raises ParamsRefused for what is no version, MachineRefused if pip cannot install the package.
    """
    python = environments.fresh(folder, COMPRESSOR_PYTHON, version)
    environments.install(python, f"llmcompressor=={version}")
    return python


main = environments.command(
    make,
    COMPRESSOR,
    "Make .lockstep/compressor. VERSION: as merge.quantization.calibration.version in params.yaml.",
)


if __name__ == "__main__":
    main()
