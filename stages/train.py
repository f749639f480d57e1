"""train: fine-tuning of the base on the sealed splits, with the method of ``train.method``, logged to MLflow.

An adapter learns (``train.lora``), or the base's own weights (``train.full``). With ``train.steps`` several methods
train one adapter, one after the other (``stages.training.chain``).

In:  data/splits/{train,valid}.jsonl, data/validated.json (the seal), models/base, params ``train``. With
     ``train.start`` the adapter of that commit, and the rows that it learned from.
Out: models/adapter (adapter_config.json, adapter_model.safetensors; quantization.json if the base was quantised; or
     trained_weights.safetensors alone, the base's own weights that learned),
     data/learned.jsonl (those rows; empty without ``train.start``),
     reports/train.json,
     reports/loss.csv (step,loss,learning_rate, and what the method reports),
     reports/measured/train.json (seconds, energy, memory, device, MLflow's run).
Run: python -m stages.train

The same parameters, data, base and machine give the same bytes of the adapter, also if training is killed and resumes
from a checkpoint.
"""

import importlib
from contextlib import ExitStack
from pathlib import Path

from checks.config.params import Params
from checks.formats.data_reports import Seal
from checks.process import imports
from checks.process.errors import EvidenceRefused, TrainingRefused
from checks.storage import digest, files, layout
from checks.training import steps
from stages import entry
from stages.training import chain, checkpoints, record, start, step
from stages.training.devices import device_of
from stages.training.training_steps import Training, splits
from stages.weights import nf4


def train(params: Params, root: Path) -> str:
    """Fine-tune; write the adapter, its report and the loss curve.

    Raises EvidenceRefused if the splits are not the sealed ones or a part of what ``train.start`` names is missing,
    TrainingRefused if the parameters do not fit the model, the data or that adapter, a loss is not finite or it takes
    more than train.max_memory_gb, MachineRefused if the device, memory, MLflow's store, or a package that the
    parameters need is missing, ParamsRefused if LOCKSTEP_CHECKPOINT_MINUTES is not a valid number.
    """
    minutes = checkpoints.minutes()
    for section in steps.of(params.training):
        if section.needs_bitsandbytes:
            needed_by = "train.quantization" if section.quantization else "train.optimizer"
            nf4.hold_installed(needed_by)
            nf4.library()
    stale = (layout.TRAIN_REPORT, layout.TRAIN_MEASURED, layout.LOSS_CURVE, layout.LEARNED_BEFORE)
    for path in stale:
        (root / path).unlink(missing_ok=True)
    with ExitStack() as stack:
        folder = stack.enter_context(files.replacing_folder(root / layout.ADAPTER))
        seal = sealed(root)
        base = digest.of_tree(root / layout.BASE).digest
        rows = splits(root)
        if not rows["train"]:
            raise TrainingRefused(
                f"{layout.SPLITS / 'train.jsonl'}: holds no rows", "run `./lockstep run prepare`"
            )
        begin = start.opened(root, steps.of(params.training)[0], base)
        started = stack.enter_context(begin)
        training = Training(params, root, base, seal, rows, minutes, started)
        first, *_ = training.steps
        # All steps share the device.
        device, threads = device_of(first.train)
        with imports.uncollected():  # torch: when the cheap refusals are past
            from stages.training import kernels

            # Here, where no frame has a model: bitsandbytes keeps the frames of its first import.
            if first.ranks == 1:
                importlib.import_module("stages.training.resuming")
        for part in training.steps:
            kernels.hold(part.train)
        trained = chain.fit_all(training, device, threads, folder)
        start.keep_rows(root, started)
    line = record.write(training, device, trained)
    for store in trained.stores:
        store.remove()
    unsent = sum(run.unsent for run in {trained.run, *trained.runs})
    unsent += sum(part.unsent for part in trained.fitted)
    kept = f", {unsent} points not taken by MLflow at {trained.run.uri}" if unsent else ""
    return f"{layout.ADAPTER}: {line}{kept}"


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
    EvidenceRefused.raise_for(
        differing, "run `./lockstep run validate`: training needs splits that passed"
    )
    return seal


def main(params: Params, root: Path) -> str:
    """``train`` as the only work of this process, so that packages which it does not need can be hidden."""
    entry.hide(step.unneeded(params.training))
    return train(params, root)


if __name__ == "__main__":
    entry.run("train", main)
