"""Which texts are near-duplicates: exact Jaccard similarity of their sets of character shingles, for millions of texts.

Nothing is left to chance: ``similarity_join`` drops only pairs that cannot be similar, and measures every other one.

Where many texts are alike, there are as many similar pairs as the square of the texts. But only the groups matter. So
neighbours in the lists of texts with one shingle are measured first. After that no pair is measured whose texts are
connected already, and lists whose texts are mostly connected are searched for pairs of different groups alone.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Never

import numpy as np
from tqdm import tqdm

from checks.data.shingles import Ints, Mask
from checks.data.similar import normalised
from checks.data.similarity_join import Join

_WAITING = 1 << 17  # pairs that passed the filters until they are measured
# The number of texts that are searched first, and the factor by which each next search is larger.
_FIRST = 16
_TIMES = 16


def groups(
    texts: Sequence[str], size: int, similarity: float, also: Iterable[tuple[int, int]] = ()
) -> list[int]:
    """For each text the first one of its group: texts connected by pairs of at least ``similarity``, or by ``also``.

    ``size``: characters of a shingle. ``similarity``: Jaccard similarity, in (0, 1].
    """
    plain = [normalised(text) for text in texts]
    distinct = _ordered(plain)
    number = {text: index for index, text in enumerate(distinct)}
    group = _connected(Join(distinct, size, similarity), len(distinct))
    group = group[np.fromiter((number[text] for text in plain), np.int64, len(plain))]
    one, other = np.array([*also], np.int64).reshape(-1, 2).T
    first: list[int] = _first(_united(group, one, other)).tolist()
    return first


def first_alike(
    texts: Sequence[str], others: Sequence[str], size: int, similarity: float
) -> Iterator[tuple[int, int]]:
    """For each of ``texts`` with at least ``similarity`` to one of ``others``: its index, and the first such index."""
    asked = [normalised(text) for text in texts]
    known: dict[str, int] = {}
    for index, text in enumerate(others):
        known.setdefault(normalised(text), index)
    distinct = _ordered([*asked, *known])
    none = len(others)
    index_of = np.fromiter((known.get(text, none) for text in distinct), np.int64, len(distinct))
    number = {text: index for index, text in enumerate(distinct)}
    own = np.fromiter((number[text] for text in asked), np.int64, len(asked))
    best = _first_indices(Join(distinct, size, similarity), own, index_of, none)[own]
    yield from ((place, index) for place, index in enumerate(best.tolist()) if index < none)


def connected(
    texts: Sequence[str], others: Sequence[str], size: int, similarity: float
) -> tuple[list[int], list[int]]:
    """The group of each of ``texts`` and of ``others``, which pairs of one and the other connect.

    Two of ``texts``, or two of ``others``, are of one group if they are equal, or connected by such pairs.
    """
    one, other = ([normalised(text) for text in side] for side in (texts, others))
    distinct = _ordered([*one, *other])
    number = {text: index for index, text in enumerate(distinct)}
    ones, them = (
        np.fromiter((number[text] for text in side), np.int64, len(side)) for side in (one, other)
    )
    join, group = Join(distinct, size, similarity), np.arange(len(distinct))

    def unite(some: Ints, alike: Ints) -> None:
        nonlocal group
        group = _united_if_similar(join, group, some, alike)

    waiting = _Waiting(unite)
    places = np.flatnonzero(np.isin(join.text, them))
    searched = join.side(places)
    for entries in join.blocks():
        asked = entries[np.isin(join.text[entries], ones)]
        for some, alike in join.candidates(asked, places, searched):
            waiting.add(some, alike, group[some] != group[alike])
    waiting.measure()
    return group[ones].tolist(), group[them].tolist()


def _ordered(texts: Iterable[str]) -> list[str]:
    """Distinct texts by length, and those of one length side by side with those that begin alike."""
    return sorted(sorted(set(texts)), key=len)


def _united(group: Ints, one: Ints, other: Ints) -> Ints:
    """The number of each item's group where the items ``one`` and ``other`` are connected too."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    edges = (np.ones(len(one), np.int8), (group[one], group[other]))
    component: Ints = connected_components(
        coo_array(edges, shape=(len(group),) * 2), directed=False
    )[1]
    return component[group]


