"""Metrics, slices and answers of two records on the test rows that both models answered.

The statistics are those of the gates (``checks.stats.paired``) at margin 0, from both sides. Nothing here decides
anything.
"""

import re
from collections.abc import Iterator, Sequence, Set
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from checks.formats.suite_report import SuiteLine
from checks.formats.thinking import Thinking, answer_in
from checks.kinds.scorer import SCORERS
from checks.records.rows import Prediction
from checks.stats import multiple
from checks.stats.paired import Difference, two_sided
from checks.storage import layout
from release.review.comparison import ORDER, Answer, Metric, Right, Slice
from release.review.sides import Side, at

_WORD = re.compile(r"\w+")
_READ = 2000  # characters of a text whose words tell the kind of a mistake


class Pairs(NamedTuple):
    """Answers to the same rows, in the order of the new side, and how many rows have no partner.

    ``groups``: the group of each row, from 0. ``other``: rows with the same id and another prompt or reference.
    """

    old: list[Prediction]
    new: list[Prediction]
    groups: NDArray[np.intp]
    only_old: int
    only_new: int
    other: int


def paired_rows(a: Side, b: Side, notes: list[str]) -> Pairs | None:
    """The rows that both answered; None if there are none, and then ``notes`` says why."""
    one, two = a.evaluation, b.evaluation
    for side in (a, b):
        if side.evaluation is not None and side.candidate is None:
            notes.append(f"{side.letter}: its evaluation has no candidate")
        elif side.evaluation is None and not any(
            str(layout.EVALUATION) in note for note in side.notes
        ):
            notes.append(f"{side.letter}: {side.where} has no evaluation")
    if one is None or two is None:
        return None
    if one.prompt_format != two.prompt_format:
        both = f"{a.letter} and {b.letter}"
        notes.append(
            f"{both} were asked in another prompt format: chat template, generation settings or engine differ"
        )
    if one.test != two.test:
        notes.append(
            "the test sets differ: only rows that both have are paired, and the means are of each one's own"
        )
    # Both are read first, so that all that is missing is said at once.
    old, new = (a.answers, b.answers)
    if old is None or new is None:
        return None
    paired = pair(old, new)
    if not paired.new:
        notes.append("no row is in both test sets: nothing is paired")
        return None
    return paired


def metrics(a: Side, b: Side, paired: Pairs | None, confidence: float) -> Iterator[Metric]:
    old, new = (side.candidate.metrics if side.candidate else {} for side in (a, b))
    for name in dict.fromkeys((*new, *old)):
        compared, note = None, ""
        if name not in old or name not in new:
            note = f"{(a if name not in old else b).letter} has no such metric"
        elif paired is None:
            note = "no rows are paired"
        elif not (note := _scored_otherwise(a, b, name)):
            compared = difference(paired, range(len(paired.new)), name, confidence)
            note = "" if compared else "the answers have no such score"
        yield Metric(
            suite=None, name=name, a=old.get(name), b=new.get(name), difference=compared, note=note
        )


def difference(
    paired: Pairs, rows: Sequence[int], metric: str, confidence: float
) -> Difference | None:
    """How far the two sides differ on these rows by ``metric``; None if an answer has no such score."""
    import numpy as np

    one, two = ([side[row].scores.get(metric) for row in rows] for side in (paired.old, paired.new))
    if any(score is None for score in (*one, *two)):
        return None
    groups = np.unique(paired.groups[list(rows)], return_inverse=True)[1]
    return two_sided(
        [s for s in one if s is not None], [s for s in two if s is not None], groups, confidence
    )


def against(side: Side, model: str, metric: str) -> Difference | None:
    """Return how far a side's model differs from another ``model`` of its evaluation. None: answers are missing."""
    ours, theirs = side.answers, side.answers_of(model)
    if side.evaluation is None or ours is None or theirs is None:
        return None
    paired = pair(theirs, ours)
    return difference(paired, range(len(paired.new)), metric, side.evaluation.confidence)


