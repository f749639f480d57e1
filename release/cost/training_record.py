"""Reads the training from the record of a commit: its duration and its parameters. Estimates a finished one from it.

The cost of a released model is that of its training, as recorded, and of 1,000 requests, as a verifier measured them.
Prices are those of the work tree's params.yaml: ``train_budget.hourly_price`` and ``monitor.cost.hourly_price``.
"""

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import ValidationError

from checks.config.release_params import ReleaseParams
from checks.formats.data_reports import DataReport
from checks.formats.decoding import draws
from checks.formats.evaluation_reports import EvaluateMeasured, EvaluationReport
from checks.formats.serving import Throughput
from checks.formats.thinking import Thinking
from checks.formats.training_reports import MeasuredStep, TrainedStep, TrainMeasured, TrainReport
from checks.kinds.method import Train
from checks.process.errors import EvidenceRefused, ParamsRefused
from checks.records.rows import Record
from checks.storage import files, layout
from checks.training import steps
from release.cost import forecast
from release.record import pipeline_lock
from release.record.records import Commit, Records

if TYPE_CHECKING:
    from checks.config.params import Params


class Took(Record):
    """The cost of a released model. A figure that is not known is None. ``training`` and ``requests`` have energy."""

    training: TrainMeasured | None
    training_price: float | None
    requests: Throughput | None
    price_per_1000_requests: float | None


def read(record: Commit, ref: str) -> forecast.RecordedTraining:
    """Read the training in the record of the commit that ``ref`` names. Raises Unscalable if it has none."""
    at = f"{ref} ({record.name[:12]})"
    try:
        return _read(record, ref, at)
    except (EvidenceRefused, ParamsRefused) as refused:
        raise forecast.Unscalable(refused.what) from None
    except ValidationError as error:
        raise forecast.Unscalable(
            f"{at}: its record cannot be read: {files.first(error)}"
        ) from None
    except (ValueError, RecursionError):
        raise forecast.Unscalable(f"{at}: its record cannot be read") from None


def estimate_again(
    records: Records,
    params: "Params",
    ref: str,
    commit: str,
    report: TrainReport,
    measured: TrainMeasured,
) -> forecast.Forecast | None:
    """Return the estimate that the record at ``commit`` gives for the finished training of ``report``. Decides nothing.

    None if nothing was trained since that record, or if there is nothing to scale from.
    """
    try:
        recorded = read(records.at(commit), ref)
        data = records.work_tree.report(layout.DATA_REPORT, DataReport)
        if (recorded.report, recorded.measured) == (report, measured):
            return None
        plan = forecast.planned(records.root, params.training, data)
        times = draws(params.evaluate.decoding)
        return forecast.forecast(plan, data, report.base, recorded, times, params.base.thinking)
    except (EvidenceRefused, forecast.Unscalable):
        return None


def _read(record: Commit, ref: str, at: str) -> forecast.RecordedTraining:
    report = record.report(layout.TRAIN_REPORT, TrainReport)
    if report is None:
        raise forecast.Unscalable(f"{at} has no {layout.TRAIN_REPORT}")
    measured = record.report(layout.TRAIN_MEASURED, TrainMeasured)
    if measured is None:
        raise forecast.Unscalable(f"{at}: {layout.TRAIN_MEASURED} is not there")
    if measured.adapter != report.adapter:
        raise forecast.Unscalable(
            f"{at}: {layout.TRAIN_MEASURED} is about another training than {layout.TRAIN_REPORT}"
        )
    trains = _parameters(record, ref, at)
    reported: Sequence[TrainReport | TrainedStep] = report.chain or (report,)
    durations: Sequence[TrainMeasured | MeasuredStep] = measured.chain or (measured,)
    if not len(trains) == len(reported) == len(durations):
        raise forecast.Unscalable(
            f"{at}: its reports do not say what each of its {len(trains)} steps took"
        )
    recorded = tuple(
        forecast.RecordedStep(train, step.rows, step.epochs, step.sequences, duration.seconds)
        for train, step, duration in zip(trains, reported, durations, strict=True)
    )
    for step in recorded:
        for name, value in {
            "rows": step.rows,
            "epochs": step.epochs,
            "seconds": step.seconds,
        }.items():
            if not _is_measure(value):
                raise forecast.Unscalable(f"{at}: {name} of its training cannot be scaled from")
    return forecast.RecordedTraining(
        ref, record.name, report, measured, recorded, *_answering(record)
    )


def _parameters(record: Commit, ref: str, at: str) -> tuple[Train, ...]:
    """Read the parameters of each step: those of dvc.lock, because params.yaml may have changed since the training."""
    stage = record.lock(f"{at}: {layout.LOCK}").get("train")
    if stage:
        digest = hashlib.md5(
            record.data(layout.TRAIN_REPORT) or b"", usedforsecurity=False
        ).hexdigest()
        if dict(pipeline_lock.files(stage)).get(layout.TRAIN_REPORT.as_posix(), digest) != digest:
            raise forecast.Unscalable(
                f"{at}: {layout.TRAIN_REPORT} does not match train in its {layout.LOCK}"
            )
        return steps.of(steps.read(pipeline_lock.parameters(stage).get("train")))
    if record.data(layout.PARAMS) is None:
        raise forecast.Unscalable(f"{at} has neither {layout.LOCK} nor {layout.PARAMS}")
    return steps.of(record.params(f"{ref}:{layout.PARAMS}").training)


def _answering(record: Commit) -> tuple[float | None, Thinking | None, float | None]:
    """Read the candidate's answers per second, how it thought, and the mean tokens of a thought.

    None if they are not known.
    """
    report = record.readable(layout.EVALUATION, EvaluationReport)
    measured = record.readable(layout.EVALUATE_MEASURED, EvaluateMeasured)
    if report is None or measured is None or measured.merged != report.merged:
        return None, None, None
    candidate = measured.models.get("candidate")
    if candidate is None or not _is_measure(candidate.examples_per_second):
        return None, None, None
    return candidate.examples_per_second, report.thinking, candidate.thought_tokens


def _is_measure(value: float) -> bool:
    """Whether a figure can be scaled from: positive, finite and neither too small nor too large."""
    return 1 / forecast.MOST <= value < forecast.MOST


def took(records: Records, params: ReleaseParams, commit: str, requests: Throughput | None) -> Took:
    """Return the cost of the model of ``commit``; ``requests`` as its signed statement has them."""
    training, devices = _training(records, commit)
    hourly, serving = params.train_budget.hourly_price, params.monitor.cost
    hours = training.seconds / 3600 * devices if training else None
    serving_hourly = None if serving is None else serving.hourly_price * (params.serve.shards or 1)
    return Took(
        training=training,
        training_price=None if hours is None or hourly is None else round(hours * hourly, 6),
        requests=requests,
        price_per_1000_requests=(
            None
            if requests is None or serving_hourly is None
            else round(requests.price(serving_hourly), 6)
        ),
    )


def _training(records: Records, commit: str) -> tuple[TrainMeasured | None, int]:
    """Read the measurements of the training in a commit, and its number of devices."""
    report = records.at(commit).readable(layout.TRAIN_REPORT, TrainReport)
    measured = records.at(commit).readable(layout.TRAIN_MEASURED, TrainMeasured)
    if report is None or measured is None or measured.adapter != report.adapter:
        return None, 1
    return measured, report.devices or 1
