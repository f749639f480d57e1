"""The comparison of two records as values for JSON, as Markdown for a terminal, and as one page of HTML.

A is the earlier side and B the later: a difference is B minus A, and a parameter goes from A's value to B's. Nothing in
it decides anything.
"""

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple

from checks.formats.evaluation_reports import Interval
from checks.formats.report import Count
from checks.formats.verdict import Status
from checks.records.record import Digest
from checks.records.rows import Record
from checks.stats.paired import Difference
from release.pages import html, templates
from release.pages.bars import Bar, Line
from release.pages.figures import signed

SECTIONS = ("metrics", "slices", "parameters", "data", "cost")
_FIRST_ANSWERS = 5
_FEW = 20  # rows of a slice below which its interval says next to nothing
_ALWAYS = 12  # slices that a page draws although they have few rows
Right = Literal["A", "B", "both", "neither", "A closer", "B closer", "unknown", "alike"]
# What a reader looks for first: what was lost, what was gained, then the rest.
ORDER: tuple[Right, ...] = (
    "A", "B", "A closer", "B closer", "neither", "both", "unknown", "alike",
)  # fmt: skip
_WHO: dict[Right, str] = {
    "A": "{a} is right", "B": "{b} is right", "both": "both are right", "neither": "neither is right",
    "A closer": "{a} is closer", "B closer": "{b} is closer", "unknown": "not scored alike",
    "alike": "both give the same wrong answer",
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
    """A slice of the test rows that both answered, by one metric.

    ``margin``: the loss that a gate of B's policy rules out in each slice; None: no gate asks about this slice.
    """

    metric: str
    name: str
    a: float
    b: float
    difference: Difference
    margin: float | None = None


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
    """A row that A and B answer differently, or that B gets wrong. ``right``: who is right by the first paired metric.

    ``closer``: neither score is 1, and that one is higher. ``mistake``: the kind of mistake that B makes; empty if B is
    right, or has no score. ``a`` and ``score_a`` None: there is no A.
    """

    id: str
    slice: str
    prompt: str
    reference: str
    a: str | None
    b: str
    score_a: float | None
    score_b: float | None
    right: Right
    mistake: str = ""

    @property
    def texts(self) -> tuple[str, ...]:
        """Return what is searched."""
        return self.id, self.slice, self.prompt, self.reference, self.a or "", self.b


class Comparison(Record):
    """``rows`` None: no row was paired, for the reason in ``notes``. ``same``: data that do not differ.

    ``tally``: who is right, of all rows that are answered differently; ``answers`` may be a selection of them.
    ``alike``: rows that both get wrong with the same answer.
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
    alike: tuple[Answer, ...] = ()
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


class AnswerFilter(NamedTuple):
    """A filter of a page by one field of an answer: each of its values, with the words for it."""

    field: str
    label: str
    values: dict[str, str]


class Explorer(NamedTuple):
    """The answers that a page lists, of ``total``: no more of them, and no more text, than a phone shows."""

    listed: tuple[Answer, ...]
    total: int
    choices: tuple[AnswerFilter, ...]


def explorer(answers: Sequence[Answer], a: str = "A", b: str = "B") -> Explorer:
    """Return what a page shows of ``answers``. ``a`` and ``b``: what the two sides are called."""
    sizes = itertools.accumulate(
        sum(min(len(text), html.LONGEST) for text in answer.texts)
        for answer in answers[: html.ANSWERS]
    )
    pairs = zip(answers, sizes, strict=False)
    listed = tuple(answer for answer, size in pairs if size <= html.LARGEST)
    rights, slices, mistakes = (
        Counter(getattr(row, field) for row in listed) for field in ("right", "slice", "mistake")
    )
    words = {right: who(right, a, b) for right in rights}
    choices = (
        AnswerFilter("right", "Who is right", {right: f"{words[right]} ({n})" for right, n in rights.items()}),
        AnswerFilter("slice", "Slice", {name: f"{name} ({n})" for name, n in sorted(slices.items())}),
        AnswerFilter(
            "mistake", f"Mistake of {b}", {kind: f"{kind or 'none'} ({n})" for kind, n in mistakes.most_common()}
        ),
    )  # fmt: skip
    return Explorer(
        listed, len(answers), tuple(choice for choice in choices if len(choice.values) > 1)
    )


def dumbbells(slices: Sequence[Slice], a: str, b: str) -> list[tuple[Slice, Bar]]:
    """Return the slices by their first metric, each with its picture on a line from 0 to 1, as scores are.

    A picture has the score of A, that of B with the interval of the difference to A, and A less the gate's margin.
    """
    pictures, line = list[tuple[Slice, Bar]](), Line(0.0, 1.0)
    for part in slices:
        is_drawn = part.difference.n >= _FEW or len(pictures) < _ALWAYS
        if part.metric == slices[0].metric and is_drawn:
            low, high = part.a + part.difference.low, part.a + part.difference.high
            bound = max(0.0, part.a - (part.margin or 0.0))
            is_safe = part.margin is not None and low > bound
            figure = (part.b, max(0.0, low), min(1.0, high))
            pictures.append((part, line.bar(figure, bound, _said(part, a, b), is_safe, part.a)))
    return pictures


def _said(part: Slice, a: str, b: str) -> str:
    value, low, high = (
        signed(figure, "+.3f")
        for figure in (part.difference.value, part.difference.low, part.difference.high)
    )
    margin = "" if part.margin is None else f"; the gate allows a loss of {part.margin:g}"
    return f"{a} {part.a:.3f}, {b} {part.b:.3f}: {value}, from {low} to {high}{margin}"


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
        explorer=explorer((*compared.answers, *compared.alike)), who=who,
        dumbbells=dumbbells(compared.slices, "A", "B"), folded={"slices": "Every figure"},
    )  # fmt: skip


def _markdown(
    compared: Comparison, names: tuple[str, ...], values: dict[str, object]
) -> dict[str, str]:
    values = {"found": compared, "verdict": verdict, "who": who} | values
    return templates.sections("release.review", "comparison.md.jinja", names, values)
