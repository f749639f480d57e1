"""Compares two records in all that both have: scores, parameters, sources and splits, and what training took."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from checks.formats.data_reports import FetchReport, PrepareReport
from checks.formats.report import Fetched
from checks.stats.paired import Difference
from release.pages.figures import signed
from release.review import details, same_rows, same_samples
from release.review.comparison import (
    ORDER,
    Changed,
    Comparison,
    Cost,
    Metric,
    Rows,
    SideFacts,
    standing,
)
from release.review.sides import Side, at

_RECORDED = "recorded"  # A value that one side alone has.
_SENTENCES = {
    "better": "{two} is better than {one}", "worse": "{two} is worse than {one}",
    "probably better": "{two} is probably better than {one}", "probably worse": "{two} is probably worse than {one}",
    "": "No difference between {one} and {two} is shown",
}  # fmt: skip


def compare(a: Side, b: Side) -> Comparison:
    """Compare two records in all that both have."""
    notes = list[str]()
    confidence = (b if b.evaluation else a).confidence
    paired = same_rows.paired_rows(a, b, notes)
    metrics = [
        *same_rows.metrics(a, b, paired, confidence),
        *same_samples.metrics(a, b, confidence),
    ]
    differences = same_rows.corrected([metric.difference for metric in metrics])
    metrics = [
        metric.model_copy(update={"difference": difference})
        for metric, difference in zip(metrics, differences, strict=True)
    ]
    shown = [metric.name for metric in metrics if metric.suite is None and metric.difference]
    parameters = list[Changed]()
    if a.document is not None and b.document is not None:
        parameters += details.differing(a.document, b.document)
    data, same = _data(a, b)
    cost = tuple(costs(a, b, notes))
    facts = _facts(a), _facts(b)
    thinking = b.evaluation.thinking if b.evaluation else None
    answers, alike = (
        same_rows.answers(paired, next(iter(shown), None), thinking) if paired else ([], [])
    )
    gates = at(b.document, "gates")
    tally = Counter(answer.right for answer in answers)
    for side in (a, b):
        if side.outdated:
            more = f" (and {len(side.outdated) - 1} more)" if len(side.outdated) > 1 else ""
            notes.append(
                f"{side.letter}: its reports are of an earlier run than its parameters: {side.outdated[0]}{more}"
            )
    return Comparison(
        headline=headline({a.letter: facts[0], b.letter: facts[1]}, metrics, confidence), a=facts[0], b=facts[1],
        confidence=confidence,
        rows=paired and Rows(
            both=len(paired.new), only_a=paired.only_old, only_b=paired.only_new, other=paired.other
        ),
        metrics=tuple(metrics),
        slices=tuple(part for name in shown if paired for part in same_rows.slices(paired, name, confidence, gates)),
        parameters=tuple(parameters), data=data, same=same, cost=cost,
        tally={right: tally[right] for right in ORDER if tally[right]}, answers=tuple(answers), alike=tuple(alike),
        notes=tuple(dict.fromkeys((*notes, *a.notes, *b.notes))),
    )  # fmt: skip


def _facts(side: Side) -> SideFacts:
    named, evaluation = side.named, side.evaluation
    return SideFacts(
        name=named.name, commit=named.commit, version=named.release.version if named.release else None,
        image=named.release.image if named.release else None, model=evaluation.merged if evaluation else None,
        test=evaluation.test if evaluation else None, rows=evaluation.rows if evaluation else None,
        verdict=side.verdict, device=side.took.device if side.took else None,
    )  # fmt: skip


def headline(sides: Mapping[str, SideFacts], metrics: Sequence[Metric], confidence: float) -> str:
    """One sentence about the first metric whose rows are paired; ``sides``: the earlier and the later, by letter."""
    (one, a), (two, b) = sides.items()
    if a.model is not None and a.model == b.model:
        return f"{one} and {two} are the same model"
    first = next((metric for metric in metrics if metric.difference), None)
    if first is None or first.difference is None:
        missing = [name for name, side in sides.items() if side.model is None]
        why = (
            f"{' and '.join(missing)} {'have' if len(missing) > 1 else 'has'} no evaluation"
            if missing
            else ""
        )
        return f"{one} and {two} are not compared row by row{f': {why}' if why else ''}"
    by, rows = (
        (first.name, "rows") if first.suite is None else (f"{first.suite}: {first.name}", "samples")
    )
    figures = shown(first.difference, first.suite is None)
    sentence = _SENTENCES[standing(first.difference, confidence)].format(one=one, two=two)
    return f"{sentence} by {by}: {figures} on the same {first.difference.n:,} {rows}"


def shown(difference: Difference, is_share: bool) -> str:
    """The difference with its interval; of shares in points."""
    scale, unit, how = (100, " points", "+.1f") if is_share else (1, "", "+.3f")
    value, low, high = (
        signed(scale * figure, how)
        for figure in (difference.value, difference.low, difference.high)
    )
    return f"{value}{unit} ({low} to {high})"


def _data(a: Side, b: Side) -> tuple[tuple[Changed, ...], tuple[str, ...]]:
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
        of_a, of_b = (getattr(side.train, field) if side.train else None for side in (a, b))
        if of_a is not None or of_b is not None:
            yield Cost(what=what, unit=unit, a=of_a, b=of_b)
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
        used_a, used_b = a.took.energy, b.took.energy
        if used_a and used_b and used_a.watt_hours and used_b.watt_hours and used_a.of == used_b.of:
            yield Cost(
                what=f"training energy of {used_a.of}",
                unit="joules",
                a=used_a.joules,
                b=used_b.joules,
            )
    else:
        notes.append(
            f"training times are not compared: {a.letter} on {a.took.device}, {b.letter} on {b.took.device}"
        )
