"""What a commit's record says of its training: how long it took, and with which parameters."""

import hashlib
import math
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import ValidationError

from checks import cost, files, layout, methods, params_file, plain_yaml
from checks.errors import EvidenceRefused, ParamsRefused
from checks.evidence import EvaluateMeasured, EvaluationReport, PrepareReport, TrainMeasured, TrainReport
from checks.training import Train
from release.adapters import commits

_SPLITS = layout.SPLITS.as_posix()


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


def read(root: Path, ref: str, commit: str) -> Recorded | str:
    """The record of training at ``commit``, which ``ref`` names; a sentence why there is none to scale from."""
    try:
        return _read(root, ref, commit)
    except (EvidenceRefused, ParamsRefused) as refused:
        return refused.what
    except ValidationError as error:
        return f"{ref} ({commit[:12]}): its record cannot be read: {files.first(error)}"
    except (ValueError, yaml.YAMLError, RecursionError):
        return f"{ref} ({commit[:12]}): its record cannot be read"


def _read(root: Path, ref: str, commit: str) -> Recorded | str:
    at = f"{ref} ({commit[:12]})"
    text = commits.read(root, commit, layout.TRAIN_REPORT)
    if text is None:
        return f"{at} has no {layout.TRAIN_REPORT}"
    report = TrainReport.model_validate_json(text)
    measured = commits.read(root, commit, layout.TRAIN_MEASURED)
    took = TrainMeasured.model_validate_json(measured) if measured is not None else None
    if took is None or took.adapter != report.adapter:
        what = "is not there" if took is None else f"is about another training than {layout.TRAIN_REPORT}"
        return f"{at}: {layout.TRAIN_MEASURED} {what}"
    stages = _stages(commits.read(root, commit, layout.LOCK))
    ran = stages.get("train")
    # params.yaml may have changed since the training, the lock has not.
    if isinstance(ran, dict):
        found = hashlib.md5(text, usedforsecurity=False).hexdigest()  # as DVC names files
        if _output(ran, layout.TRAIN_REPORT.as_posix()).get("md5", found) != found:
            return f"{at}: {layout.TRAIN_REPORT} is not what its {layout.LOCK} says of train"
        train = methods.read(_at(ran, "params", layout.PARAMS.as_posix(), "train"))
    else:
        params = commits.read(root, commit, layout.PARAMS)
        if params is None:
            return f"{at} has neither {layout.LOCK} nor {layout.PARAMS}"
        train = params_file.parse(params.decode(), f"{ref}:{layout.PARAMS}").train
    figures = {
        "seconds": took.seconds, "rows": report.rows, "epochs": report.epochs,
        "total_parameters": report.total_parameters - report.trainable_parameters,
    }  # fmt: skip
    for name, value in figures.items():
        if not 0 < value < cost.MOST or (isinstance(value, float) and value < 1 / cost.MOST):
            path = layout.TRAIN_MEASURED if name == "seconds" else layout.TRAIN_REPORT
            return f"{at}: {path}: {name} is no measure to scale from"
    return Recorded(ref, commit, report, took, train, _answers(root, commit), _row_bytes(root, commit, stages))


def _stages(lock: bytes | None) -> dict[str, Any]:
    found = _at(plain_yaml.load(lock.decode()) if lock else None, "stages")
    return found if isinstance(found, dict) else {}


def _answers(root: Path, commit: str) -> float | None:
    """Rows a second that the candidate answered there."""
    text, measured = (commits.read(root, commit, path) for path in (layout.EVALUATION, layout.EVALUATE_MEASURED))
    if text is None or measured is None:
        return None
    try:
        report, took = EvaluationReport.model_validate_json(text), EvaluateMeasured.model_validate_json(measured)
    except ValidationError:
        return None
    candidate = took.models.get("candidate") if took.merged == report.merged else None
    speed = candidate.examples_per_second if candidate else None
    return speed if speed is not None and 1 / cost.MOST < speed < cost.MOST else None


def _row_bytes(root: Path, commit: str, stages: dict[str, Any]) -> float | None:
    prepared = stages.get("prepare")
    size = _output(prepared, _SPLITS).get("size") if isinstance(prepared, dict) else None
    text = commits.read(root, commit, layout.PREPARE_REPORT)
    try:
        rows = PrepareReport.model_validate_json(text).kept_rows if text is not None else 0
    except ValidationError:
        return None
    if type(size) is not int or not 0 < size < cost.MOST or not 0 < rows < cost.MOST:
        return None
    value = size / rows
    return value if math.isfinite(value) else None


def _output(stage: dict[str, Any], path: str) -> dict[str, Any]:
    """What the lock says of one output."""
    outs = stage.get("outs")
    for entry in outs if isinstance(outs, list) else []:
        if isinstance(entry, dict) and entry.get("path") == path:
            return entry
    return {}


def _at(document: Any, *path: str) -> Any:
    for part in path:
        document = document.get(part) if isinstance(document, dict) else None
    return document
