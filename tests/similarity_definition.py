"""The definition of near-duplicates, as it is written down: what the fast join is held to."""

from collections.abc import Sequence

from checks.data.similar import normalised


def shingles(text: str, size: int) -> frozenset[str]:
    """All substrings of ``size`` characters of the normalised text; the whole text if it is not longer."""
    plain = normalised(text)
    return frozenset(plain[i : i + size] for i in range(max(1, len(plain) - size + 1)))


def alike(one: frozenset[str], other: frozenset[str], similarity: float) -> bool:
    """Whether the Jaccard similarity, the size of the intersection over that of the union, is at least so high."""
    shared = len(one & other)
    return shared / (len(one) + len(other) - shared) >= similarity - 1e-9


def groups(texts: Sequence[str], size: int, similarity: float) -> list[int]:
    """For each text the first one that it is connected with, by comparing all pairs."""
    sets = [shingles(text, size) for text in texts]
    root = list(range(len(texts)))
    for i in range(len(texts)):
        for j in range(i):
            if root[i] != root[j] and alike(sets[i], sets[j], similarity):
                low, high = sorted((root[i], root[j]))
                root = [low if of == high else of for of in root]
    return root


def first_alike(texts: Sequence[str], others: Sequence[str], size: int, similarity: float) -> list[tuple[int, int]]:
    """For each text that is alike to one of the others its index, and the first such index, by comparing all pairs."""
    sets = [shingles(other, size) for other in others]
    found = []
    for i, text in enumerate(texts):
        own = shingles(text, size)
        found += [(i, j) for j, other in enumerate(sets) if alike(own, other, similarity)][:1]
    return found
