"""The training that the work tree asks for, beside a recorded one: the seconds that it should take."""

from pathlib import Path
from typing import NamedTuple

from checks import cost, layout, tensors
from checks.cost import Span, Step, Training
from checks.errors import EvidenceRefused
from checks.evidence import DataReport, TrainReport
from checks.tensors import Weights
from checks.training import Lora, Train
from release.cost.training_record import Recorded


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


def seconds(root: Path, ahead: Ahead, train: Train, recorded: Recorded) -> Seconds | str:
    """How long ``ahead`` takes with the parameters ``train``; a sentence where that cannot be said."""
    weights = _weights(root)
    same_base = ahead.base == recorded.report.base
    pair = _pair(root, ahead, train, recorded, weights, same_base)
    if isinstance(pair, str):
        return pair
    old, new = pair
    for what, value in (("rows", new.rows), ("epochs", new.epochs), ("parameters", new.parameters)):
        if value <= 0:
            return f"the training here has no {what}"
    same_rows = ahead.train == recorded.report.splits.get("train")
    factors = cost.steps(old, new, same_base, same_rows, recorded.measured.device)
    training = cost.scaled(recorded.measured.seconds, factors)
    if recorded.answers_per_second is None:
        return Seconds(training, training, factors, False)
    ratio = cost.bounded(new.parameters) / cost.bounded(old.parameters)
    answers = cost.answering(ahead.test_rows, recorded.answers_per_second, ratio, same_base)
    return Seconds(training, training + answers, factors, True)


def _pair(
    root: Path, ahead: Ahead, train: Train, recorded: Recorded, weights: Weights | str, same_base: bool
) -> tuple[Training, Training] | str:
    """Both trainings in the same measure: parameters in the layers where those are known, else all of them."""
    report, lora = recorded.report, train.lora
    before = recorded.train.lora
    base = report.total_parameters - report.trainable_parameters
    known = None if isinstance(weights, str) else weights
    if same_base and known:
        there = here = known.inner
        shares = _share(before, known.layers), _share(lora, known.layers)
    elif same_base:
        if lora.layers != before.layers and not train.gradient_checkpointing:
            return f"{weights}, and train.lora.layers is not what was recorded"
        there = here = base
        shares = _share(before, None), _share(lora, None)
    else:
        there, other = base, known.total if known else ahead.parameters
        if other is None:
            return f"{weights}, and the base is not what was recorded"
        here, shares = other, (_share(before, None), _share(lora, known.layers if known else None))
    adapter = ahead.adapter
    if adapter is None:
        # Of the same matrices, an adapter grows with its rank.
        adapter = known.adapter(lora) if known else report.trainable_parameters * lora.r // before.r
    old = _training(report.rows, report.epochs, recorded.train, there, shares[0], report.trainable_parameters)
    new = _training(ahead.rows, ahead.epochs, train, here, shares[1], adapter)
    return old._replace(row_bytes=recorded.row_bytes), new._replace(row_bytes=_row_bytes(root))


def _training(rows: int, epochs: float, train: Train, parameters: int, share: float | None, adapter: int) -> Training:
    return Training(
        rows, epochs, train.batch_size, parameters, share, adapter, train.gradient_checkpointing, train.precision, None
    )


def _share(lora: Lora, layers: int | None) -> float | None:
    """The share of the layers that gradients pass through; None where it is not known of how many."""
    if lora.layers is None:
        return 1.0
    return min(1.0, cost.bounded(lora.layers) / layers) if layers else None


def _weights(root: Path) -> Weights | str:
    try:
        return tensors.read(root / layout.BASE)
    except EvidenceRefused as refused:
        return refused.what


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
