"""What is known of a training on a GPU that has no record: the fastest published rate, from throughput.yaml."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from checks import cost, plain_yaml
from checks.rows import Record
from checks.training import Train
from release.cost import training_ahead, training_record
from release.cost.training_ahead import Ahead
from release.cost.training_record import Unscalable
from release.record.records import Records

_TABLE = Path(__file__).with_suffix(".yaml")


class Rate(Record):
    """``device``: part of the GPU's name. ``source``: who measured it, and where that is published."""

    device: str
    operations_per_second: float
    source: str


def known() -> tuple[Rate, ...]:
    return tuple(Rate.model_validate(each) for each in plain_yaml.load(_TABLE.read_text(encoding="utf-8")))


def fastest(records: Records, ahead: Ahead, train: Train, device: str, places: Mapping[str, str]) -> str:
    """A sentence about the training ``ahead`` on ``device``; the tokens of a row come from a record of any device."""
    rate = next((each for each in known() if each.device.lower() in device.lower()), None)
    if rate is None:
        return f"nobody's figure for {device} is known to {_TABLE.name}"
    for name, commit in places.items():
        with suppress(Unscalable):
            recorded = training_record.read(records.at(commit), name)
            old, new = training_ahead.pair(records.root, ahead, train, recorded)
            if recorded.report.tokens is not None:
                longer = new.row_bytes / old.row_bytes if new.row_bytes and old.row_bytes else 1
                tokens = recorded.report.tokens * new.row_passes / old.row_passes * longer
                minutes = cost.shown(tokens * new.flops_per_token / rate.operations_per_second / 60)
                return f"{minutes} min on {device} at the fastest published rate, in truth longer: {rate.source}"
    return f"no record says how many tokens a row has, to ask the published rate of {device} for"
