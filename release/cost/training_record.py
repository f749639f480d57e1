"""What a commit's record says of its training: how long it took, and with which parameters."""

import hashlib
from pathlib import Path
from typing import NamedTuple, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from checks import cost, files, layout, methods, params_file
from checks.errors import EvidenceRefused, ParamsRefused
from checks.evidence import EvaluateMeasured, EvaluationReport, PrepareReport, TrainMeasured, TrainReport
from checks.training import Train
from release.adapters import commits
from release.record import pipeline_lock

Model = TypeVar("Model", bound=BaseModel)


class Recorded(NamedTuple):
    """``train`` are the parameters that it ran with.

    ``answers_per_second`` is None where nothing was generated, ``row_bytes`` (of a row in the splits) where the lock
    does not say.
    """

    ref: str
    commit: str
    report: TrainReport
    measured: TrainMeasured
    train: Train
    answers_per_second: float | None
    row_bytes: float | None


class _Out(BaseModel):
    """An output of a stage in dvc.lock, as far as it is looked at."""

    path: str
    size: int = 0


class Unscalable(Exception):  # noqa: N818 - no error: there is no estimate then
    """Nothing can be scaled from here; the text is a sentence that says why."""


def read(root: Path, ref: str, commit: str) -> Recorded:
    """The record of training at ``commit``, which ``ref`` names. Raises Unscalable where it has none."""
    at = f"{ref} ({commit[:12]})"
    try:
        return _read(root, ref, commit, at)
    except (EvidenceRefused, ParamsRefused) as refused:
        raise Unscalable(refused.what) from None
    except ValidationError as error:
        raise Unscalable(f"{at}: its record cannot be read: {files.first(error)}") from None
    except (ValueError, RecursionError):
        raise Unscalable(f"{at}: its record cannot be read") from None


def _read(root: Path, ref: str, commit: str, at: str) -> Recorded:
    text = commits.read(root, commit, layout.TRAIN_REPORT)
    if text is None:
        raise Unscalable(f"{at} has no {layout.TRAIN_REPORT}")
    report, took = TrainReport.model_validate_json(text), _at(root, commit, layout.TRAIN_MEASURED, TrainMeasured)
    if took is None or took.adapter != report.adapter:
        what = "is not there" if took is None else f"is about another training than {layout.TRAIN_REPORT}"
        raise Unscalable(f"{at}: {layout.TRAIN_MEASURED} {what}")
    lock = commits.read(root, commit, layout.LOCK)
    stages = pipeline_lock.stages(lock, f"{at}: {layout.LOCK}") if lock else {}
    if ran := stages.get("train"):  # params.yaml may have changed since the training, the lock has not
        found = hashlib.md5(text, usedforsecurity=False).hexdigest()  # as DVC names files
        if dict(pipeline_lock.files(ran)).get(layout.TRAIN_REPORT.as_posix(), found) != found:
            raise Unscalable(f"{at}: {layout.TRAIN_REPORT} is not what its {layout.LOCK} says of train")
        train = methods.read(pipeline_lock.parameters(ran).get("train"))
    elif params := commits.read(root, commit, layout.PARAMS):
        train = params_file.parse(params.decode(), f"{ref}:{layout.PARAMS}").train
    else:
        raise Unscalable(f"{at} has neither {layout.LOCK} nor {layout.PARAMS}")
    base = report.total_parameters - report.trainable_parameters
    for name, value in {"rows": report.rows, "epochs": report.epochs, "total_parameters": base}.items():
        if not _is_measure(value):
            raise Unscalable(f"{at}: {layout.TRAIN_REPORT}: {name} is no measure to scale from")
    if not _is_measure(took.seconds):
        raise Unscalable(f"{at}: {layout.TRAIN_MEASURED}: seconds is no measure to scale from")
    outs = TypeAdapter(list[_Out]).validate_python(stages.get("prepare", {}).get("outs", []))
    prepared = _perhaps(root, commit, layout.PREPARE_REPORT, PrepareReport)
    size = sum(out.size for out in outs if out.path == layout.SPLITS.as_posix())
    rows = prepared.kept_rows if prepared else 0
    row_bytes = size / rows if _is_measure(size) and _is_measure(rows) else None
    return Recorded(ref, commit, report, took, train, _answers(root, commit), row_bytes)


def _answers(root: Path, commit: str) -> float | None:
    """Rows a second that the candidate answered there."""
    report = _perhaps(root, commit, layout.EVALUATION, EvaluationReport)
    took = _perhaps(root, commit, layout.EVALUATE_MEASURED, EvaluateMeasured)
    candidate = took.models.get("candidate") if report and took and took.merged == report.merged else None
    speed = candidate.examples_per_second if candidate else None
    return speed if speed is not None and _is_measure(speed) else None


def _is_measure(value: float) -> bool:
    """Whether a figure can be scaled from: above zero, finite and of a size that can be."""
    return 1 / cost.MOST <= value < cost.MOST


def _at(root: Path, commit: str, path: Path, model: type[Model]) -> Model | None:
    """A file of the commit as ``model``; None where there is no such file. Raises ValidationError for another shape."""
    data = commits.read(root, commit, path)
    return model.model_validate_json(data) if data is not None else None


def _perhaps(root: Path, commit: str, path: Path, model: type[Model]) -> Model | None:
    """As ``_at``; None for another shape too."""
    try:
        return _at(root, commit, path, model)
    except ValidationError:
        return None
