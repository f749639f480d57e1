"""The fast join of near-duplicates: exactly what comparing all pairs finds, however many texts are alike."""

from collections.abc import Sequence
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tqdm import tqdm

from checks.data import near_duplicates
from tests import similarity_definition

# Few characters and few words, so that near-duplicates and chains of them are common.
WORDS = st.lists(st.sampled_from(["list", "all", "vms", "VMs.", "a", "b c", ""]), max_size=6).map(" ".join)
TEXTS = st.lists(st.text("abc d", max_size=14) | WORDS | st.text(max_size=8), max_size=40)
SMALL = [("_AT_ONCE", 7), ("_CROWD", 2), ("_FIRST", 1), ("_TIMES", 2)]


def _same(texts: Sequence[str], size: int, similarity: float) -> None:
    assert near_duplicates.groups(texts, size, similarity) == similarity_definition.groups(texts, size, similarity)
    half = len(texts) // 3
    parts = texts[:half], texts[half:], size, similarity
    assert list(near_duplicates.first_alike(*parts)) == similarity_definition.first_alike(*parts)


@pytest.mark.slow
@pytest.mark.parametrize("in_parts", [False, True])
@given(TEXTS, st.integers(1, 20), st.floats(0.05, 1.0))
@settings(max_examples=60, deadline=None)  # the first example loads scipy
def test_the_join_finds_what_comparing_all_pairs_finds(
    in_parts: bool, texts: list[str], size: int, similarity: float
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if in_parts:  # so that what is done in parts for millions of texts is done in parts here
            for name, value in SMALL:
                patch.setattr(near_duplicates, name, value)
        _same(texts, size, similarity)


def _chain(steps: int) -> list[str]:
    """Each text differs from the one before in a character: neighbours are alike, the ends are not."""
    random, text, found = Random(3), list("x" * 60), []
    for _ in range(steps):
        text[random.randrange(60)] = random.choice("abcdefghij ")
        found.append("".join(text))
    return found


def _pattern(rows: int) -> list[str]:
    verbs = ["Create", "Delete", "List all", "Show details of", "Update", "Restart", "Export"]
    return [f"{verbs[i % 7]} the resource {i * 2654435761 % 99991} in group {i % 251}" for i in range(rows)]


WIDE = "".join(map(chr, range(0x4E00, 0x4E00 + 7000)))


@pytest.mark.parametrize(
    ("texts", "size", "similarity"),
    [
        (["the same request"] * 30, 5, 0.8),
        (["", " ", "?", ".", "a", "A."], 5, 0.8),
        (["ab", "abc", "abcd", "abcde", "abcdef", "\0", "\0\0"], 5, 0.5),
        (["a" * n for n in range(1, 20)], 5, 1.0),  # other texts, the same set
        (["word " * 3 + "x" * 20_000, "word " * 3 + "x" * 20_001, "word word word"], 5, 0.8),
        (["😀 naïve ß ﬁ", "😀 NAÏVE SS FI!", "中文" * 4, "中文" * 5, "\ud800 half", "e\u0301", "é"], 3, 0.6),
        (_chain(150), 5, 0.8),
        (_pattern(300), 5, 0.8),
        (_pattern(300), 20, 0.6),
        ([WIDE, WIDE[1:], WIDE[3000:], *(WIDE[i : i + 12] for i in range(60))], 5, 0.7),
    ],
    ids=[
        "equal", "empty", "short", "one shingle", "giant", "unicode", "chain", "pattern", "long shingles", "wide",
    ],
)  # fmt: skip
def test_odd_texts_are_joined_as_the_definition_says(texts: list[str], size: int, similarity: float) -> None:
    _same(texts, size, similarity)


def test_twenty_crowds_are_not_compared_within_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"{WIDE[100 * (i % 20) : 100 * (i % 20) + 80]} {i * 7919 % 2003}" for i in range(2000)]
    weights, parts = list[int](), near_duplicates._parts

    def weighed(some: near_duplicates.Ints) -> list[near_duplicates.Ints]:
        weights.append(int(some.sum()))
        return parts(some)

    monkeypatch.setattr(near_duplicates, "_CROWD", 10)
    monkeypatch.setattr(near_duplicates, "_parts", weighed)
    assert len(set(near_duplicates.groups(texts, 5, 0.8))) == 20
    assert sum(weights) < 1_000_000


def test_a_search_that_takes_long_shows_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    bars = list[Any]()

    def begun(**options: Any) -> Any:
        bars.append(tqdm(**options))
        return bars[-1]

    monkeypatch.setattr(near_duplicates, "tqdm", begun)
    near_duplicates.groups([*_pattern(200), "a"], 5, 0.8)
    (bar,) = bars
    assert bar.n == bar.total >= 200


def test_equal_requests_are_found_however_often_they_are_repeated() -> None:
    found = near_duplicates.first_alike(["a b c"] * 3, ["x y", "A b c."] * 2, 2, 1.0)
    assert list(found) == [(0, 1), (1, 1), (2, 1)]


def test_items_are_connected_by_pairs_that_the_caller_knows() -> None:
    texts = ["one thing", "quite another", "a third one", "ONE THING!"]
    assert near_duplicates.groups(texts, 5, 0.8, [(2, 1), (3, 2)]) == [0, 0, 0, 0]
    assert near_duplicates.groups(texts, 5, 0.8, iter([(2, 1)])) == [0, 1, 1, 0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("texts", "groups"),
    [
        (["the same request"] * 50_000, 1),
        ([f"the long request that all of these rows have in common, number {i:07}" for i in range(4_000)], 1),
        ([f"{'a' * (i % 300)} the long request of two kinds {'of text' * (i % 2)}" for i in range(4_000)], None),
    ],
    ids=["equal", "nearly equal", "two kinds"],
)
def test_many_texts_that_are_alike_are_not_compared_pair_by_pair(
    texts: list[str], groups: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = 0
    measured = near_duplicates._Sets.similar

    def counted(self: object, one: Sequence[int], other: Sequence[int]) -> object:
        nonlocal seen
        seen += len(one)
        return measured(self, one, other)  # type: ignore[arg-type] # as they came

    monkeypatch.setattr(near_duplicates._Sets, "similar", counted)
    monkeypatch.setattr(near_duplicates, "_FIRST", 256)
    monkeypatch.setattr(near_duplicates, "_FEW", 4_000)
    found = near_duplicates.groups(texts, 5, 0.8)
    assert groups is None or len(set(found)) == groups
    half = len(texts) // 2
    alike = list(near_duplicates.first_alike(texts[:half], texts[half:], 5, 0.8))
    assert len(alike) == half or groups is None
    assert seen < 300 * len(texts)  # all pairs are several times as many even of the smallest case
