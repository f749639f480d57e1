"""Scales the duration of a recorded training to the training that the work tree asks for."""

from pathlib import Path
from typing import NamedTuple

from checks import cost, layout, tensors
from checks.cost import Span, Step, Training
from checks.errors import EvidenceRefused
from checks.evidence import DataReport, TrainReport
from checks.tensors import Weights
from checks.training import Train
from release.cost.training_record import Recorded, Unscalable


class Ahead(NamedTuple):
    """What decides the cost of the next training, beside ``params.yaml``.

    ``train`` is the digest of the train split, ``base`` the digest of the base model. ``parameters`` (of the base) and
    ``trained`` (those that learn) are None where unknown.
    """

    rows: int
    epochs: float
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


def planned(params: Train, data: DataReport, base: str) -> Ahead:
    """The training that params.yaml asks for, on the splits that validate saw."""
    rows = data.rows.get("train", 0)
    return Ahead(rows, cost.epochs(params, rows), data.splits.get("train"), base, data.rows.get("test", 0))


def done(report: TrainReport, test_rows: int) -> Ahead:
    """The finished training of ``report``, in the form of a planned one."""
    return Ahead(
        report.rows, report.epochs, report.splits.get("train"), report.base, test_rows, report.base_parameters,
        report.trainable_parameters,
    )  # fmt: skip


def seconds(root: Path, ahead: Ahead, train: Train, recorded: Recorded) -> Seconds:
    """Estimate the duration of ``ahead`` with the parameters ``train``. Raises Unscalable if that is impossible."""
    old, new = pair(root, ahead, train, recorded)
    same_base = ahead.base == recorded.report.base
    same_rows = ahead.train == recorded.report.splits.get("train")
    factors = cost.steps(old, new, same_base, same_rows, recorded.measured.device)
    training = cost.scaled(recorded.measured.seconds, factors)
    on_devices = training.times(train.devices)
    if recorded.answers_per_second is None:
        return Seconds(training, on_devices, factors, False)
    ratio = cost.bounded(new.parameters) / cost.bounded(old.parameters)
    answers = cost.answering(ahead.test_rows, recorded.answers_per_second, ratio, same_base)
    return Seconds(training, on_devices + answers, factors, True)


def pair(root: Path, ahead: Ahead, train: Train, recorded: Recorded) -> tuple[Training, Training]:
    """The recorded and the next training with parameters counted alike: those in the layers if known, else all.

    Raises Unscalable if the next training cannot be counted the same way.
    """
    report, before = recorded.report, recorded.train
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
    for what, value in (("rows", ahead.rows), ("epochs", ahead.epochs), ("parameters", new_parameters)):
        if value <= 0:
            raise Unscalable(f"the training here has no {what}")
    old = _training(report.rows, report.epochs, before, old_parameters, old_layers, report.trainable_parameters)
    new = _training(ahead.rows, ahead.epochs, train, new_parameters, new_layers, trained)
    return old._replace(row_bytes=recorded.row_bytes), new._replace(row_bytes=_row_bytes(root))


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
        devices=train.devices, own=0 if lora else trained,
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
