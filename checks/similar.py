"""Which texts are near-duplicates: exact Jaccard similarity of their sets of character shingles.

The join is exact, not probabilistic. Two sets of similarity t share one of their rarest shingles, where a set of
n has n - ceil(t n) + 1 of them (prefix filter: Chaudhuri, Ganti and Kaushik, "A Primitive Operator for Similarity
Joins", 2006), and the smaller has at least t times the larger's size. So an index over rare shingles finds every
candidate, and each candidate is then measured.
"""

import math
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

_SLACK = 1e-9  # 0.8 * 5 must not become 4.000000001


def normalised(text: str) -> str:
    """``text`` without differences that do not matter for a request: case, width, white space, final punctuation."""
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return plain.rstrip(" .,;:!?") or plain


def shingles(text: str, size: int) -> frozenset[str]:
    """All substrings of ``size`` characters of the normalised text; the whole text if it is not longer."""
    plain = normalised(text)
    return frozenset(plain[i : i + size] for i in range(max(1, len(plain) - size + 1)))


def jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    """Size of the intersection over the size of the union, in [0, 1]."""
    shared = len(one & other)
    return shared / (len(one) + len(other) - shared)


def similar_pairs(texts: Sequence[str], size: int, similarity: float) -> Iterator[tuple[int, int]]:
    """Pairs (i, j), i < j, of texts with at least ``similarity``; enough pairs to connect all similar texts.

    Texts with the same set are joined in a chain, and only the first is compared with the others: connected components
    are complete, the list of pairs is not.
    """
    first: dict[frozenset[str], int] = {}
    last: dict[frozenset[str], int] = {}
    for index, text in enumerate(texts):
        found = shingles(text, size)
        if found in last:
            yield last[found], index
        first.setdefault(found, index)
        last[found] = index
    yield from _join(list(first.items()), similarity)


def _join(sets: list[tuple[frozenset[str], int]], similarity: float) -> Iterator[tuple[int, int]]:
    frequency = Counter(shingle for found, _ in sets for shingle in found)
    index: defaultdict[str, list[int]] = defaultdict(list)  # rare shingle to positions in `sets`
    sets = sorted(sets, key=lambda item: (len(item[0]), item[1]))
    for position, (found, number) in enumerate(sets):
        least, rare = _prefix(found, frequency, similarity)
        for candidate in sorted({earlier for shingle in rare for earlier in index[shingle]}):
            other, other_number = sets[candidate]
            if len(other) >= least and jaccard(found, other) >= similarity - _SLACK:
                yield min(number, other_number), max(number, other_number)
        for shingle in rare:
            index[shingle].append(position)


def first_alike(texts: Sequence[str], others: Sequence[str], size: int, similarity: float) -> Iterator[tuple[int, int]]:
    """For each of ``texts`` with at least ``similarity`` to one of ``others``: its index, and the first such index."""
    first: dict[frozenset[str], int] = {}
    for number, text in enumerate(others):
        first.setdefault(shingles(text, size), number)
    wanted = [shingles(text, size) for text in texts]
    frequency = Counter(shingle for found in {*first, *wanted} for shingle in found)
    index: defaultdict[str, list[tuple[int, frozenset[str]]]] = defaultdict(list)
    for found, number in first.items():  # in the order of their numbers
        for shingle in _prefix(found, frequency, similarity)[1]:
            index[shingle].append((number, found))
    for position, found in enumerate(wanted):
        least, rare = _prefix(found, frequency, similarity)
        candidates = dict(entry for shingle in rare for entry in index[shingle])
        for number in sorted(candidates):
            other = candidates[number]
            longest = (len(found) + _SLACK) / similarity
            if least <= len(other) <= longest and jaccard(found, other) >= similarity - _SLACK:
                yield position, number
                break


def _prefix(found: frozenset[str], frequency: Mapping[str, int], similarity: float) -> tuple[int, list[str]]:
    """The fewest shingles that a similar set shares with ``found``, and the rarest ones: it must have one of these."""
    least = math.ceil(similarity * len(found) - _SLACK)
    return least, sorted(found, key=lambda shingle: (frequency[shingle], shingle))[: len(found) - least + 1]


def components(count: int, pairs: Iterator[tuple[int, int]]) -> list[int]:
    """For each of ``count`` items the smallest item that it is connected with (union-find)."""
    parent = list(range(count))

    def root(item: int) -> int:
        while parent[item] != item:
            parent[item] = parent[parent[item]]  # halves the path
            item = parent[item]
        return item

    for one, other in pairs:
        low, high = sorted((root(one), root(other)))
        parent[high] = low
    return [root(item) for item in range(count)]
