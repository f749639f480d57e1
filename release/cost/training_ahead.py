"""Scales the duration of a recorded training to the training that the work tree asks for."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from checks import files, layout
from checks.errors import EvidenceRefused
from checks.formats.data_reports import DataReport
from checks.formats.training_reports import TrainedStep, TrainReport
from checks.rows import Row
from checks.training import cost, steps, tensors
from checks.training.cost import Span, Step, Training
from checks.training.interface import Train
from checks.training.steps import Steps
from checks.training.tensors import Weights
from release.cost.types import Recorded, Unscalable


class Ahead(NamedTuple):
    """What decides the cost of one step of the next training; most trainings have one.

    ``params`` are the step's parameters. ``train`` is the digest of the train split, ``base`` the digest of the base
    model. ``parameters`` (of the base) and ``trained`` (those that learn) are None where unknown. ``epochs`` is None
    where it depends on how many packed sequences the rows will make.
    """

    params: Train
    rows: int
    epochs: float | None
    train: str | None
    base: str
    test_rows: int
    parameters: int | None = None
    trained: int | None = None


class Seconds(NamedTuple):
    """Estimated seconds: ``train`` of the training alone, ``device`` of training and evaluation together.

    ``device`` counts each device of a training on several.
    """

    train: Span
    device: Span
    factors: tuple[Step, ...]
    answers_known: bool


def planned(root: Path, training: Train | Steps, data: DataReport, base: str) -> list[Ahead]:
    """The steps of the training that params.yaml asks for, on the splits that validate saw.

    Raises EvidenceRefused if the train split cannot be read, where some of its rows are of one step alone.
    """
    some, path = steps.in_some_rows(training), root / layout.SPLITS / "train.jsonl"
    parted = bool(some) or any(step.of_documents for step in steps.of(training))
    split = files.read_jsonl(path, Row) if parted else []
    found = []
    for params in steps.of(training):
        rows = len(steps.rows_of(params, some, split)) if parted else data.rows.get("train", 0)
        epochs = None if params.makes_sequences and params.max_steps else cost.epochs(params, rows)
        found.append(Ahead(params, rows, epochs, data.splits.get("train"), base, data.rows.get("test", 0)))
    return found


def done(report: TrainReport, training: Train | Steps, test_rows: int) -> list[Ahead]:
    """The steps of the finished training of ``report``, in the form of planned ones."""
    parts: Sequence[TrainReport | TrainedStep] = report.chain or (report,)
    return [
        Ahead(
            params, its.rows, its.epochs, report.splits.get("train"), report.base, test_rows, report.base_parameters,
            report.trainable_parameters,
        )
        for params, its in zip(steps.of(training), parts, strict=False)
    ]  # fmt: skip


def seconds(root: Path, ahead: Sequence[Ahead], recorded: Recorded) -> Seconds:
    """Estimate the duration of all steps ``ahead``: each is scaled from the recorded one with the same method.

    Raises Unscalable if that is impossible.
    """
    spans, factors = list[Span](), list[Step]()
    for number, one in enumerate(ahead):
        like = recorded.like(one.params.method, number)
        old, new = pair(root, one, like)
        same_base = one.base == like.report.base
        its = cost.steps(old, new, same_base, one.train == like.report.splits.get("train"), like.measured.device)
        spans.append(cost.scaled(like.measured.seconds, its))
        name = f"step {number + 1}, {one.params.method}: " if len(ahead) > 1 else ""
        factors += [factor._replace(why=f"{name}{factor.why}") for factor in its]
    training = sum(spans[1:], spans[0])
    on_devices = training.times(one.params.devices)
    if recorded.answers_per_second is None:
        return Seconds(training, on_devices, tuple(factors), False)
    ratio = cost.bounded(new.parameters) / cost.bounded(old.parameters)
    answers = cost.answering(one.test_rows, recorded.answers_per_second, ratio, same_base)
    return Seconds(training, on_devices + answers, tuple(factors), True)


def pair(root: Path, ahead: Ahead, recorded: Recorded) -> tuple[Training, Training]:
    """The recorded and the next step with parameters counted alike: those in the layers if known, else all.

    Raises Unscalable if the next one cannot be counted the same way.
    """
    report, before, train = recorded.report, recorded.train, ahead.params
    if train.method != before.method:
        raise Unscalable(f"train.method is {train.method}, and the record is of a training with {before.method}")
    old_parameters = new_parameters = report.base_parameters
    old_layers = new_layers = None
    try:
        known: Weights | None = tensors.read(root / layout.BASE)
        unknown = ""
    except EvidenceRefused as refused:
        known, unknown = None, refused.what
    if ahead.base == report.base:
        if known:
            old_parameters = new_parameters = known.inner
            old_layers = new_layers = known.layers
        elif train.layers != before.layers and not train.gradient_checkpointing:
            raise Unscalable(f"{unknown}, and {_kind(train)}.layers is not what was recorded")
    else:
        new_parameters, new_layers = (known.total, known.layers) if known else (ahead.parameters or 0, None)
        if not new_parameters:
            raise Unscalable(f"{unknown or 'models/base has no parameters'}, and the base is not what was recorded")
    trained = ahead.trained
    if trained is None:
        if known:
            trained = known.trained(train)
        elif _kind(train) != _kind(before):
            raise Unscalable(f"{unknown}, and the record is of a training with {_kind(before)}")
        else:  # on the same matrices, the size of an adapter is proportional to its rank
            ranks = (train.lora.r, before.lora.r) if train.lora and before.lora else (1, 1)
            trained = report.trainable_parameters * ranks[0] // ranks[1]
    row_bytes = _row_bytes(root)
    together = _together(ahead, recorded, row_bytes)
    epochs = cost.epochs(train, math.ceil(ahead.rows / together)) if ahead.epochs is None else ahead.epochs
    for what, value in (("rows", ahead.rows), ("epochs", epochs), ("parameters", new_parameters)):
        if value <= 0:
            raise Unscalable(f"the training here has no {what}")
    old = _training(report.rows, report.epochs, before, old_parameters, old_layers, report.trainable_parameters)
    new = _training(ahead.rows, epochs, train, new_parameters, new_layers, trained)
    before_together = report.rows / report.sequences if report.sequences else 1.0
    return (
        old._replace(row_bytes=recorded.row_bytes, batch=cost.bounded(before.batch_size) * before_together),
        new._replace(row_bytes=row_bytes, batch=cost.bounded(train.batch_size) * together),
    )


def _together(ahead: Ahead, recorded: Recorded, row_bytes: float | None) -> float:
    """Mean rows in a sequence of the next training: those recorded, if they are the same rows and the same length.

    Otherwise sequences count as full, and rows as long as recorded, or longer by their bytes.
    """
    report, before, train = recorded.report, recorded.train, ahead.params
    if not train.makes_sequences:
        return 1.0
    same = (ahead.base, ahead.train, train.max_length) == (report.base, report.splits.get("train"), before.max_length)
    if same and report.sequences:
        return report.rows / report.sequences
    if report.tokens is None:
        raise Unscalable(f"train.method {train.method}: no record says how many tokens a row has")
    tokens = report.tokens / (report.rows * report.epochs)
    if row_bytes and recorded.row_bytes:
        tokens *= row_bytes / recorded.row_bytes
    together = cost.bounded(train.max_length) / tokens
    return together if train.of_documents else max(1.0, together)


def _kind(train: Train) -> str:
    return "train.lora" if train.lora else "train.full"


def _training(rows: int, epochs: float, train: Train, parameters: int, layers: int | None, trained: int) -> Training:
    """``layers``: the base's number of layers; if None, the share that gradients pass through is unknown too."""
    share = 1.0 if train.layers is None else None
    if share is None and layers:
        share = min(1.0, cost.bounded(train.layers or 0) / layers)
    checkpointing, lora = train.gradient_checkpointing, train.lora
    return Training(
        rows, epochs, train.batch_size, parameters, share, trained if lora else 0, checkpointing, train.precision, None,
        quantised=train.quantization is not None, dora=lora is not None and lora.variant == "dora",
        devices=train.devices, own=0 if lora else trained, packed=bool(train.packing),
    )  # fmt: skip


def _row_bytes(root: Path) -> float | None:
    """Mean bytes per row of the splits on disk; None if they cannot be read."""
    size = lines = 0
    try:
        for name in layout.SPLIT_NAMES:
            with (root / layout.SPLITS / f"{name}.jsonl").open("rb") as stream:
                for line in stream:
                    size, lines = size + len(line), lines + 1
    except OSError:
        return None
    return size / lines if lines else None
