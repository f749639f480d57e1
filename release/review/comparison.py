"""The comparison of two records as values for JSON, as Markdown for a terminal, and as one page of HTML.

A is the earlier side and B the later: a difference is B minus A, and a parameter goes from A's value to B's. Nothing in
it decides anything.
"""

from typing import Literal

from checks.formats.evaluation_reports import Interval
from checks.formats.report import Count
from checks.formats.verdict import Status
from checks.records.record import Digest
from checks.records.rows import Record
from checks.stats.paired import Difference
from release.pages import html, templates

SECTIONS = ("metrics", "slices", "parameters", "data", "cost")
_FIRST_ANSWERS = 5
Right = Literal["A", "B", "both", "neither", "A closer", "B closer", "unknown"]
# What a reader looks for first: what was lost, what was gained, then the rest.
ORDER: tuple[Right, ...] = ("A", "B", "A closer", "B closer", "neither", "both", "unknown")
_WHO: dict[Right, str] = {
    "A": "{a} is right", "B": "{b} is right", "both": "both are right", "neither": "neither is right",
    "A closer": "{a} is closer", "B closer": "{b} is closer", "unknown": "not scored alike",
}  # fmt: skip


class SideFacts(Record):
    """Which record a side is. ``commit`` None: the work tree. ``version``, ``image``: as the ledger knows it."""

    name: str
    commit: str | None
    version: str | None
    image: str | None
    model: Digest | None
    test: Digest | None
    rows: Count | None
    verdict: Status | None
    device: str | None


class Rows(Record):
    """Test rows that both answered, that one alone has, and that have one id and another prompt or reference."""

    both: Count
    only_a: Count
    only_b: Count
    other: Count


class Metric(Record):
    """A metric of one suite, or of the test rows (``suite`` None), and ``note``: why its rows are not paired.

    ``a`` and ``b`` are the means that each record has, of all its own rows; of suites they have no interval.
    """

    suite: str | None
    name: str
    a: Interval | float | None
    b: Interval | float | None
    difference: Difference | None
    note: str


class Slice(Record):
    """A slice of the test rows that both answered, by one metric."""

    metric: str
    name: str
    a: float
    b: float
    difference: Difference


class Cost(Record):
    """A cost of a training, or a size of its model."""

    what: str
    unit: str
    a: float | None
    b: float | None


class Changed(Record):
    """A value that differs; a side that lacks it is None."""

    what: str
    a: str | None
    b: str | None


class Answer(Record):
    """A row that A and B answer differently. ``right``: who is right by the first metric whose rows are paired.

    ``closer``: neither score is 1, and that one is higher.
    """

    id: str
    slice: str
    prompt: str
    reference: str
    a: str
    b: str
    score_a: float | None
    score_b: float | None
    right: Right


class Comparison(Record):
    """``rows`` None: no row was paired, for the reason in ``notes``. ``same``: data that do not differ.

    ``tally``: who is right, of all rows that are answered differently; ``answers`` may be a selection of them.
    """

    schema_version: Literal[1] = 1
    headline: str
    a: SideFacts
    b: SideFacts
    confidence: float
    rows: Rows | None
    metrics: tuple[Metric, ...]
    slices: tuple[Slice, ...]
    parameters: tuple[Changed, ...]
    data: tuple[Changed, ...]
    same: tuple[str, ...]
    cost: tuple[Cost, ...]
    tally: dict[Right, Count]
    answers: tuple[Answer, ...]
    notes: tuple[str, ...]


def verdict(difference: Difference, confidence: float) -> Literal["better", "worse", ""]:
    """Whether B is shown to be better or worse than A, the other differences beside it counted; empty: neither."""
    if difference.p_holm > 1 - confidence:
        return ""
    return "better" if (difference.value > 0) is not difference.less_is_better else "worse"


def standing(
    difference: Difference, confidence: float
) -> Literal["better", "worse", "probably better", "probably worse", ""]:
    """As ``verdict``; "probably" where a one-sided test of this difference alone tells the two apart."""
    is_better = (difference.value > 0) is not difference.less_is_better
    probably: Literal["probably better", "probably worse"] = (
        "probably better" if is_better else "probably worse"
    )
    is_probable = difference.p <= 2 * (1 - confidence)
    return verdict(difference, confidence) or (probably if is_probable else "")


def who(right: Right, a: str, b: str) -> str:
    """Say who is right about a row. ``a`` and ``b``: what the two sides are called."""
    return _WHO[right].format(a=a, b=b)


def sections(compared: Comparison, a: str = "A", b: str = "B") -> dict[str, str]:
    """Return the Markdown of each section of a page, by name. ``a`` and ``b``: what the two sides are called."""
    return _markdown(compared, SECTIONS, {"a": a, "b": b, "whole": True})


def text_sections(compared: Comparison, all_answers: bool) -> dict[str, str]:
    """Return the Markdown of each section for a terminal, which shows the largest slices and the first answers."""
    answers = compared.answers if all_answers else compared.answers[:_FIRST_ANSWERS]
    names = ("sides", *SECTIONS, "answers")
    return _markdown(compared, names, {"a": "A", "b": "B", "whole": False, "answers": answers})


def render(compared: Comparison) -> str:
    """Return the page."""
    (sides,) = _markdown(compared, ("sides",), {"a": "A", "b": "B"}).values()
    return html.render(
        "release.review", "comparison.html.jinja", found=compared, sides=sides, sections=sections(compared),
        answers=compared.answers[: html.ANSWERS], who=who,
    )  # fmt: skip


def _markdown(
    compared: Comparison, names: tuple[str, ...], values: dict[str, object]
) -> dict[str, str]:
    values = {"found": compared, "verdict": verdict, "who": who} | values
    return templates.sections("release.review", "comparison.md.jinja", names, values)
