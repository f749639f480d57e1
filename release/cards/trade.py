"""Gathers what each release gained on its task and changed elsewhere, beside its own base: values for a picture.

One picture is of one suite that the stage suites asks of candidate and base. Its points are releases. Two releases can
be compared if their test splits, scorers, bases and suites are the same, by digest. A release that differs from the
newest in one of these says so, and no line joins it.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from checks.formats.suite_report import SuiteResult
from checks.kinds.suite import SUITES, AskedSuite, BoundedSuite
from checks.records.rows import Record
from release.review import same_rows, same_samples
from release.review.sides import Side


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


def of(candidates: Sequence[Candidate]) -> Iterator[Trade]:
    """A picture for each suite that a release has, the newest release first in ``candidates``."""
    reports = [candidate.side.suites for candidate in candidates if candidate.side.suites]
    for name in dict.fromkeys(name for report in reports for name in report.suites):
        known = [
            (candidate, suite)
            for candidate in candidates
            if (suite := _suite(candidate.side, name)) and _gain(candidate.side)
        ]
        if known:
            yield _trade(name, known)


def _trade(name: str, known: Sequence[tuple[Candidate, SuiteResult]]) -> Trade:
    (newest, suite), *_ = known
    kind = SUITES.kinds[suite.kind]
    metric = next(iter(suite.means["candidate"]))
    points = []
    for candidate, asked in known:
        gain, change = _gain(candidate.side), _change(candidate.side, name, asked, metric)
        if gain and change:
            points.append(
                Point(
                    version=candidate.version,
                    file=candidate.file,
                    gain=gain,
                    change=change,
                    why="; ".join(_otherwise(newest.side, candidate.side, suite, asked)),
                )
            )
    return Trade(
        suite=name, metric=metric, less=not issubclass(kind, BoundedSuite), task=_first(newest.side),
        points=tuple(points),
    )  # fmt: skip


def _suite(side: Side, name: str) -> SuiteResult | None:
    """A suite that says what a model can do, if the stage asked candidate and base."""
    suite = side.suites.suites.get(name) if side.suites else None
    kind = SUITES.kinds.get(suite.kind) if suite else None
    if suite is None or kind is None or not (issubclass(kind, AskedSuite) and kind.ability):
        return None
    both = {"candidate", "base"}
    return (
        suite
        if both <= suite.means.keys() & suite.models.keys() and suite.means["candidate"]
        else None
    )


def _first(side: Side) -> str:
    return next(iter(side.candidate.metrics), "") if side.candidate else ""


def _gain(side: Side) -> Far | None:
    """On the test rows, by the first metric; None: the base was not asked."""
    evaluation, metric = side.evaluation, _first(side)
    base = evaluation.models.get("base") if evaluation else None
    if evaluation is None or side.candidate is None or base is None or metric not in base.metrics:
        return None
    if difference := same_rows.against(side, "base", metric):
        return Far(value=difference.value, low=difference.low, high=difference.high)
    return Far(
        value=side.candidate.metrics[metric].value - base.metrics[metric].value, low=None, high=None
    )


def _change(side: Side, name: str, suite: SuiteResult, metric: str) -> Far | None:
    """In the suite, by its first metric; None: it has another."""
    ours, theirs = (suite.means[role].get(metric) for role in ("candidate", "base"))
    if ours is None or theirs is None:
        return None
    if difference := same_samples.against_base(side, name, metric):
        return Far(value=difference.value, low=difference.low, high=difference.high)
    return Far(value=ours - theirs, low=None, high=None)


def _otherwise(newest: Side, side: Side, suite: SuiteResult, other: SuiteResult) -> Iterator[str]:
    """In what the two cannot be compared."""
    one, two = newest.evaluation, side.evaluation
    assert one is not None  # both have a gain
    assert two is not None
    for what, a, b in (
        ("another test split", one.test, two.test),
        ("other scorers", (one.scorers, _first(newest)), (two.scorers, _first(side))),
        ("another base", (one.base, suite.models["base"]), (two.base, other.models["base"])),
        ("another prompt of the base", one.base_prompt, two.base_prompt),
        ("another suite", (suite.kind, suite.asked), (other.kind, other.asked)),
    ):
        if a != b:
            yield what
