"""Metrics of the suites of two records on the samples that both models were asked."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from checks.formats.suite_report import Scale, SuiteLine, SuiteResult
from checks.kinds.suite import SUITES, ScaledSuite
from checks.stats.paired import Difference, two_sided
from release.review import kept_abilities, same_rows
from release.review.comparison import Metric
from release.review.sides import Side, at


def metrics(a: Side, b: Side, confidence: float) -> Iterator[Metric]:
    """Every metric of every suite; ``note`` says why its samples are not paired, or how many have no partner."""
    old, new = (side.suites.suites if side.suites else {} for side in (a, b))
    for suite in dict.fromkeys((*new, *old)):
        one, two = old.get(suite), new.get(suite)
        before, after = (
            result.means.get("candidate") or {} if result else {} for result in (one, two)
        )
        if one is None or two is None:
            note = f"{(a if one is None else b).letter} has no such suite"
        else:
            note = _asked_otherwise(a, b, suite, one, two)
        bounded = two is None or kept_abilities.is_bounded(two.kind)
        mine, theirs = (None, None) if note else (a.suite_lines(suite), b.suite_lines(suite))
        for metric in dict.fromkeys((*after, *before)):
            compared, why = None, note
            if not why:
                scales = (
                    (_scale(a.document, suite, metric), _scale(b.document, suite, metric))
                    if bounded
                    else None
                )
                compared, why = _of_samples(
                    (a.letter, b.letter), mine, theirs, metric, scales, confidence
                )
            yield Metric(
                suite=suite,
                name=metric,
                a=before.get(metric),
                b=after.get(metric),
                difference=compared,
                note=why,
            )


def against_base(side: Side, suite: str, metric: str) -> Difference | None:
    """How far a side's model differs from its base in a suite; None: their samples cannot be had."""
    if side.suites is None:
        return None
    kind = side.suites.suites[suite].kind
    base = side.suite_lines(suite, "base")
    lines = side.suite_lines(suite)
    return difference(side.document, suite, kind, metric, base, lines, side.confidence)


def difference(
    document: Mapping[str, Any] | None,
    suite: str,
    kind: str,
    metric: str,
    old: Sequence[SuiteLine] | None,
    new: Sequence[SuiteLine] | None,
    confidence: float,
) -> Difference | None:
    """How far the model of the lines ``new`` is from that of ``old`` in a suite of the parameters ``document``.

    None: there is no sample that both were asked, or the metric's scale is not known.
    """
    scale = _scale(document, suite, metric) if kept_abilities.is_bounded(kind) else None
    scales = (scale, scale) if kept_abilities.is_bounded(kind) else None
    return _of_samples(("one", "the other"), old, new, metric, scales, confidence)[0]


def _of_samples(
    letters: tuple[str, str],
    old: Sequence[SuiteLine] | None,
    new: Sequence[SuiteLine] | None,
    metric: str,
    scales: tuple[Scale | None, Scale | None] | None,
    confidence: float,
) -> tuple[Difference | None, str]:
    """The difference on samples that both have, in the metric's own scale; and what is to be said of it.

    ``scales``: of both sides; None: the metric is a loss, which has none, and less is better.
    """
    if old is None or new is None:
        return None, "its samples cannot be had"
    mine, theirs = ([line for line in side if line.metric == metric] for side in (old, new))
    one, two = same_rows.pair_samples(mine, theirs)
    if not two:
        return None, "no sample is in both"
    groups = same_rows.together([line.group for line in one], [line.group for line in two])
    before, after = ([line.value for line in side] for side in (one, two))
    alone = [
        f"{len(side) - len(two)} samples only in {name}"
        for name, side in zip(letters, (mine, theirs), strict=True)
    ]
    unpaired = "; ".join(text for text in alone if not text.startswith("0 "))
    if scales is None:
        return same_rows.unbounded(before, after, groups, confidence), unpaired
    scale, other = scales
    if scale is None or other is None or (scale.low, scale.high) != (other.low, other.high):
        return None, "its scales differ"
    low, span = scale.low, scale.high - scale.low
    compared = two_sided(
        [(v - low) / span for v in before], [(v - low) / span for v in after], groups, confidence
    )
    if compared is None:
        return None, "a value is outside its scale"
    return compared.model_copy(
        update={name: getattr(compared, name) * span for name in ("value", "low", "high")}
    ), unpaired


def _asked_otherwise(a: Side, b: Side, suite: str, one: SuiteResult, two: SuiteResult) -> str:
    """Why scores of the two sides in ``suite`` are not of one kind; empty: they are."""
    if (one.kind, one.source) != (two.kind, two.source):
        return "another kind of suite"
    keys = (("scorers",), ("unanswerable", "abstains"))
    scorers = [[at(side.document, "suites", suite, *key) for key in keys] for side in (a, b)]
    if scorers[0] != scorers[1]:
        return "other scorers"
    if two.compared is not None:
        return f"it compares answers with those of {two.compared.against}: see its gates"
    judges = [_unpinned(at(side.document, "suites", suite, "judge")) for side in (a, b)]
    return "another judge" if one.judges != two.judges or judges[0] != judges[1] else ""


def _unpinned(value: Any) -> Any:
    """``value`` without its pinned files, which differ from model to model."""
    if not isinstance(value, Mapping):
        return value
    return {
        key: _unpinned(entry)
        for key, entry in value.items()
        if not (isinstance(entry, Mapping) and "sha256" in entry)
    }


def _scale(document: Mapping[str, Any] | None, suite: str, metric: str) -> Scale | None:
    kind = SUITES.kinds.get(str(at(document, "suites", suite, "kind")))
    if kind is not None and not issubclass(kind, ScaledSuite):
        return Scale(low=0.0, high=1.0)  # a share, by a scorer
    try:
        return Scale.model_validate(at(document, "suites", suite, "metrics", metric))
    except ValidationError:
        return None
