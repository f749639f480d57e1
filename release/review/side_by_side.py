"""Compares two records in all that both have."""

from collections import Counter
from collections.abc import Mapping, Sequence

from checks.stats.paired import Difference
from release.pages.figures import signed
from release.review import details, making, same_rows, same_samples
from release.review.comparison import ORDER, Changed, Comparison, Metric, Rows, SideFacts, standing
from release.review.sides import Side

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
    data, same = making.data(a, b)
    costs = tuple(making.costs(a, b, notes))
    facts = _facts(a), _facts(b)
    answers = tuple(same_rows.answers(paired, next(iter(shown), None))) if paired else ()
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
        slices=tuple(part for name in shown if paired for part in same_rows.slices(paired, name, confidence)),
        parameters=tuple(parameters), data=data, same=same, cost=costs,
        tally={right: tally[right] for right in ORDER if tally[right]}, answers=answers,
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
