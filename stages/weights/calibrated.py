"""A merged model with weights of 4 bits, rounded by LLM Compressor, which runs in an environment of its own.

GPTQ (kind ``gptq``) rounds the weights of a layer one after the other, and makes up for each error with the weights
that are left. AWQ (kind ``awq``) first scales up the columns of a layer that meet large inputs, so that they lose less,
and the layer before is divided by the same numbers. Both measure errors with the layer's inputs, so they are calibrated
on rows of the train split. The inputs themselves keep 16 bits. ``python -m stages.tools.compressor VERSION`` makes the
environment.
"""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from checks.process.errors import MachineRefused, MergeRefused
from checks.process.text import redact
from checks.records.rows import Row
from checks.storage import layout
from checks.training.quantization import COMPRESSOR, COMPRESSOR_PYTHON, Calibration
from stages import workers
from stages.weights import compressed, compressor_worker, shards

LOG = layout.STATE / "compressor.log"  # what LLM Compressor printed in its last run
_WORKER = ["-I", compressor_worker.__file__]
_DROPPED = ("PYTHON", "HF_", "LLM_COMPRESSOR_")
_OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
# What a weight of a linear layer becomes: 4-bit numbers, eight in an int32; a scale for each group; its own shape.
_PARTS = ("_packed", "_scale", "_shape")


def hold_installed(root: Path, how: Calibration) -> None:
    """Raises MachineRefused unless the environment has the version of LLM Compressor that params.yaml names."""
    python = workers.python(root, COMPRESSOR_PYTHON, COMPRESSOR)
    todo = f"run `python -m stages.tools.compressor {how.version}`, or set {COMPRESSOR_PYTHON} to a Python that has it"
    done = workers.about(
        [python, *_WORKER, "about"], _environment(), "merge.quantization needs LLM Compressor", todo
    )
    if done.returncode:
        raise MachineRefused(
            f"{python}: has no LLM Compressor: {workers.last_line(done.stderr)}", todo
        )
    if (version := done.stdout.strip()) != how.version:
        has = f"{python}: has LLM Compressor {redact(version)}"
        raise MachineRefused(
            f"{has}, and merge.quantization.calibration.version is {how.version}", todo
        )


def export(
    root: Path,
    source: Path,
    out: Path,
    kind: str,
    how: Calibration,
    rows: Sequence[Row],
    limit: int,
) -> None:
    """Write the model of ``source`` with weights of 4 bits into the directory ``out``, in files of ``limit`` bytes.

    ``rows``: those of the train split that it is calibrated on. Raises MergeRefused if the model cannot be written so,
    or LLM Compressor fails.
    """
    from transformers import AutoTokenizer

    from stages.weights import parity

    with shards.opened(source) as weights:
        before = weights.tensors
        chosen = compressed.linear(source, before)
    odd = [name for name in sorted(chosen) if before[name].shape[1] % how.group]
    if odd:
        raise MergeRefused(
            f"{odd[0]}: {before[odd[0]].shape[1]} columns, which is no multiple of the group, {how.group}",
            "change merge.quantization.calibration.group: 32 divides most",
        )
    tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True)
    job = {
        "kind": kind, "model": str(source.resolve()), "prompts": [parity.encode(tokenizer, row).ids for row in rows],
        "group": how.group, "ignore": [compressed.HEAD], "limit": limit,
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix=".", dir=out) as home:
        made = Path(home) / "made"
        made.mkdir()
        (Path(home) / "job.json").write_text(
            json.dumps(job | {"out": str(made.resolve())}), encoding="utf-8"
        )
        _run(root, Path(home) / "job.json")
        with shards.opened(made) as weights:
            after = set(weights.tensors)
        _hold_complete(set(before), chosen, after)
        config = json.loads((made / "config.json").read_text(encoding="utf-8"))
        compressed.copy_rest(source, out, config["quantization_config"])
        for path in made.iterdir():
            if path.suffix == ".safetensors" or path.name == shards.INDEX:
                shutil.move(path, out / path.name)


def _run(root: Path, job: Path) -> None:
    log = root / LOG
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as printed:
        python = workers.python(root, COMPRESSOR_PYTHON, COMPRESSOR)
        done = subprocess.run(
            [python, *_WORKER, "round", job.resolve()], stdin=subprocess.DEVNULL, stdout=printed, stderr=printed,
            env=_environment(), cwd=job.parent,
        )  # fmt: skip
    if done.returncode:
        last = workers.last_line(log.read_text(encoding="utf-8", errors="replace"))
        raise MergeRefused(
            f"LLM Compressor ended with {done.returncode}: {last}",
            f"read {LOG}, or use another kind",
        )


def _hold_complete(before: set[str], chosen: frozenset[str], after: set[str]) -> None:
    """Raises MergeRefused unless exactly the weights ``chosen`` were replaced by their parts."""
    wanted = (before - chosen) | {f"{name}{part}" for name in chosen for part in _PARTS}
    if wrong := sorted(wanted ^ after):
        what = "is missing" if wrong[0] in wanted else "is unexpected"
        raise MergeRefused(
            f"LLM Compressor wrote the wrong tensors: {redact(wrong[0])} {what}",
            "use int8 or fp8 for this model",
        )


def _environment() -> dict[str, str]:
    """Return variables without those that could make the worker import the pipeline's packages or ask a hub."""
    return workers.environment(_DROPPED, _OFFLINE)
