"""Makes the environment in which suites of kind ``lm-eval`` run, ``.lockstep/lm-eval``.

It sees the packages of the pipeline's environment, so torch and transformers are those that evaluate, and are not
installed twice. What the harness needs besides, some 20 packages and 160 MB, is installed there alone.

Run: python -m stages.tools.lm_eval 0.4.13
"""

import sysconfig
from pathlib import Path

from checks.suites.lm_eval import ENVIRONMENT, PYTHON
from stages.tools import environments


def make(root: Path, version: str) -> Path:
    """Make it anew and return its Python.

    Raises ParamsRefused for what is no version, MachineRefused if pip cannot install the packages.
    """
    python = environments.fresh(root / ENVIRONMENT, PYTHON, version)
    packages = next(python.parents[1].glob("lib/python*/site-packages"))
    (packages / "pipeline.pth").write_text(f"{sysconfig.get_paths()['purelib']}\n")
    # nltk 3.10.1 refuses to be imported from an environment below the working directory.
    environments.install(python, f"lm-eval=={version}", "nltk>=3.10.4")
    return python


main = environments.command(
    make, Path(), "Make .lockstep/lm-eval. VERSION: as suites.NAME.version in params.yaml."
)


if __name__ == "__main__":
    main()
