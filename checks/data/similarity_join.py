"""Pairs of texts whose sets of shingles are similar: filters that drop no such pair, and the exact measure.

Prefix filter (Chaudhuri, Ganti and Kaushik, "A Primitive Operator for Similarity Joins", 2006): two sets of similarity
t share one of their rarest shingles, where a set of n has n - ceil(t n) + 1 of them. Size and position filter (Xiao,
Wang, Lin and Yu, "Efficient Similarity Joins for Near Duplicate Detection", 2008): the smaller set has at least t times
the larger's size, and behind the first shared shingle enough others are left in both. Bitmap filter (Sandes, Teodoro
and Melo, "A Filtering Technique for Fast Set Similarity Joins", 2020): each shingle flips one of 256 bits, so that two
sets differ in at least as many shingles as in bits.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from checks.data.shingles import Ints, Keys, Mask, Shingles
from checks.process import threads

_SLACK = 1e-9  # 0.8 * 5 must not become 4.000000001
_ROUNDING = 1e-6  # shingles that a filter's bound may be wrong by
_WORDS = 4  # of 64 bits, in a sketch
_AT_ONCE = 1 << 21  # shingles that are compared, and entries that are looked up
_FILTERED = 1 << 18  # pairs that are filtered at once: few enough for a processor's cache
_LONG = 64  # entries of a long list
Pairs = tuple[Ints, Ints]


class Side(NamedTuple):
    """Entries: the text, the size of its set, and the largest set that can share this shingle as their rarest one."""

    text: NDArray[np.int32]
    size: NDArray[np.int32]
    limit: NDArray[np.int32]


class Join:
    """Finds similar pairs of ``texts``, which are distinct, normalised and ordered by length.

    It keeps an entry for each text and each of its rare shingles. A list is the entries of one shingle. Entries are
    ordered by list, size of the text's set, and text.
    """

    def __init__(self, texts: Sequence[str], size: int, similarity: float) -> None:
        self._sets = Shingles(texts, size)
        self._bound = similarity - _SLACK
        # Two similar sets have at least this share of the sum of their sizes in common.
        self._share = self._bound / (1 + self._bound)
        self._sketch = np.zeros((_WORDS, len(texts)), np.uint64)
        rare = threads.mapped(lambda rows: self._rare(*self._sets.chunk(rows)), self._sets.parts())
        columns = [list(column) for column in zip(*rare, strict=True)]
        keys, entries, sizes, left = (_taken(column) for column in columns or [[]] * 4)
        order = np.argsort(sizes, kind="stable").astype(np.int32)
        order = order[np.argsort(keys[order], kind="stable")]
        keys = keys[order]
        alone = np.append(True, keys[1:] != keys[:-1])[: len(keys)]  # so far: the first of a list
        alone &= np.append(alone[1:], True)[: len(keys)]
        order, keys = order[~alone], keys[~alone]
        self.text, self._size = entries[order], sizes[order]
        limit = np.floor((left[order] + _ROUNDING) / self._share) - self._size
        self._limit = np.minimum(limit, np.iinfo(np.int32).max).astype(np.int32)
        self._widest = int(sizes.max(initial=0)) + 2
        self._place = (
            np.cumsum(np.append(False, keys[1:] != keys[:-1])[: len(keys)]) * self._widest
            + self._size
        )

    def __len__(self) -> int:
        return len(self.text)

    def _rare(
        self, rows: Ints, matrix: Keys, counts: Mask
    ) -> tuple[Keys, *tuple[NDArray[np.int32], ...]]:
        """Entries as columns: key, text, size of its set, and shingles from this one on. Fills in the sketches."""
        size = counts.sum(axis=1)
        position = np.cumsum(counts, axis=1, dtype=np.int32) - 1
        bits = np.where(counts, np.uint64(1) << (matrix & np.uint64(63)), np.uint64(0))
        words = (matrix >> np.uint64(6)).astype(np.uint8) & np.uint8(_WORDS - 1)
        for word in range(_WORDS):
            self._sketch[word, rows] = np.bitwise_xor.reduce(bits * (words == word), axis=1)
        prefix = size - np.ceil(self._bound * size - _ROUNDING) + 1
        row, column = np.nonzero(
            counts & (position < prefix[:, None]) & (matrix >= self._sets.repeated)
        )
        columns = (rows[row], size[row], size[row] - position[row, column])
        return matrix[row, column], *(column.astype(np.int32) for column in columns)

    def blocks(self) -> Iterator[Ints]:
        """All entries, some at a time."""
        for start in range(0, len(self), _AT_ONCE):
            yield np.arange(start, min(start + _AT_ONCE, len(self)))

    def list_of(self, entries: Ints) -> Ints:
        """The number of each entry's list."""
        lists: Ints = self._place[entries] // self._widest
        return lists

    def side(self, entries: Ints | slice) -> Side:
        """Columns of some entries."""
        return Side(self.text[entries], self._size[entries], self._limit[entries])

    def window(self, entries: Ints) -> Pairs:
        """The first entry of the list with a large enough set, and the first one after it whose set is too large."""
        sizes = self._size[entries]
        least = np.ceil(sizes * self._bound - _ROUNDING)
        most = np.minimum(np.floor(sizes / self._bound + _ROUNDING), self._limit[entries])
        start = self._place[entries] - sizes
        least, most = (
            np.clip(size, 0, self._widest - 1).astype(np.int64) for size in (least, most + 1)
        )
        return np.searchsorted(self._place, start + least), np.searchsorted(
            self._place, start + most
        )

    def of_one_group(self, group: Ints) -> Mask:
        """Entries of long lists where most neighbours are of one group."""
        if not len(self):
            return np.zeros(0, np.bool_)
        lists = self.list_of(np.arange(len(self)))
        start = np.flatnonzero(np.append(True, lists[1:] != lists[:-1]))
        lengths = np.diff(np.append(start, len(self)))
        own = group[self.text]
        same = np.add.reduceat(np.append(False, own[1:] == own[:-1]).astype(np.int64), start)
        return np.repeat((lengths >= _LONG) & (2 * same >= lengths), lengths)

    def candidates(
        self, asked: Ints, places: Ints, others: Side, before: bool = False
    ) -> Iterator[Pairs]:
        """Pairs of texts that may be similar: the entries ``asked``, each with those of ``places`` in its list.

        ``others``: the columns of ``places``. ``before``: only with entries that come before it.
        """
        first, stop = (np.searchsorted(places, bound) for bound in self.window(asked))
        if before:
            stop = np.minimum(stop, np.searchsorted(places, asked))
        yield from self.passing(self.side(asked), first, stop, others)

    def passing(self, ones: Side, first: Ints, stop: Ints, others: Side) -> Iterator[Pairs]:
        """Pairs of texts that may be similar: each of ``ones`` with ``others[first:stop]``."""
        counts = np.maximum(stop - first, 0)
        ends = np.cumsum(counts)

        def parts() -> Iterator[slice]:
            at = 0
            while at < len(counts):
                upto = max(
                    at + 1,
                    int(
                        np.searchsorted(ends, (ends[at - 1] if at else 0) + _FILTERED, side="right")
                    ),
                )
                yield slice(at, upto)
                at = upto

        def filtered(part: slice) -> Pairs:
            one = np.repeat(np.arange(part.start, part.stop), counts[part])
            return self._filtered(ones, one, others, _ranges(first[part], counts[part]))

        yield from threads.mapped(filtered, parts())

    def _filtered(self, ones: Side, one: Ints, others: Side, other: Ints) -> Pairs:
        # Indices, not masks: numpy selects with a half-true mask several times slower.
        enough = np.flatnonzero(ones.size[one] <= others.limit[other])
        one, other = one[enough], other[enough]
        sizes = ones.size[one] + others.size[other]
        may = np.flatnonzero(others.size[other] <= ones.limit[one])
        room = (sizes * (1 - 2 * self._share) + _ROUNDING)[may]
        one, other = ones.text[one[may]].astype(np.int64), others.text[other[may]].astype(np.int64)
        for word in self._sketch:
            differ = np.bitwise_count(word[one] ^ word[other])
            near = np.flatnonzero(differ <= room)
            one, other, room = one[near], other[near], (room - differ)[near]
        return one, other

    def similar(self, one: Ints, other: Ints) -> Mask:
        """Which pairs have at least the similarity: measured exactly."""
        alike = np.zeros(len(one), np.bool_)
        texts = np.unique(np.concatenate([one, other]))
        chunks = threads.mapped(self._sets.chunk, self._sets.parts(texts))
        parts = [(matrix[counts], counts.sum(axis=1)) for _, matrix, counts in chunks]
        if not parts:
            return alike
        keys, size = (np.concatenate(part) for part in zip(*parts, strict=True))
        start = np.cumsum(size) - size
        a, b = np.searchsorted(texts, one), np.searchsorted(texts, other)
        both = size[a] + size[b]
        order = np.argsort(both, kind="stable")
        while len(order):
            widths = both[order[:_AT_ONCE]]
            fit = np.searchsorted(widths * np.arange(1, len(widths) + 1), _AT_ONCE, side="right")
            pairs, order = order[: max(1, int(fit))], order[max(1, int(fit)) :]
            matrix = np.full((len(pairs), int(both[pairs[-1]])), self._sets.blank)
            places = np.column_stack([start[a[pairs]], start[b[pairs]]]).ravel()
            lengths = np.column_stack([size[a[pairs]], size[b[pairs]]]).ravel()
            matrix[np.arange(matrix.shape[1]) < both[pairs][:, None]] = keys[
                _ranges(places, lengths)
            ]
            matrix.sort(axis=1)
            shared = ((matrix[:, 1:] == matrix[:, :-1]) & (matrix[:, 1:] != self._sets.blank)).sum(
                axis=1
            )
            alike[pairs] = shared / (both[pairs] - shared) >= self._bound
        return alike


def _taken(parts: list[NDArray[Any]]) -> NDArray[Any]:
    """The parts as one array; they are let go of, so that only one column is in memory twice."""
    whole = np.concatenate([*parts, np.zeros(0, parts[0].dtype if parts else np.int32)])
    parts.clear()
    return whole


def _ranges(start: Ints, counts: Ints) -> Ints:
    """The numbers from each ``start`` on, ``counts`` of them, one after the other."""
    before = np.cumsum(counts) - counts
    return np.repeat(start - before, counts) + np.arange(int(counts.sum()))