def _scored_otherwise(a: Side, b: Side, metric: str) -> str:
    """Why scores of the two sides by ``metric`` are not of one kind; empty: they are."""
    assert a.evaluation is not None
    assert b.evaluation is not None
    if a.evaluation.scorers == b.evaluation.scorers:
        return ""
    one, two = (at(side.document, "evaluate", "scorers") for side in (a, b))
    if one == two or metric not in SCORERS.kinds or metric in SCORERS.outside:
        return "scored by code of another package, which may differ"
    lists = (scorer if isinstance(scorer, list) else [] for scorer in (one, two))
    ours, theirs = (
        [scorer for scorer in listed if at(scorer, "kind") == metric] for listed in lists
    )
    return "" if ours and ours == theirs else "scored with other settings"


def slices(paired: Pairs, metric: str, confidence: float, gates: Any) -> list[Slice]:
    """Compare each slice by ``metric``. ``gates``: those of the new side's parameters, as plain values."""
    rows = dict[str, list[int]]()
    for number, answer in enumerate(paired.new):
        rows.setdefault(answer.slice, []).append(number)
    named = sorted(rows, key=lambda name: (-len(rows[name]), name))
    differences = corrected([difference(paired, rows[name], metric, confidence) for name in named])
    return [
        Slice(
            metric=metric, name=name, a=_mean(paired.old, rows[name], metric), b=_mean(paired.new, rows[name], metric),
            difference=compared, margin=_margin(gates, metric, compared.n),
        )
        for name, compared in zip(named, differences, strict=True)
        if compared
    ]  # fmt: skip


def _margin(gates: Any, metric: str, rows: int) -> float | None:
    """Return the least loss that a gate rules out in each slice of ``rows`` rows; None: smaller slices are pooled."""
    asked = [gate for gate in (gates or {}).values() if at(gate, "kind") == "slice"]
    margins = [
        gate.get("margin")
        for gate in asked
        if gate.get("metric") == metric and rows >= gate.get("min_rows", 1)
    ]
    return min((margin for margin in margins if margin is not None), default=None)


def _mean(side: Sequence[Prediction], rows: Sequence[int], metric: str) -> float:
    return float(sum(side[row].scores[metric] for row in rows) / len(rows))


def answers(
    paired: Pairs, metric: str | None, thinking: Thinking | None
) -> tuple[list[Answer], list[Answer]]:
    """Return the rows that are answered differently, and those that both get wrong with the same answer.

    ``thinking``: how the new side's model thinks. References may have thoughts, which no answer is compared with.
    """
    changed, alike = list[Answer](), list[Answer]()
    references = _references(paired.new, thinking)
    for one, two in zip(paired.old, paired.new, strict=True):
        answer = _answer(one, two, metric, thinking, references)
        if one.prediction.strip() != two.prediction.strip():
            changed.append(answer)
        elif answer.mistake:
            alike.append(answer.model_copy(update={"right": "alike"}))
    return sorted(changed, key=_place), sorted(alike, key=_place)


def mistakes(ours: Sequence[Prediction], metric: str, thinking: Thinking | None) -> list[Answer]:
    """Return the rows that a model gets wrong by ``metric``, beside no other model. ``thinking`` as for ``answers``."""
    references = _references(ours, thinking)
    rows = (
        _answer(None, answer, metric, thinking, references)
        for answer in ours
        if metric in answer.scores
    )
    return sorted((row for row in rows if row.mistake), key=_place)


def _references(ours: Sequence[Prediction], thinking: Thinking | None) -> set[str]:
    """Return the right answers to all rows, each without its thought."""
    return {answer_in(answer.reference, thinking).strip() for answer in ours}


def _answer(
    one: Prediction | None,
    two: Prediction,
    metric: str | None,
    thinking: Thinking | None,
    references: Set[str],
) -> Answer:
    score_a = one.scores[metric] if one and metric else None
    score_b = two.scores[metric] if metric else None
    is_wrong = score_b is not None and score_b < 1
    return Answer(
        id=two.id, slice=two.slice, prompt=two.prompt, reference=two.reference, a=one.prediction if one else None,
        b=two.prediction, score_a=score_a, score_b=score_b, right=_right(score_a, score_b),
        mistake=mistake(two.prediction, answer_in(two.reference, thinking), references) if is_wrong else "",
    )  # fmt: skip


