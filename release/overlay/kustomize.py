"""Runs `kustomize build` on files from git: in a temporary folder, without a network, within limits."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from checks import plain_yaml
from checks.errors import MachineRefused
from checks.text import redact

PROGRAM = "kustomize"
INSTALL = "install kustomize 5: https://kubectl.docs.kubernetes.io/installation/kustomize, or apt, brew, go install"
_DEADLINE = 20.0  # seconds; a build takes a tenth of one
_LARGEST = 8 << 20  # bytes of objects
# A proxy that nobody answers at, and no git: a file that looks local and is fetched all the same gives an error.
_NOWHERE = "http://127.0.0.1:9"


def build(files: Mapping[Path, bytes], folder: Path) -> list[dict[str, Any]] | str:
    """The objects that ``folder`` among ``files`` builds to, or the reason why it does not build.

    Raises MachineRefused if kustomize is not installed or the files cannot be written.
    """
    program = shutil.which(PROGRAM)
    if program is None:
        raise MachineRefused(
            f"kustomize is not installed, and the files of {folder} are not those that Lockstep ships", INSTALL
        )
    try:
        with tempfile.TemporaryDirectory(prefix="lockstep-") as scratch:
            return _built(str(Path(program).resolve()), Path(scratch), files, folder)
    except OSError as error:
        raise MachineRefused(f"{PROGRAM}: {error.strerror or error}", "free space, or see to the program") from error


def _built(program: str, scratch: Path, files: Mapping[Path, bytes], folder: Path) -> list[dict[str, Any]] | str:
    tree, home = scratch / "tree", scratch / "home"
    home.mkdir()
    for path, data in files.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_bytes(data)
    env = {"PATH": str(home), "HOME": str(home), "XDG_CONFIG_HOME": str(home), "TMPDIR": str(home)}
    env["GOGC"] = "400"  # while it parses the schema of Kubernetes, it would collect garbage for a third of its time
    env |= dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), _NOWHERE)
    with (scratch / "objects").open("w+b") as out:
        try:
            done = subprocess.run(
                [program, "build", str(tree / folder)], cwd=scratch, env=env, stdin=subprocess.DEVNULL, stdout=out,
                stderr=subprocess.PIPE, timeout=_DEADLINE, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return f"kustomize build takes longer than {_DEADLINE:g} s"
        if done.returncode != 0:
            said = done.stderr.decode(errors="replace").replace(f"{tree}/", "")
            return f"kustomize build: {redact(said, 300) or f'ended with {done.returncode}'}"
        if (size := os.fstat(out.fileno()).st_size) > _LARGEST:
            return f"builds to {size} bytes: keep below {_LARGEST}"
        out.seek(0)
        return _objects(out.read())


def _objects(data: bytes) -> list[dict[str, Any]] | str:
    """Split kustomize's output into objects. The separator cannot occur inside a text, whose lines are indented."""
    try:
        found = [plain_yaml.load(text) for text in data.decode().split("\n---\n") if text.strip()]
    except (yaml.YAMLError, ValueError) as error:
        return f"builds to what is not plain YAML: {redact(str(error), 200)}"
    if not all(isinstance(each, dict) for each in found):
        return "builds to something that is not an object"
    return found
