"""What each release gained on its task and what it changed elsewhere, each beside its own base: values for a picture.

One picture is of one suite that the stage suites asks of candidate and base. Its points are releases. Two releases can
be compared if their test splits, scorers, bases and suites are the same, by digest. A release that differs from the
newest in one of these says so, and no line joins it.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from checks.evaluation.suite_kind import AskedSuite, BoundedSuite
from checks.formats.suite_report import SuiteResult
from checks.rows import Record
from checks.suites import SUITES
from release.review import pairs, same_rows, same_samples
from release.review.sides import Side

_CONFIDENCE = 0.95  # where no evaluation says one


class Far(Record):
    """A difference with its interval; None: the scores of single rows are not here."""

    value: float
    low: float | None
    high: float | None


class Point(Record):
    """One release. ``gain``: on the test rows; ``change``: in the suite; both are its own less its base's.

    ``why``: in what it differs from the newest, so that the two cannot be compared; empty: they can.
    """

    version: str
    file: str
    gain: Far
    change: Far
    why: str


class Trade(Record):
    """The releases by one suite's first metric, the newest first. ``less``: whether less of the metric is better."""

    suite: str
    metric: str
    less: bool
    task: str  # the first metric of the test rows
    points: tuple[Point, ...]


class Candidate(NamedTuple):
    """A release with a page."""

    version: str
    file: str
    side: Side


def of(found: Sequence[Candidate]) -> Iterator[Trade]:
    """A picture for each suite that a release has, the newest release first in ``found``."""
    names = dict.fromkeys(name for each in found for name in (each.side.suites.suites if each.side.suites else ()))
    for name in names:
        known = [(each, its) for each in found if (its := _suite(each.side, name)) and _gain(each.side)]
        if known:
            yield _trade(name, known)


def _trade(name: str, known: Sequence[tuple[Candidate, SuiteResult]]) -> Trade:
    (newest, suite), *_ = known
    kind = SUITES.kinds[suite.kind]
    metric = next(iter(suite.means["candidate"]))
    points = []
    for each, its in known:
        gain, change = _gain(each.side), _change(each.side, name, its, metric)
        if gain and change:
            why = "; ".join(_otherwise(newest.side, each.side, suite, its))
            points.append(Point(version=each.version, file=each.file, gain=gain, change=change, why=why))
    return Trade(
        suite=name, metric=metric, less=not issubclass(kind, BoundedSuite), task=_first(newest.side),
        points=tuple(points),
    )  # fmt: skip


def _suite(side: Side, name: str) -> SuiteResult | None:
    """A suite that says what a model can do, if the stage asked candidate and base."""
    found = side.suites.suites.get(name) if side.suites else None
    kind = SUITES.kinds.get(found.kind) if found else None
    if found is None or kind is None or not (issubclass(kind, AskedSuite) and kind.ability):
        return None
    both = {"candidate", "base"}
    return found if both <= found.means.keys() & found.models.keys() and found.means["candidate"] else None


def _first(side: Side) -> str:
    return next(iter(side.candidate.metrics), "") if side.candidate else ""


def _gain(side: Side) -> Far | None:
    """On the test rows, by the first metric; None: the base was not asked."""
    evaluation, metric = side.evaluation, _first(side)
    base = evaluation.models.get("base") if evaluation else None
    if evaluation is None or side.candidate is None or base is None or metric not in base.metrics:
        return None
    ours, theirs = side.answers, side.answers_of("base")
    if ours is not None and theirs is not None:
        paired = pairs.pair(theirs, ours)
        if found := same_rows.difference(paired, range(len(paired.new)), metric, evaluation.confidence):
            return Far(value=found.value, low=found.low, high=found.high)
    return Far(value=side.candidate.metrics[metric].value - base.metrics[metric].value, low=None, high=None)


def _change(side: Side, name: str, suite: SuiteResult, metric: str) -> Far | None:
    """In the suite, by its first metric; None: it has another."""
    ours, theirs = (suite.means[role].get(metric) for role in ("candidate", "base"))
    if ours is None or theirs is None:
        return None
    confidence = side.evaluation.confidence if side.evaluation else _CONFIDENCE
    if found := same_samples.against_base(side, name, metric, confidence):
        return Far(value=found.value, low=found.low, high=found.high)
    return Far(value=ours - theirs, low=None, high=None)


def _otherwise(newest: Side, side: Side, suite: SuiteResult, its: SuiteResult) -> Iterator[str]:
    """In what the two cannot be compared."""
    one, two = newest.evaluation, side.evaluation
    assert one is not None  # both have a gain
    assert two is not None
    for what, a, b in (
        ("another test split", one.test, two.test),
        ("other scorers", (one.scorers, _first(newest)), (two.scorers, _first(side))),
        ("another base", (one.base, suite.models["base"]), (two.base, its.models["base"])),
        ("another prompt of the base", one.base_prompt, two.base_prompt),
        ("another suite", (suite.kind, suite.asked), (its.kind, its.asked)),
    ):
        if a != b:
            yield what
