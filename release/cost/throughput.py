"""A lower bound on the training time on a GPU without a record, from published rates (throughput.yaml)."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from checks import plain_yaml
from checks.rows import Record
from checks.training import cost
from release.cost import training_ahead, training_record
from release.cost.training_ahead import Ahead
from release.cost.types import Unscalable
from release.record.records import Records

_TABLE = Path(__file__).with_suffix(".yaml")


class Rate(Record):
    """A published training rate. ``device``: part of the GPU's name. ``source``: the publication."""

    device: str
    operations_per_second: float
    source: str


def known() -> tuple[Rate, ...]:
    """All rates of throughput.yaml."""
    return tuple(Rate.model_validate(each) for each in plain_yaml.load(_TABLE.read_text(encoding="utf-8")))


def fastest(records: Records, ahead: Sequence[Ahead], device: str, places: Mapping[str, str]) -> str:
    """One sentence: the minutes of the steps ``ahead`` on ``device`` at the fastest published rate.

    The number of tokens per row comes from a record of any device.
    """
    rate = next((each for each in known() if each.device.lower() in device.lower()), None)
    if rate is None:
        return f"{_TABLE.name} has no published rate for {device}"
    for name, commit in places.items():
        with suppress(Unscalable):
            recorded = training_record.read(records.at(commit), name)
            operations = 0.0
            for number, one in enumerate(ahead):
                like = recorded.like(one.params.method, number)
                old, new = training_ahead.pair(records.root, one, like)
                if like.report.tokens is None:
                    break
                longer = new.row_bytes / old.row_bytes if new.row_bytes and old.row_bytes else 1
                operations += like.report.tokens * new.row_passes / old.row_passes * longer * new.flops_per_token
            else:
                minutes = cost.shown(operations / rate.operations_per_second / 60)
                return f"at least {minutes} min on {device}, by the fastest published rate: {rate.source}"
    return f"the published rate of {device} cannot be used: no record says how many tokens a row has"
