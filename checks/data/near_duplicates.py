"""Which texts are near-duplicates: exact Jaccard similarity of their sets of character shingles.

Shingles are numbered from the rarest to the commonest. Two similar sets share many of their rarest shingles (prefix
filter: Chaudhuri, Ganti and Kaushik, 2006), so a product of sparse matrices of the rarest shingles alone finds every
pair that may be similar. Only those pairs are measured. A pair is left out if other pairs have put its two texts into
one group already. Neighbours in alphabetical order are measured first, because they put most texts of a large group
together.
"""

import math
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from checks.data.similar import normalised

_SLACK = 1e-9  # The threshold is this much below ``similarity``, because a division rounds.
_ROUNDING = 1e-6  # A bound may be wrong by this many shingles.
# The width of a class of sizes, as a logarithm. A wide class has longer prefixes, and a narrow one costs a product.
_CLASS = 0.2
_WIDE = 0.8  # The same for few texts.
_FEW = 20_000
_AT_ONCE = 1 << 22  # The most cells of a product, or shingles of pairs, that are measured together.
# A crowd has more texts than the first number, and more than all texts divided by the second one.
_CROWD = 1_000
_CROWDS = 100
# The number of texts that are searched first, and the factor by which each next search is larger.
_FIRST = 4096
_TIMES = 16

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


