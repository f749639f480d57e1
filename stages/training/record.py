"""The record of a training: the loss curve, ``reports/train.json`` and ``reports/measured/train.json``."""

import math
from collections.abc import Sequence

from checks.formats import energy
from checks.formats.training_reports import TrainMeasured, TrainReport
from checks.kinds.method import METHODS
from checks.kinds.scorer import SCORERS
from checks.storage import files, layout
from stages import tracking
from stages.training.chain import Trained
from stages.training.training_steps import LIBRARIES, FittedStep, Training, versions


def write(training: Training, device: str, trained: Trained) -> str:
    """Write the curve and the reports; return what was trained on one line."""
    from stages.training import memory

    root = training.root
    fitted = trained.fitted
    files.write_text(root / layout.LOSS_CURVE, _curve(training, fitted))
    report = _report(training, fitted)
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


def _report(training: Training, fitted: Sequence[FittedStep]) -> TrainReport:
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


def _curve(training: Training, fitted: Sequence[FittedStep]) -> str:
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
        for step, values in of_step.points:
            first, *rest = (
                f"{values[n]:.6g}" if n in values else "" for n in ("loss", "learning_rate", *names)
            )
            of = [f"{number} {of_step.method}"] if several else []
            lines.append([str(before + step), first, rest[0], *of, *rest[1:]])
        before += of_step.steps
    return "".join(f"{','.join(line)}\n" for line in lines)
