"""The training that the work tree asks for, beside a recorded one: the seconds that it should take."""

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
    """What decides the cost here, beside the parameters. ``adapter`` and ``parameters`` (the base's) where known."""

    rows: int
    epochs: float
    train: str | None  # digest of the split
    base: str
    test_rows: int
    parameters: int | None = None
    adapter: int | None = None


class Seconds(NamedTuple):
    """Of the training, and of training and the candidate's answers together: what a device is paid for."""

    train: Span
    device: Span
    factors: tuple[Step, ...]
    answers_known: bool


def planned(params: Train, data: DataReport, base: str) -> Ahead:
    """The training that params.yaml asks for, on the splits that validate saw."""
    rows = data.rows.get("train", 0)
    return Ahead(rows, cost.epochs(params, rows), data.splits.get("train"), base, data.rows.get("test", 0))


def done(report: TrainReport, test_rows: int) -> Ahead:
    """The training that was done, as it might have been planned."""
    parameters = report.total_parameters - report.trainable_parameters
    return Ahead(
        report.rows, report.epochs, report.splits.get("train"), report.base, test_rows, parameters,
        report.trainable_parameters,
    )  # fmt: skip


def seconds(root: Path, ahead: Ahead, train: Train, recorded: Recorded) -> Seconds:
    """How long ``ahead`` takes with the parameters ``train``. Raises Unscalable where that cannot be said."""
    old, new = pair(root, ahead, train, recorded)
    same_base = ahead.base == recorded.report.base
    same_rows = ahead.train == recorded.report.splits.get("train")
    factors = cost.steps(old, new, same_base, same_rows, recorded.measured.device)
    training = cost.scaled(recorded.measured.seconds, factors)
    if recorded.answers_per_second is None:
        return Seconds(training, training, factors, False)
    ratio = cost.bounded(new.parameters) / cost.bounded(old.parameters)
    answers = cost.answering(ahead.test_rows, recorded.answers_per_second, ratio, same_base)
    return Seconds(training, training + answers, factors, True)


def pair(root: Path, ahead: Ahead, train: Train, recorded: Recorded) -> tuple[Training, Training]:
    """Both trainings in the same measure: parameters in the layers where those are known, else all of them.

    Raises Unscalable where this one cannot be measured so.
    """
    report, before, lora = recorded.report, recorded.train, train.lora
    there = here = report.total_parameters - report.trainable_parameters
    layers_there = layers = None
    try:
        known: Weights | None = tensors.read(root / layout.BASE)
        unknown = ""
    except EvidenceRefused as refused:
        known, unknown = None, refused.what
    if ahead.base == report.base:
        if known:
            there = here = known.inner
            layers_there = layers = known.layers
        elif lora.layers != before.lora.layers and not train.gradient_checkpointing:
            raise Unscalable(f"{unknown}, and train.lora.layers is not what was recorded")
    else:
        here, layers = (known.total, known.layers) if known else (ahead.parameters or 0, None)
        if not here:
            raise Unscalable(f"{unknown or 'models/base has no parameters'}, and the base is not what was recorded")
    adapter = ahead.adapter
    if adapter is None:  # of the same matrices, an adapter grows with its rank
        adapter = known.adapter(lora) if known else report.trainable_parameters * lora.r // before.lora.r
    for what, value in (("rows", ahead.rows), ("epochs", ahead.epochs), ("parameters", here)):
        if value <= 0:
            raise Unscalable(f"the training here has no {what}")
    old = _training(report.rows, report.epochs, before, there, layers_there, report.trainable_parameters)
    new = _training(ahead.rows, ahead.epochs, train, here, layers, adapter)
    return old._replace(row_bytes=recorded.row_bytes), new._replace(row_bytes=_row_bytes(root))


def _training(rows: int, epochs: float, train: Train, parameters: int, layers: int | None, adapter: int) -> Training:
    """``layers``: how many the base has; None where that is not known, and so not what share gradients pass through."""
    share = 1.0 if train.lora.layers is None else None
    if share is None and layers:
        share = min(1.0, cost.bounded(train.lora.layers or 0) / layers)
    checkpointing = train.gradient_checkpointing
    return Training(
        rows, epochs, train.batch_size, parameters, share, adapter, checkpointing, train.precision, None,
        quantised=train.quantization is not None, dora=train.lora.variant == "dora",
    )  # fmt: skip


def _row_bytes(root: Path) -> float | None:
    """Bytes of a row of the splits that lie here."""
    size = lines = 0
    try:
        for name in layout.SPLIT_NAMES:
            with (root / layout.SPLITS / f"{name}.jsonl").open("rb") as stream:
                for line in stream:
                    size, lines = size + len(line), lines + 1
    except OSError:
        return None
    return size / lines if lines else None
