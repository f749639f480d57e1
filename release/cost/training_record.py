"""Reads the training from the record of a commit: its duration and its parameters."""

import hashlib
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from checks import files, layout
from checks.errors import EvidenceRefused, ParamsRefused
from checks.formats.data_reports import DataReport, PrepareReport
from checks.formats.evaluation_reports import EvaluateMeasured, EvaluationReport
from checks.formats.training_reports import TrainedStep, TrainMeasured, TrainReport
from checks.training import cost, steps
from release.cost.types import RecordedTraining, Unscalable
from release.record import pipeline_lock
from release.record.records import Commit

Model = TypeVar("Model", bound=BaseModel)


class _Out(BaseModel):
    """The fields that are read of a stage's output in dvc.lock."""

    path: str
    size: int = 0


def read(there: Commit, ref: str) -> RecordedTraining:
    """The training record of the commit that ``ref`` names. Raises Unscalable if it has none."""
    at = f"{ref} ({there.name[:12]})"
    try:
        return _read(there, ref, at)
    except (EvidenceRefused, ParamsRefused) as refused:
        raise Unscalable(refused.what) from None
    except ValidationError as error:
        raise Unscalable(f"{at}: its record cannot be read: {files.first(error)}") from None
    except (ValueError, RecursionError):
        raise Unscalable(f"{at}: its record cannot be read") from None


def _read(there: Commit, ref: str, at: str) -> RecordedTraining:
    text, report = there.data(layout.TRAIN_REPORT), there.report(layout.TRAIN_REPORT, TrainReport)
    if text is None or report is None:
        raise Unscalable(f"{at} has no {layout.TRAIN_REPORT}")
    took = there.report(layout.TRAIN_MEASURED, TrainMeasured)
    if took is None or took.adapter != report.adapter:
        what = "is not there" if took is None else f"is about another training than {layout.TRAIN_REPORT}"
        raise Unscalable(f"{at}: {layout.TRAIN_MEASURED} {what}")
    stages = there.lock(f"{at}: {layout.LOCK}")
    if ran := stages.get("train"):  # params.yaml may have changed since the training; dvc.lock has its parameters
        found = hashlib.md5(text, usedforsecurity=False).hexdigest()  # as DVC names files
        if dict(pipeline_lock.files(ran)).get(layout.TRAIN_REPORT.as_posix(), found) != found:
            raise Unscalable(f"{at}: {layout.TRAIN_REPORT} does not match train in its {layout.LOCK}")
        training = steps.read(pipeline_lock.parameters(ran).get("train"))
    elif there.data(layout.PARAMS):
        training = there.params(f"{ref}:{layout.PARAMS}").training
    else:
        raise Unscalable(f"{at} has neither {layout.LOCK} nor {layout.PARAMS}")
    parts = steps.of(training)
    counts = {len(report.chain), len(took.chain)}
    if counts != ({len(parts)} if isinstance(training, steps.Steps) else {0}):
        raise Unscalable(f"{at}: its reports do not say what each of its {len(parts)} steps took")
    parameters = report.base_parameters
    reported: list[TrainReport | TrainedStep] = [report, *report.chain]
    for one in reported:
        for name, value in {"rows": one.rows, "epochs": one.epochs, "total_parameters": parameters}.items():
            if not _is_measure(value):
                raise Unscalable(f"{at}: {layout.TRAIN_REPORT}: {name} cannot be scaled from")
    if not all(map(_is_measure, [took.seconds, *(each.seconds for each in took.chain)])):
        raise Unscalable(f"{at}: {layout.TRAIN_MEASURED}: seconds cannot be scaled from")
    outs = TypeAdapter(list[_Out]).validate_python(stages.get("prepare", {}).get("outs", []))
    prepared = _perhaps(there, layout.PREPARE_REPORT, PrepareReport)
    size = sum(out.size for out in outs if out.path == layout.SPLITS.as_posix())
    rows = prepared.kept_rows if prepared else 0
    row_bytes = size / rows if _is_measure(size) and _is_measure(rows) else None
    validated = _perhaps(there, layout.DATA_REPORT, DataReport)
    lengths = validated.statistics if validated else None
    return RecordedTraining(ref, there.name, report, took, parts, _answers(there), row_bytes, lengths)


def _answers(there: Commit) -> float | None:
    """Rows per second that the candidate answered in this commit's evaluation."""
    report = _perhaps(there, layout.EVALUATION, EvaluationReport)
    took = _perhaps(there, layout.EVALUATE_MEASURED, EvaluateMeasured)
    candidate = took.models.get("candidate") if report and took and took.merged == report.merged else None
    speed = candidate.examples_per_second if candidate else None
    return speed if speed is not None and _is_measure(speed) else None


def _is_measure(value: float) -> bool:
    """Whether a figure can be scaled from: positive, finite and neither too small nor too large."""
    return 1 / cost.MOST <= value < cost.MOST


def _perhaps(there: Commit, path: Path, model: type[Model]) -> Model | None:
    """A report of the commit; None if it is missing or cannot be read."""
    try:
        return there.report(path, model)
    except ValidationError:
        return None
