"""Two models on the rows that both answered: which rows these are, and how far the models differ on them.

The statistics are those of the gates (``checks.stats.paired``) at margin 0, from both sides. Nothing here decides
anything.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from checks.formats.suite_report import SuiteLine
from checks.records.rows import Prediction
from checks.stats import multiple
from checks.stats.paired import Difference


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
    groups = together([answer.group for answer in theirs], [answer.group for answer in ours])
    return Pairs(
        theirs,
        ours,
        groups,
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
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not one:
        return np.zeros(0, np.intp)
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
