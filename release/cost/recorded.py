"""The cost of a released model: of its training, as recorded, and of 1,000 requests, as a verifier measured them.

Prices are those of the work tree's params.yaml: ``train_budget.hourly_price`` and ``monitor.cost.hourly_price``.
"""

from pydantic import ValidationError

from checks.config.params import ReleaseParams
from checks.formats.serving import Throughput
from checks.formats.training_reports import TrainMeasured, TrainReport
from checks.process.errors import EvidenceRefused
from checks.records.rows import Record
from checks.storage import layout
from release.record.records import Records


class Took(Record):
    """The cost of a released model. A figure that is not known is None. ``training`` and ``requests`` have energy."""

    training: TrainMeasured | None
    training_price: float | None
    requests: Throughput | None
    price_per_1000_requests: float | None


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
    try:
        report = records.at(commit).report(layout.TRAIN_REPORT, TrainReport)
        measured = records.at(commit).report(layout.TRAIN_MEASURED, TrainMeasured)
    except (EvidenceRefused, ValidationError):
        return None, 1
    if report is None or measured is None or measured.adapter != report.adapter:
        return None, 1
    return measured, report.devices or 1
