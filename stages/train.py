"""train: fine-tuning of the base on the sealed splits, with the method of ``train.method``, logged to MLflow.

An adapter learns (``train.lora``), or the base's own weights (``train.full``). With ``train.steps`` several methods
train one adapter, one after the other (``stages.training.chain``).

In:  data/splits/{train,valid}.jsonl, data/validated.json (the seal), models/base, params ``train``.
Out: models/adapter (adapter_config.json, adapter_model.safetensors; quantization.json if the base was quantised; or
     trained_weights.safetensors alone, the base's own weights that learned),
     reports/train.json,
     reports/loss.csv (step,loss,learning_rate, and what the method reports),
     reports/measured/train.json (seconds, energy, memory, device, MLflow's run).
Run: python -m stages.train

The same parameters, data, base and machine give the same bytes of the adapter, also if training is killed and resumes
from a checkpoint.
"""

import importlib.metadata
import math
import platform
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from checks.config.params import Params
from checks.evaluation import scoring
from checks.formats import energy
from checks.formats.data_reports import Seal
from checks.formats.training_reports import TrainMeasured, TrainReport
from checks.kinds.method import METHODS
from checks.kinds.scorer import SCORERS
from checks.process import imports
from checks.process.errors import EvidenceRefused, TrainingRefused
from checks.records.identity import Digest
from checks.storage import digest, files, layout
from checks.training import steps
from stages import entry, tracking
from stages.training import chain, checkpoints, step
from stages.training.devices import device_of
from stages.training.fitter import Fitter
from stages.weights import nf4

_LIBRARIES = ("torch", "transformers", "trl", "peft")
# No checkpoint outlives another version of these.
_BELOW = ("accelerate", "datasets", "numpy", "safetensors", "tokenizers")
_SHARED = (
    "answers", "chain", "checkpoints", "devices", "fitter", "kernels", "order", "own_weights", "packing", "preferences",
    "ranks", "resuming", "step", "stopping", "trainer", "turns", "windows",
)  # fmt: skip
_MODULES = ("train.py", *(f"training/{name}.py" for name in _SHARED), "weights/nf4.py")


def train(params: Params, root: Path) -> str:
    """Fine-tune; write the adapter, its report and the loss curve.

    Raises EvidenceRefused if the splits are not the sealed ones, TrainingRefused if the parameters do not fit the model
    or the data, a loss is not finite or it takes more than train.max_memory_gb, MachineRefused if the device, memory,
    MLflow's store, or a package that the parameters need is missing, ParamsRefused if LOCKSTEP_CHECKPOINT_MINUTES is
    not a valid number.
    """
    minutes = checkpoints.minutes()
    alone = chain.alone(params)
    for part in alone:
        if part.train.needs_bitsandbytes:
            nf4.hold_installed(
                "train.quantization" if part.train.quantization else "train.optimizer"
            )
            nf4.library()
    for stale in (layout.TRAIN_REPORT, layout.TRAIN_MEASURED, layout.LOSS_CURVE):
        (root / stale).unlink(missing_ok=True)
    with files.replacing_folder(root / layout.ADAPTER) as folder:
        seal = sealed(root)
        base = digest.of_tree(root / layout.BASE).digest
        rows, valid = step.splits(root)
        if not rows:
            raise TrainingRefused(
                f"{layout.SPLITS / 'train.jsonl'}: holds no rows", "run `./lockstep run prepare`"
            )
        parts = list(zip(alone, chain.given(params, rows, valid, seal), strict=True))
        device, threads = device_of(alone[0].train)  # All steps share the device.

        with imports.uncollected():  # torch: when the cheap refusals are past
            from stages.training import kernels, memory

            # Here, where no frame has a model: bitsandbytes keeps the frames of its first import.
            if alone[0].train.devices == 1:
                importlib.import_module("stages.training.resuming")
        for part in alone:
            kernels.hold(part.train)
        data = {
            "training": (layout.SPLITS / "train.jsonl", seal.splits["train"]),
            "evaluation": (layout.SPLITS / "valid.jsonl", seal.splits["valid"]),
        }
        # These warnings are for TRL, not for the reader.
        quiet = warnings.catch_warnings(action="ignore", category=FutureWarning)
        with tracking.run(params, root, data) as run, quiet:
            fitter = Fitter(params, root, base, run, minutes, device, threads)
            trained = chain.fit_all(
                root,
                parts,
                run,
                minutes > 0,
                folder,
                key=lambda part, its, start: _key(part, base, its.data, device, start),
                fit=fitter.fit,
                check=fitter.check,
            )
            run.tag(tracking.ADAPTER_TAG, trained.fitted[-1].adapter)
    *_, last = fitted = trained.fitted
    files.write_text(root / layout.LOSS_CURVE, chain.curve(alone, fitted))
    report = _report(params, base, seal, len(rows), fitted)
    seconds = math.fsum(step.seconds for step in fitted)
    took = max((step.memory for step in fitted), key=lambda memory: memory.peak or 0)
    measured = TrainMeasured(
        adapter=last.adapter, git_commit=tracking.revision(root)[0], mlflow_run=run.id, seconds=round(seconds, 3),
        energy=(used := energy.total([each.energy for each in fitted])), device=device, resumed_at=trained.resumed_at,
        memory=took, tokens_per_second=report.tokens / seconds if report.tokens and seconds > 0 else None,
        chain=tuple(each.measured() for each in fitted) if len(fitted) > 1 else (),
    )  # fmt: skip
    files.write_json(root / layout.TRAIN_MEASURED, measured)
    files.write_json(root / layout.TRAIN_REPORT, report)
    for store in trained.stores:
        store.remove()
    unsent = sum(step.unsent for step in {run, *trained.runs}) + sum(step.unsent for step in fitted)
    kept = f", {unsent} points not taken by MLflow at {run.uri}" if unsent else ""
    peak = "" if took.peak is None else f", peak of memory {memory.gigabytes(took.peak)}"
    line = f"{_line(params, report, fitted, seconds)}{peak}{energy.after(used)}{kept}"
    return f"{layout.ADAPTER}: {line}"


