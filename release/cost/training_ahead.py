"""Scales the duration of a recorded training to the training that the work tree asks for."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from checks import files, layout
from checks.errors import EvidenceRefused
from checks.formats.data_reports import DataReport
from checks.formats.data_statistics import Statistics
from checks.formats.training_reports import TrainedStep, TrainReport
from checks.rows import Row
from checks.training import cost, steps, tensors
from checks.training.cost import Span, Step, Training
from checks.training.interface import Train
from checks.training.steps import Steps
from checks.training.tensors import Weights
from release.cost.types import RecordedTraining, Unscalable

_PLAIN = "sft"  # what the first training on documents is scaled from: both go once over all tokens
_OTHER_METHOD = 1.5  # windows of documents are full, and their tokens are all learned
_DOCUMENT = b'"document":true'  # in a line of a split; a quotation mark within a text is escaped


class Ahead(NamedTuple):
    """What decides the cost of one step of the next training; most trainings have one.

    ``params`` are the step's parameters. ``train`` is the digest of the train split, ``base`` the digest of the base
    model. ``parameters`` (of the base) and ``trained`` (those that learn) are None where unknown. ``epochs`` is None
    where it depends on how many packed sequences the rows will make. ``lengths``: what validate said of the rows.
    """

    params: Train
    rows: int
    epochs: float | None
    train: str | None
    base: str
    test_rows: int
    parameters: int | None = None
    trained: int | None = None
    lengths: Statistics | None = None


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
        found.append(
            Ahead(
                params, rows, epochs, data.splits.get("train"), base, data.rows.get("test", 0), lengths=data.statistics
            )
        )
    return found


def done(report: TrainReport, training: Train | Steps, data: DataReport) -> list[Ahead]:
    """The steps of the finished training of ``report``, in the form of planned ones; ``data``: what validate said."""
    parts: Sequence[TrainReport | TrainedStep] = report.chain or (report,)
    return [
        Ahead(
            params, its.rows, its.epochs, report.splits.get("train"), report.base, data.rows.get("test", 0),
            report.base_parameters, report.trainable_parameters, data.statistics,
        )
        for params, its in zip(steps.of(training), parts, strict=False)
    ]  # fmt: skip


def seconds(root: Path, ahead: Sequence[Ahead], recorded: RecordedTraining) -> Seconds:
    """Estimate the duration of all steps ``ahead``: each is scaled from the recorded one with the same method.

    Raises Unscalable if that is impossible.
    """
    spans, factors = list[Span](), list[Step]()
    for number, one in enumerate(ahead):
        like = recorded.like(one.params.method, number)
        old, new = pair(root, one, like)
        same_base, same_method = one.base == like.report.base, one.params.method == like.train.method
        same_rows = one.train == like.report.splits.get("train") and same_method
        its = cost.steps(old, new, same_base, same_rows, like.measured.device)
        if not same_method:
            its = (*its, Step(f"{one.params.method}, recorded {like.train.method}", 1, _OTHER_METHOD, _OTHER_METHOD))
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


def pair(root: Path, ahead: Ahead, recorded: RecordedTraining) -> tuple[Training, Training]:
    """The recorded and the next step with parameters counted alike: those in the layers if known, else all.

    Raises Unscalable if the next one cannot be counted the same way.
    """
    report, before, train = recorded.report, recorded.train, ahead.params
    if train.method != before.method and not (train.of_documents and before.method == _PLAIN):
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
    row_bytes = _row_bytes(root, train.of_documents)
    before_bytes = _recorded_bytes(ahead, recorded, row_bytes)
    together = _together(ahead, recorded, row_bytes, before_bytes)
    epochs = cost.epochs(train, math.ceil(ahead.rows / together)) if ahead.epochs is None else ahead.epochs
    for what, value in (("rows", ahead.rows), ("epochs", epochs), ("parameters", new_parameters)):
        if value <= 0:
            raise Unscalable(f"the training here has no {what}")
    old = _training(report.rows, report.epochs, before, old_parameters, old_layers, report.trainable_parameters)
    rows = ahead.rows
    if train.of_documents and not before.of_documents:  # a window is what goes through the model, as a row does
        if not (row_bytes and before_bytes):
            raise Unscalable(f"train.method is {train.method}, and the record does not say how long its rows are")
        rows, row_bytes, together = math.ceil(rows / together), row_bytes * together, 1.0
    new = _training(rows, epochs, train, new_parameters, new_layers, trained)
    before_together = report.rows / report.sequences if report.sequences else 1.0
    return (
        old._replace(row_bytes=before_bytes, batch=cost.bounded(before.batch_size) * before_together),
        new._replace(row_bytes=row_bytes, batch=cost.bounded(train.batch_size) * together),
    )


def _together(ahead: Ahead, recorded: RecordedTraining, row_bytes: float | None, before_bytes: float | None) -> float:
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
    if row_bytes and before_bytes:
        tokens *= row_bytes / before_bytes
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


def _recorded_bytes(ahead: Ahead, recorded: RecordedTraining, row_bytes: float | None) -> float | None:
    """Mean bytes of the recorded step's rows or documents; None if they are not known.

    dvc.lock has the size of all splits. If documents are among them or ahead, the tokens that validate counted decide.
    """
    before = recorded.lengths
    if not (ahead.params.of_documents or recorded.train.of_documents or (before and before.documents)):
        return recorded.row_bytes
    old, new = _tokens(before, recorded.train.of_documents), _tokens(ahead.lengths, ahead.params.of_documents)
    return row_bytes * old / new if row_bytes and old and new else None


def _tokens(lengths: Statistics | None, documents: bool) -> float | None:
    """Mean tokens of a document, or of a row; None if validate did not say."""
    if lengths is None or (documents and lengths.documents is None):
        return None
    parts = (lengths.documents.lengths,) if documents and lengths.documents else (lengths.prompts, lengths.references)
    return sum(
        sum(each.rows * (each.low + each.high) / 2 for each in part.bins) / max(1, sum(each.rows for each in part.bins))
        for part in parts
    )


def _row_bytes(root: Path, documents: bool) -> float | None:
    """Mean bytes of the documents, or else of the rows, of the splits on disk; None if they cannot be read."""
    size = lines = 0
    try:
        for name in layout.SPLIT_NAMES:
            with (root / layout.SPLITS / f"{name}.jsonl").open("rb") as stream:
                for line in stream:
                    if (_DOCUMENT in line) == documents:
                        size, lines = size + len(line), lines + 1
    except OSError:
        return None
    return size / lines if lines else None