def groups(
    texts: Sequence[str], size: int, similarity: float, also: Iterable[tuple[int, int]] = ()
) -> list[int]:
    """Return for each text the first of its group: texts joined by pairs of at least ``similarity``, or by ``also``.

    ``size``: characters of a shingle. ``similarity``: Jaccard similarity, in (0, 1].
    """
    distinct, (own,) = _numbered(texts)
    sets, every = _Sets(distinct, size, similarity), np.arange(len(distinct))
    group = every
    for step in (1, -1):
        order = np.array(sorted(every, key=lambda at: distinct[at][::step]), np.int64)
        group = sets.united(group, order[1:], order[:-1])
    neighbours = group
    is_crowd = np.bincount(neighbours)[neighbours] > max(_CROWD, len(distinct) // _CROWDS)
    group = sets.connected(group, every[~is_crowd], every[~is_crowd])
    for crowd in np.unique(neighbours[is_crowd]):
        group = sets.connected(group, every[neighbours == crowd], every[neighbours != crowd])
    left, right = np.array([*also], np.int64).reshape(-1, 2).T
    group = group[own]
    group = _united(group, group[left], group[right])
    _, first, place = np.unique(group, return_index=True, return_inverse=True)
    return [int(index) for index in first[place]]


def first_alike(
    texts: Sequence[str], others: Sequence[str], size: int, similarity: float
) -> Iterator[tuple[int, int]]:
    """Yield the index of each text with at least ``similarity`` to one of ``others``, and the first such index."""
    distinct, (known, own) = _numbered(others, texts)
    known, index = np.unique(known, return_index=True)
    sets = _Sets(distinct, size, similarity)
    best = np.full(len(distinct), len(known))
    low, high = 0, _FIRST
    while low < len(known):
        pending = np.unique(own[best[own] == len(known)])
        for left, right in sets.candidates(pending, known[low:high]):
            better = right < best[left]
            left, right = left[better], right[better]
            close = sets.similar(left, right)
            np.minimum.at(best, left[close], right[close])
        low, high = high, high * _TIMES
    of_text = best[own].tolist()
    yield from ((place, int(index[at])) for place, at in enumerate(of_text) if at < len(known))


def connected(
    texts: Sequence[str], others: Sequence[str], size: int, similarity: float
) -> tuple[list[int], list[int]]:
    """Return the group of each of ``texts`` and of ``others``, which pairs of a text and another join.

    Two of ``texts``, or two of ``others``, are of one group if they are equal, or connected by such pairs.
    """
    distinct, (own, their) = _numbered(texts, others)
    sets = _Sets(distinct, size, similarity)
    group = sets.connected(np.arange(len(sets)), np.unique(own), np.unique(their))
    return group[own].tolist(), group[their].tolist()


def _numbered(*sides: Sequence[str]) -> tuple[list[str], list[Ints]]:
    """Number the distinct normalised texts in their order, and return them with the numbers of each side's texts."""
    number: dict[str, int] = {}
    numbers = [
        np.array([number.setdefault(normalised(text), len(number)) for text in side], np.int64)
        for side in sides
    ]
    return list(number), numbers


def _united(group: Ints, left: Ints, right: Ints) -> Ints:
    """Return the group of each text, with the groups ``left`` and ``right`` joined too."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    count = int(group.max(initial=-1)) + 1
    edges = coo_array((np.ones(len(left), np.int8), (left, right)), shape=(count, count))
    component: Ints = connected_components(edges, directed=False)[1]
    return component[group]


class _Sets:
    """The set of shingles of each text, as a row of a sparse matrix.

    A text's shingles are its substrings of ``size`` characters, or the whole text if it is shorter.
    """

    def __init__(self, texts: Sequence[str], size: int, similarity: float) -> None:
        number: dict[str, int] = {}
        shingles = array("i")
        ends = [0]
        for text in texts:
            starts = range(max(1, len(text) - size + 1))
            shingles.extend({number.setdefault(text[at : at + size], len(number)) for at in starts})
            ends.append(len(shingles))
        columns = np.array(shingles, np.int32)
        order = np.argsort(np.bincount(columns, minlength=len(number)), kind="stable")
        rank = np.empty(len(number), np.int32)
        rank[order] = np.arange(len(number))
        self._bound = similarity - _SLACK
        self._size = np.diff(ends)
        self._width = _WIDE if len(texts) < _FEW else _CLASS
        self._classes = np.floor(np.log(self._size) / self._width).astype(np.int64)
        self._whole = _matrix(rank[columns], np.array(ends), len(number))
        self._whole.sort_indices()

    def __len__(self) -> int:
        return len(self._size)

    def connected(self, group: Ints, ones: Ints, others: Ints) -> Ints:
        """Return the group of each text, with similar texts of ``ones`` and ``others`` joined too."""
        for left, right in self.candidates(ones, others):
            group = self.united(group, left, right)
        return group

    def united(self, group: Ints, left: Ints, right: Ints) -> Ints:
        """Return the group of each text, with those pairs joined that are similar."""
        apart = group[left] != group[right]
        left, right = left[apart], right[apart]
        close = self.similar(left, right)
        return _united(group, group[left[close]], group[right[close]]) if close.any() else group

    def candidates(self, ones: Ints, others: Ints) -> Iterator[tuple[Ints, Ints]]:
        """Yield the pairs of one of ``ones`` and one of ``others`` that may be similar, in parts.

        Where ``others`` is ``ones``, a pair is yielded in one order, or in both.
        """
        share = self._bound / (1 + self._bound)
        pairs = [*self._pairs_of_classes(ones, others)]
        total = sum(len(large) for large, _ in pairs)
        with tqdm(
            desc="near-duplicates",
            total=total,
            unit_scale=True,
            mininterval=1,
            delay=1,
            leave=False,
        ) as bar:
            for large, small in pairs:
                least = share * (self._size[large].min() + self._size[small].min()) - _ROUNDING
                shared = max(1, math.ceil(least))
                asked, searched = self._rarest(large, shared), self._rarest(small, shared).T.tocsr()
                for part in _parts(asked @ np.diff(searched.indptr)):
                    product = (asked[part] @ searched).tocoo()
                    left, right = large[part][product.coords[0]], small[product.coords[1]]
                    needed = share * (self._size[left] + self._size[right]) - _ROUNDING
                    may = product.data > needed - shared
                    yield left[may], right[may]
                    bar.update(len(part))

    def _pairs_of_classes(self, ones: Ints, others: Ints) -> Iterator[tuple[Ints, Ints]]:
        """Part texts by the size of their sets, and yield the pairs of parts that may have similar sets."""
        for left in np.unique(self._classes[ones]):
            for right in np.unique(self._classes[others]):
                beyond = (abs(left - right) - 1) * self._width > -math.log(self._bound - _SLACK)
                if not beyond and (right <= left or ones is not others):
                    yield ones[self._classes[ones] == left], others[self._classes[others] == right]

    def _rarest(self, rows: Ints, shared: int) -> Any:
        """Return the rarest shingles of ``rows``: sets with ``shared`` common shingles have one of these in common."""
        whole, size = self._whole[rows], self._size[rows]
        kept = np.maximum(size - shared + 1, 0)
        place = np.arange(whole.nnz) - np.repeat(whole.indptr[:-1], size)
        columns = whole.indices[place < np.repeat(kept, size)]
        return _matrix(columns, np.append(0, np.cumsum(kept)), whole.shape[1])

    def similar(self, left: Ints, right: Ints) -> Mask:
        """Tell for each pair whether it has at least ``similarity``."""
        both = self._size[left] + self._size[right]
        shared = np.zeros(len(left))
        for part in _parts(both):
            same = self._whole[left[part]].multiply(self._whole[right[part]])
            shared[part] = same.sum(axis=1)
        close: Mask = shared / (both - shared) >= self._bound
        return close


def _matrix(columns: NDArray[np.int32], starts: Ints, width: int) -> Any:
    """Make a sparse matrix of ones."""
    from scipy.sparse import csr_array

    ones = np.ones(len(columns), np.int32)
    return csr_array((ones, columns, starts), shape=(len(starts) - 1, width))


def _parts(weights: Ints) -> list[Ints]:
    """Cut the places of ``weights`` into runs that weigh about ``_AT_ONCE``."""
    ends = np.cumsum(weights) // _AT_ONCE
    return np.split(np.arange(len(weights)), np.flatnonzero(np.diff(ends)) + 1)
