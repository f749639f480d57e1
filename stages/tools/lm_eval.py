"""Makes the environment in which suites of kind ``lm-eval`` run, ``.lockstep/lm-eval``.

It sees the packages of the pipeline's environment, so torch and transformers are those that evaluate, and are not
installed twice. What the harness needs besides, some 20 packages and 160 MB, is installed there alone.

Run: python -m stages.tools.lm_eval 0.4.13
"""

import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

from checks.errors import MachineRefused, Refusal
from checks.suites.lm_eval import ENVIRONMENT


def make(root: Path, version: str) -> Path:
    """Make it anew and return its Python. Raises MachineRefused if pip cannot install the packages."""
    folder = (root / ENVIRONMENT).resolve()
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True, symlinks=True)
    python = folder / "bin" / "python"
    packages = next(folder.glob("lib/python*/site-packages"))
    (packages / "pipeline.pth").write_text(f"{sysconfig.get_paths()['purelib']}\n")
    # nltk 3.10.1 refuses to be imported from an environment below the working directory.
    wanted = [f"lm-eval=={version}", "nltk>=3.10.4"]
    if subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=False).returncode != 0:
        raise MachineRefused(f"pip cannot install {' '.join(wanted)} in {folder}", "read what it says above")
    return python


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("python -m stages.tools.lm_eval VERSION, as suites.NAME.version in params.yaml")
    try:
        make(Path(), sys.argv[1])
    except Refusal as refusal:
        raise SystemExit(str(refusal)) from refusal
