"""Compares how two models were made: their sources and splits, and what training took."""

from collections.abc import Iterator

from checks.formats.data_reports import FetchReport, PrepareReport
from checks.formats.report import Fetched
from release.review.comparison import Changed, Cost
from release.review.sides import Side

_RECORDED = "recorded"  # A value that one side alone has.


def data(a: Side, b: Side) -> tuple[tuple[Changed, ...], tuple[str, ...]]:
    """Return what differs in the sources and splits, and the names of what is the same."""
    changes, same = list[Changed](), list[str]()
    sides = [_of_data(side.fetch, side.prepare) for side in (a, b)]
    for part in dict.fromkeys((*sides[1], *sides[0])):
        old, new = (side.get(part) for side in sides)
        if old is None or new is None:
            changes.append(
                Changed(what=part, a=_RECORDED if old else None, b=_RECORDED if new else None)
            )
            continue
        lines = [
            Changed(what=f"{part}: {what}", a=old.get(what), b=new.get(what))
            for what in dict.fromkeys((*new, *old))
            if old.get(what) != new.get(what)
        ]
        changes += lines
        same += [part] if not lines else []
    return tuple(changes), tuple(same)


def _of_data(
    fetch: FetchReport | None, prepare: PrepareReport | None
) -> dict[str, dict[str, str | None]]:
    values = dict[str, dict[str, str | None]]()
    if fetch is not None:
        values |= {"base model": _source(fetch.base), "raw data": _source(fetch.data)}
        values |= {f"source {name}": _source(source) for name, source in fetch.sources.items()}
    if prepare is not None:
        rows: dict[str, str | None] = {
            "read": f"{prepare.input_rows:,}", "kept": f"{prepare.kept_rows:,}", "dropped": f"{prepare.dropped_rows:,}",
        }  # fmt: skip
        values["rows"] = rows | {
            f"{rule.kind} {rule.rule}": f"{rule.rows:,}" for rule in prepare.rules if rule.rows
        }
        values |= {
            f"rows of {name}": {
                "read": f"{of_source.read:,}",
                **{what: f"{count:,}" for what, count in of_source.splits.items()},
            }
            for name, of_source in prepare.sources.items()
        }
        values |= {
            f"{name} split": {"rows": f"{split.rows:,}", "groups": f"{split.groups:,}", "digest": split.sha256}
            for name, split in prepare.splits.items()
        }  # fmt: skip
    return values


def _source(fetched: Fetched) -> dict[str, str | None]:
    return {
        "address": fetched.uri, "digest": fetched.digest, "bytes": f"{fetched.size:,}", "files": f"{fetched.files:,}",
        "licence": fetched.license, "declared licence": fetched.declared,
    }  # fmt: skip


def costs(a: Side, b: Side, notes: list[str]) -> Iterator[Cost]:
    for what, unit, field in (
        ("training tokens", "tokens", "tokens"), ("training rows", "rows", "rows"), ("steps", "steps", "steps"),
        ("epochs", "epochs", "epochs"), ("trained parameters", "parameters", "trainable_parameters"),
        ("all parameters", "parameters", "total_parameters"),
    ):  # fmt: skip
        one, two = (getattr(side.train, field) if side.train else None for side in (a, b))
        if one is not None or two is not None:
            yield Cost(what=what, unit=unit, a=one, b=two)
    sizes = [
        sum(file.size for file in side.parity.files.values()) if side.parity else None
        for side in (a, b)
    ]
    if sizes != [None, None]:
        yield Cost(what="weights", unit="bytes", a=sizes[0], b=sizes[1])
    if a.took is None or b.took is None:
        return
    if a.took.device == b.took.device:
        yield Cost(
            what=f"training time on {a.took.device}",
            unit="seconds",
            a=a.took.seconds,
            b=b.took.seconds,
        )
        one, two = a.took.energy, b.took.energy
        if one and two and one.watt_hours and two.watt_hours and one.of == two.of:
            yield Cost(
                what=f"training energy of {one.of}", unit="joules", a=one.joules, b=two.joules
            )
    else:
        notes.append(
            f"training times are not compared: {a.letter} on {a.took.device}, {b.letter} on {b.took.device}"
        )
