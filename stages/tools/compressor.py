"""Makes the environment of LLM Compressor, ``.lockstep/compressor``: it needs another transformers than the pipeline.

Run: python -m stages.tools.compressor 0.14.0.1
"""

import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

from checks.errors import MachineRefused, ParamsRefused, Refusal
from checks.training.quantization import COMPRESSOR, COMPRESSOR_PYTHON, COMPRESSOR_VERSION


def make(folder: Path, version: str) -> Path:
    """Make the environment ``folder`` anew and return its Python.

    Raises ParamsRefused for what is no version, MachineRefused if pip cannot install the package.
    """
    if not re.fullmatch(COMPRESSOR_VERSION, version):
        raise ParamsRefused(f"{version!r} is not a version of llmcompressor", "name one, such as 0.14.0.1")
    if folder.is_symlink():
        raise MachineRefused(
            f"{folder} is a link", f"remove the link, or set {COMPRESSOR_PYTHON} to the Python that it leads to"
        )
    folder = folder.absolute()
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True, symlinks=True)
    python = folder / "bin" / "python"
    wanted = f"llmcompressor=={version}"
    if subprocess.run([python, "-m", "pip", "install", "--quiet", wanted], check=False).returncode != 0:
        raise MachineRefused(f"pip cannot install {wanted} for {python}", "read what it says above")
    return python


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(
            "python -m stages.tools.compressor VERSION, as merge.quantization.calibration.version in params.yaml"
        )
    try:
        make(COMPRESSOR, sys.argv[1])
    except Refusal as refusal:
        raise SystemExit(str(refusal)) from refusal
