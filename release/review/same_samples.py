"""Metrics of the suites of two records on the samples that both models were asked."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from checks.suite_report import SuiteLine, SuiteResult
from release.review import pairs
from release.review.comparison import Metric
from release.review.pairs import Difference
from release.review.sides import CANDIDATE, Side, at


class _Scale(NamedTuple):
    low: float
    high: float


def metrics(a: Side, b: Side, confidence: float) -> Iterator[Metric]:
    old, new = (side.suites.suites if side.suites else {} for side in (a, b))
    for suite in dict.fromkeys((*new, *old)):
        one, two = old.get(suite), new.get(suite)
        before, after = (each.means.get(CANDIDATE, {}) if each else {} for each in (one, two))
        note = f"{'A' if one is None else 'B'} has no such suite" if one is None or two is None else ""
        lines: list[list[SuiteLine]] = []
        if one is not None and two is not None and not (note := _asked_otherwise(a, b, suite, one, two)):
            had = [side.suite_lines(suite) for side in (a, b)]
            lines = [each for each in had if each is not None]
            note = "" if len(lines) == 2 else "its samples cannot be had"
        for metric in dict.fromkeys((*after, *before)):
            scales = [_scale(side, suite, metric) for side in (a, b)]
            why, found = note, None
            if not why and (scales[0] is None or scales[0] != scales[1]):
                why = "its scales differ"
            elif not why and scales[0] is not None:
                found, why = _of_samples(*lines, metric, scales[0], confidence)
            yield Metric(
                suite=suite, name=metric, a=before.get(metric), b=after.get(metric), difference=found, note=why
            )


def _of_samples(
    old: Sequence[SuiteLine], new: Sequence[SuiteLine], metric: str, scale: _Scale, confidence: float
) -> tuple[Difference | None, str]:
    """The difference on samples that both have, in the metric's own scale; and what is to be said of it."""
    mine, theirs = ([line for line in side if line.metric == metric] for side in (old, new))
    one, two = pairs.pair_samples(mine, theirs)
    span = scale.high - scale.low
    found = pairs.difference(
        [(line.value - scale.low) / span for line in one], [(line.value - scale.low) / span for line in two],
        pairs.together([line.group for line in one], [line.group for line in two]), confidence,
    )  # fmt: skip
    if found is None:
        return None, "no sample is in both" if not two else "a value is outside its scale"
    alone = [f"{len(side) - len(two)} samples only in {name}" for name, side in (("A", mine), ("B", theirs))]
    said = "; ".join(text for text in alone if not text.startswith("0 "))
    return found.model_copy(update={name: getattr(found, name) * span for name in ("value", "low", "high")}), said


def _asked_otherwise(a: Side, b: Side, suite: str, one: SuiteResult, two: SuiteResult) -> str:
    """Why scores of the two sides in ``suite`` are not of one kind; empty: they are."""
    if (one.kind, one.source) != (two.kind, two.source):
        return "another kind of suite"
    judges = [_unpinned(at(side.document, "suites", suite, "judge")) for side in (a, b)]
    return "another judge" if one.judges != two.judges or judges[0] != judges[1] else ""


def _unpinned(value: Any) -> Any:
    """``value`` without its pinned files, which differ from model to model."""
    if not isinstance(value, Mapping):
        return value
    return {key: _unpinned(each) for key, each in value.items() if not (isinstance(each, Mapping) and "sha256" in each)}


def _scale(side: Side, suite: str, metric: str) -> _Scale | None:
    found = at(side.document, "suites", suite, "metrics", metric)
    low, high = at(found, "low"), at(found, "high")
    is_scale = all(isinstance(each, int | float) and not isinstance(each, bool) for each in (low, high)) and low < high
    return _Scale(float(low), float(high)) if is_scale else None
