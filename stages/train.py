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
import math
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from checks.config.params import Params
from checks.formats import energy
from checks.formats.data_reports import Seal
from checks.formats.training_reports import TrainMeasured, TrainReport
from checks.kinds.method import METHODS
from checks.kinds.scorer import SCORERS
from checks.process.errors import EvidenceRefused, TrainingRefused
from checks.storage import digest, files, layout
from checks.training import steps
from stages import entry, tracking
from stages.training import chain, checkpoints, start, step
from stages.training.chain import Trained
from stages.training.devices import device_of
from stages.training.training_steps import LIBRARIES, FittedStep, Training, splits, versions
from stages.weights import nf4


def write_reports(training: Training, device: str, trained: Trained) -> str:
    """Write the curve and the reports; return what was trained on one line."""
    from stages.training import memory

    root = training.root
    fitted = trained.fitted
    files.write_text(root / layout.LOSS_CURVE, _loss_curve(training, fitted))
    report = _train_report(training, fitted)
    seconds = math.fsum(step.seconds for step in fitted)
    used = energy.total([step.energy for step in fitted])
    most = max((step.memory for step in fitted), key=lambda taken: taken.peak or 0)
    measured = TrainMeasured(
        adapter=report.adapter,
        git_commit=tracking.revision(root)[0],
        mlflow_run=trained.run.id,
        seconds=round(seconds, 3),
        energy=used,
        device=device,
        resumed_at=trained.resumed_at,
        memory=most,
        tokens_per_second=report.tokens / seconds if report.tokens and seconds > 0 else None,
        chain=tuple(step.measured() for step in fitted) if len(fitted) > 1 else (),
    )
    files.write_json(root / layout.TRAIN_MEASURED, measured)
    files.write_json(root / layout.TRAIN_REPORT, report)
    peak = "" if most.peak is None else f", peak of memory {memory.gigabytes(most.peak)}"
    return f"{_line(report, fitted, seconds)}{peak}{energy.after(used)}"


def _train_report(training: Training, fitted: Sequence[FittedStep]) -> TrainReport:
    """Return what the same parameters, data and base give again."""
    rows = len(training.rows["train"])
    first = training.steps[0].train
    last = fitted[-1]
    rewards = {scorer.kind: scorer for step in training.steps for scorer in step.train.rewards()}
    methods = [step.train.method for step in training.steps]
    return TrainReport(
        adapter=last.adapter,
        base=training.base,
        splits=training.seal.splits,
        rows=rows,
        sequences=last.sequences,
        steps=sum(step.steps for step in fitted),
        # How often a row of the train split was seen, on average.
        epochs=round(math.fsum(step.epochs * step.rows / rows for step in fitted), 6),
        trainable_parameters=last.trainable,
        total_parameters=last.total,
        final_loss=last.final_loss,
        versions=versions([step.train for step in training.steps], LIBRARIES),
        tokens=sum(step.tokens or 0 for step in fitted) or None,
        figures=last.figures,
        optimised_for=tuple(rewards),
        quantised=last.quantised,
        stopping=last.stopping,
        devices=first.devices if first.devices > 1 else None,
        batch=last.batch,
        shard=first.shard,
        start=training.started.report if training.started else None,
        chain=tuple(step.reported() for step in fitted) if len(fitted) > 1 else (),
        full=first.full is not None,
        plugins=METHODS.plugins(methods) | SCORERS.plugins(rewards),
    )


def _line(report: TrainReport, fitted: Sequence[FittedStep], seconds: float) -> str:
    last = fitted[-1]
    methods = f", {', then '.join(step.method for step in fitted)}" if len(fitted) > 1 else ""
    held_out = "" if last.valid_loss is None else f", on valid {last.valid_loss:.3f}"
    held_out += f" (weights of step {last.stopping.best_step})" if last.stopping else ""
    trained = f"{last.adapter[:19]}{methods}, {report.steps} steps in {seconds:.0f} s"
    return f"{trained}, final loss {report.final_loss:.3f}{held_out}"


def _loss_curve(training: Training, fitted: Sequence[FittedStep]) -> str:
    """Return the loss curve of all steps as CSV: step, loss, learning rate, and what the methods report of each.

    In several steps the column ``chain`` says which one a point is of, and ``step`` counts on from one to the next.
    """
    several = len(fitted) > 1
    reported = dict.fromkeys(name for step in training.steps for name in step.train.reported)
    points = [values for step in fitted for _, values in step.points]
    names = [name for name in reported if any(name in values for values in points)]
    lines = [["step", "loss", "learning_rate", *(["chain"] if several else []), *names]]
    before = 0
    for number, of_step in enumerate(fitted, 1):
        for place, values in of_step.points:
            first, *rest = (
                f"{values[n]:.6g}" if n in values else "" for n in ("loss", "learning_rate", *names)
            )
            of = [f"{number} {of_step.method}"] if several else []
            lines.append([str(before + place), first, rest[0], *of, *rest[1:]])
        before += of_step.steps
    return "".join(f"{','.join(line)}\n" for line in lines)


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
            nf4.hold_installed("train.quantization" if section.quantization else "train.optimizer")
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
        started = stack.enter_context(start.opened(root, steps.of(params.training)[0], base))
        training = Training(params, root, base, seal, rows, minutes, started)
        first, *_ = training.steps
        # All steps share the device.
        device, threads = device_of(first.train)
        # torch is loaded once the cheap refusals are past.
        from stages.training import kernels

        # Here, where no frame has a model: bitsandbytes keeps the frames of its first import.
        if first.ranks == 1:
            importlib.import_module("stages.training.resuming")
        for part in training.steps:
            kernels.hold(part.train)
        trained = chain.fit_all(training, device, threads, folder)
        start.keep_rows(root, started)
    line = write_reports(training, device, trained)
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