def _place(answer: Answer) -> tuple[int, str, str]:
    return ORDER.index(answer.right), answer.slice, answer.id


def mistake(prediction: str, reference: str, references: Set[str]) -> str:
    """Return the kind of a wrong answer, by its text alone. ``references``: the right answers to all rows."""
    answered, expected = prediction.strip(), reference.strip()
    words, wanted = (_WORD.findall(text[:_READ].casefold()) for text in (answered, expected))
    shared = len(set(words) & set(wanted))
    kinds = {
        "empty": not answered,
        "other case, spaces or signs": words == wanted,
        "ends too early": expected.startswith(answered),
        "goes on after the right answer": answered.startswith(expected),
        "the right answer to another row": answered in references,
        "the right words in another order": sorted(words) == sorted(wanted),
        "at least half of the words": words[:1] == wanted[:1] and shared * 2 >= len(set(wanted)),
    }
    return next((kind for kind, is_so in kinds.items() if is_so), "another answer")


def _right(a: float | None, b: float | None) -> Right:
    if a is None or b is None:
        return "unknown"
    if a == b:
        return "both" if a == 1 else "neither"
    if a > b:
        return "A" if a == 1 else "A closer"
    return "B" if b == 1 else "B closer"


def pair(old: Sequence[Prediction], new: Sequence[Prediction]) -> Pairs:
    """Match rows by id, which is the digest of the row's content. Prompt and reference must be the same, too."""
    before = {answer.id: answer for answer in old}
    shared = [(before[answer.id], answer) for answer in new if answer.id in before]
    same = [
        (one, two)
        for one, two in shared
        if (one.prompt, one.reference) == (two.prompt, two.reference)
    ]
    ours, theirs = [two for _, two in same], [one for one, _ in same]
    return Pairs(
        theirs,
        ours,
        together([answer.group for answer in theirs], [answer.group for answer in ours]),
        len(old) - len(shared),
        len(new) - len(shared),
        len(shared) - len(same),
    )


def pair_samples(
    old: Sequence[SuiteLine], new: Sequence[SuiteLine]
) -> tuple[list[SuiteLine], list[SuiteLine]]:
    """The scores by one metric of the samples that both have, asked in the same words."""
    before = {(line.sample, line.sample_sha): line for line in old}
    shared = [line for line in new if (line.sample, line.sample_sha) in before]
    return [before[line.sample, line.sample_sha] for line in shared], shared


def together(one: Sequence[str], two: Sequence[str]) -> NDArray[np.intp]:
    """The group of each row, from 0: rows that either side has in one group are in one group."""
    if not one:
        return np.zeros(0, np.intp)
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    left, right = (np.unique(np.asarray(side), return_inverse=True)[1] for side in (one, two))
    right = right + left.max() + 1
    edges = coo_array((np.ones(len(left)), (left, right)), shape=(right.max() + 1, right.max() + 1))
    codes: NDArray[np.intp] = np.unique(
        connected_components(edges, directed=False)[1][left], return_inverse=True
    )[1]
    return codes


def unbounded(
    old: Sequence[float], new: Sequence[float], groups: NDArray[np.intp], confidence: float
) -> Difference:
    """As ``paired.two_sided``, for a measure without bounds of which less is better, such as bits per byte."""
    from checks.stats.paired_mean import MeanDifference

    one, two = np.asarray(old, np.float64), np.asarray(new, np.float64)
    change = MeanDifference.of(two - one, groups)
    error = (1 - confidence) / 2
    p = min(1.0, 2 * min(change.p_at_least(0.0), change.p_at_most(0.0)))
    return Difference(
        value=change.mean, low=change.lower(error), high=change.upper(error), n=change.n, wins=int((two < one).sum()),
        losses=int((two > one).sum()), p=p, p_holm=p, method="t test, with and without Hall's transformation",
        less_is_better=True,
    )  # fmt: skip


def corrected(differences: Sequence[Difference | None]) -> list[Difference | None]:
    """The differences with ``p_holm`` over all of them."""
    adjusted = iter(multiple.holm([difference.p for difference in differences if difference]))
    return [
        difference and difference.model_copy(update={"p_holm": next(adjusted)})
        for difference in differences
    ]