def sealed(root: Path) -> Seal:
    """The seal, if it has exactly the splits on disk; raises EvidenceRefused with every difference."""
    seal = files.read_json(root / layout.SEAL, Seal)
    paths = {name: layout.SPLITS / f"{name}.jsonl" for name in layout.SPLIT_NAMES}
    digests = {name: digest.of_file(root / path).sha256 for name, path in paths.items()}
    differing = [
        f"{layout.SEAL}: {name} is {seal.splits.get(name, 'not sealed')}, on disk {digests.get(name, 'there is none')}"
        for name in sorted(digests.keys() | seal.splits.keys())
        if digests.get(name) != seal.splits.get(name)
    ]
    if differing:
        raise EvidenceRefused(
            differing[0],
            "run `./lockstep run validate`: training needs splits that passed",
            tuple(differing[1:]),
        )
    return seal


def _line(
    params: Params, report: TrainReport, fitted: Sequence[chain.Fitted], seconds: float
) -> str:
    last = fitted[-1]
    methods = f", {', then '.join(steps.names(params.training))}" if len(fitted) > 1 else ""
    held_out = "" if last.valid_loss is None else f", on valid {last.valid_loss:.3f}"
    held_out += f" (weights of step {last.stopping.best_step})" if last.stopping else ""
    trained = f"{last.adapter[:19]}{methods}, {report.steps} steps in {seconds:.0f} s"
    return f"{trained}, final loss {report.final_loss:.3f}{held_out}"


def _report(
    params: Params, base: Digest, seal: Seal, rows: int, fitted: Sequence[chain.Fitted]
) -> TrainReport:
    """Return what the same parameters, data and base give again."""
    alone, last = chain.alone(params), fitted[-1]
    devices = alone[0].train.devices
    rewards = {scorer.kind: scorer for part in alone for scorer in part.train.rewards()}
    return TrainReport(
        adapter=last.adapter,
        base=base,
        splits=seal.splits,
        rows=rows,
        sequences=last.sequences,
        steps=sum(step.steps for step in fitted),
        epochs=chain.epochs(fitted, rows),
        trainable_parameters=last.trainable,
        total_parameters=last.total,
        final_loss=last.final_loss,
        versions=_versions(alone, _LIBRARIES),
        tokens=sum(step.tokens or 0 for step in fitted) or None,
        figures=last.figures,
        optimised_for=tuple(rewards),
        quantised=last.quantised,
        stopping=last.stopping,
        devices=devices if devices > 1 else None,
        batch=last.batch,
        shard=alone[0].train.shard,
        chain=tuple(step.reported() for step in fitted) if len(fitted) > 1 else (),
        full=alone[0].train.full is not None,
        plugins=METHODS.plugins(steps.names(params.training)) | SCORERS.plugins(rewards),
    )


def _key(params: Params, base: str, data: Mapping[str, str], device: str, start: str | None) -> str:
    """The digest of everything that determines the adapter of a step, which identifies its checkpoints."""
    here = Path(__file__).parent
    # This parameter is younger than checkpoints that are kept.
    unset = () if params.train.kernels else ("kernels",)
    values = {
        "base": base,
        "splits": data,
        "started_from": start,
        "train": params.train.model_dump(mode="json", exclude={"allow", "max_memory_gb", *unset}),
        "device": f"{device} on {platform.machine()}",
        "versions": _versions([params], (*_LIBRARIES, *_BELOW)),
        "rewards": scoring.digest_of(params.train.rewards()),
        "plugins": {
            name: used.sha256 for name, used in METHODS.plugins([params.train.method]).items()
        },
    }
    kinds = [type(kind) for kind in (params.train, *params.train.rewards())]
    used = (Path(str(sys.modules[kind.__module__].__file__)) for kind in kinds)
    return checkpoints.key(values, (*(here / name for name in _MODULES), *used))


def _versions(parts: Sequence[Params], names: tuple[str, ...]) -> dict[str, str]:
    used = (*names, *(name for part in parts for name in part.train.packages))
    return {name: importlib.metadata.version(name) for name in used}


def main(params: Params, root: Path) -> str:
    """``train`` as the only work of this process, so that packages which it does not need can be hidden."""
    entry.hide(step.unneeded(chain.alone(params)))
    return train(params, root)


if __name__ == "__main__":
    entry.run("train", main)
