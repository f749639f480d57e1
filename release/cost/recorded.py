"""What a released model took: its training, as its record has it, and 1,000 requests, as a verifier measured them.

Prices are those of the work tree's params.yaml: ``train_budget.hourly_price`` and ``monitor.cost.hourly_price``.
"""

from pydantic import ValidationError

from checks import layout
from checks.config.params import Params
from checks.errors import EvidenceRefused
from checks.formats.serving import Throughput
from checks.formats.training_reports import TrainMeasured, TrainReport
from checks.rows import Record
from release.record.records import Records


class Took(Record):
    """What is not known is None. Energy is part of ``training`` and ``requests``."""

    training: TrainMeasured | None
    training_price: float | None
    requests: Throughput | None
    price_per_1000_requests: float | None


def took(records: Records, params: Params, commit: str, requests: Throughput | None) -> Took:
    """What the model of ``commit`` took; ``requests`` as its signed statement has them."""
    training, devices = _training(records, commit)
    hourly, cost = params.train_budget.hourly_price, params.monitor.cost
    hours = training.seconds / 3600 * devices if training else None
    each = None if cost is None else cost.hourly_price * (params.serve.shards or 1)
    return Took(
        training=training,
        training_price=None if hours is None or hourly is None else round(hours * hourly, 6),
        requests=requests,
        price_per_1000_requests=None if requests is None or each is None else round(requests.price(each), 6),
    )


def _training(records: Records, commit: str) -> tuple[TrainMeasured | None, int]:
    """What was measured of the training in a commit, and its devices."""
    try:
        report = records.at(commit).report(layout.TRAIN_REPORT, TrainReport)
        found = records.at(commit).report(layout.TRAIN_MEASURED, TrainMeasured)
    except (EvidenceRefused, ValidationError):
        return None, 1
    about = report is not None and found is not None and found.adapter == report.adapter
    return (found if about else None), (report.devices or 1) if report else 1