def _united_if_similar(join: Join, group: Ints, one: Ints, other: Ints) -> Ints:
    apart = group[one] != group[other]
    one, other = one[apart], other[apart]
    close = join.similar(one, other)
    return _united(group, one[close], other[close]) if close.any() else group


def _first(group: Ints) -> Ints:
    """For each item the first item of its group."""
    _, first, place = np.unique(group, return_index=True, return_inverse=True)
    firsts: Ints = first[place]
    return firsts


def _connected(join: Join, count: int) -> Ints:
    """The number of each text's group."""
    group = np.arange(count)

    def unite(one: Ints, other: Ints) -> None:
        nonlocal group
        group = _united_if_similar(join, group, one, other)

    waiting = _Waiting(unite)
    every = join.side(slice(None))
    with _bar("near-duplicates: neighbours", len(join)) as bar:
        for entries in join.blocks():
            at = entries[(entries > 0) & (join.list_of(entries) == join.list_of(entries - 1))]
            for one, other in join.passing(join.side(at), at - 1, at, every):
                waiting.add(one, other, group[one] != group[other])
            bar.update(len(entries))
    waiting.measure()
    grouped = join.of_one_group(group)
    # Only these entries can have the smaller set of a pair.
    least = np.flatnonzero(every.size <= every.limit)
    smaller = join.side(least)
    with _bar("near-duplicates", len(join)) as bar:
        for entries in join.blocks():
            asked = entries[~grouped[entries]]
            for one, other in join.candidates(asked, least, smaller, before=True):
                waiting.add(one, other, group[one] != group[other])
            bar.update(len(entries))
    at = np.flatnonzero(grouped)
    at = at[np.lexsort((group[join.text[at]], join.list_of(at)))]
    lists, groups_at = join.list_of(at), group[join.text[at]]
    new_list = np.append(True, lists[1:] != lists[:-1])
    starts, runs = (
        np.maximum.accumulate(np.where(new, np.arange(len(at)), 0))
        for new in (
            new_list[: len(at)],
            (new_list | np.append(True, groups_at[1:] != groups_at[:-1]))[: len(at)],
        )
    )
    members = join.side(at)
    for one, other in join.passing(members, starts, runs, members):
        waiting.add(one, other, group[one] != group[other])
    waiting.measure()
    return group


def _first_indices(join: Join, wanted: Ints, index_of: Ints, none: int) -> Ints:
    """For each of the texts ``wanted`` the lowest index of a similar text; ``none`` is no index."""
    best = np.full(len(index_of), -1)
    best[wanted] = index_of[wanted]  # a text is similar to itself

    def improve(one: Ints, other: Ints) -> None:
        better = index_of[other] < best[one]
        one, other = one[better], other[better]
        close = join.similar(one, other)
        np.minimum.at(best, one[close], index_of[other[close]])

    waiting = _Waiting(improve)
    low, high = 0, _FIRST
    with _bar("near-duplicates of other splits", none) as bar:
        while low < none:
            places = np.flatnonzero(((index_of >= low) & (index_of < high))[join.text])
            searched = join.side(places)
            for entries in join.blocks():
                asked = entries[best[join.text[entries]] >= low]
                for one, other in join.candidates(asked, places, searched):
                    waiting.add(one, other, index_of[other] < best[one])
            waiting.measure()
            bar.update(min(high, none) - low)
            low, high = high, high * _TIMES
    return best


def _bar(what: str, total: int) -> "tqdm[Never]":
    return tqdm(desc=what, total=total, unit_scale=True, mininterval=1, delay=1, leave=False)


class _Waiting:
    """Pairs that passed the filters, until there are enough to measure them together."""

    def __init__(self, measure: Callable[[Ints, Ints], None]) -> None:
        self._measure = measure
        self._pairs: list[Ints] = []
        self._count = 0

    def add(self, one: Ints, other: Ints, needed: Mask) -> None:
        """Pairs, of which those ``needed`` are measured some time."""
        if needed.any():
            self._pairs.append(np.stack([one[needed], other[needed]]))
            self._count += int(needed.sum())
        if self._count >= _WAITING:
            self.measure()

    def measure(self) -> None:
        """Measure all that wait."""
        if self._pairs:
            one, other = np.unique(np.concatenate(self._pairs, axis=1), axis=1)
            self._pairs, self._count = [], 0
            self._measure(one, other)
