"""Retrievers rank passages by words, by vectors, and by both; equal ones by their place."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from checks.kinds.retriever import Embed, Search, best, no_model
from checks.retrievers.bm25 import Bm25
from checks.retrievers.dense import Dense
from checks.retrievers.hybrid import Hybrid

BM25 = {"k1": 1.5, "b": 0.75, "stopwords": None}
MODEL = {"uri": "encoder", "sha256": None, "license": None}


def _bm25(texts: Sequence[str], question: str, k1: float, b: float) -> list[float]:
    """BM25 word by word, as Lucene has it: without the constant factor k1 + 1."""
    bags = [Counter(text.split()) for text in texts]
    mean, scores = sum(bag.total() for bag in bags) / len(bags), [0.0] * len(bags)
    for word in question.split():
        having = sum(word in bag for bag in bags)
        for place, bag in enumerate(bags):
            idf = math.log(1 + (len(bags) - having + 0.5) / (having + 0.5))
            scores[place] += idf * bag[word] / (bag[word] + k1 * (1 - b + b * bag.total() / mean))
    return scores


def search(passages: Sequence[str], questions: Sequence[str], embed: Embed = no_model) -> Search:
    texts, asked = ({str(n): text for n, text in enumerate(each)} for each in (passages, questions))
    return Search("", texts, asked, embed, {})


@pytest.mark.parametrize(("k1", "b"), [(1.5, 0.75), (0.5, 0.0), (2.0, 1.0)])
def test_passages_are_ranked_by_bm25_and_equal_ones_by_their_place(k1: float, b: float) -> None:
    texts = ["queue disk", "disk disk disk vault", "vault key", "queue disk", "image list list list disk"]
    retriever = Bm25(kind="bm25", k1=k1, b=b, stopwords=None)
    asked = ["disk", "disk queue", "list vault list", "nothing here", "?"]
    for question, found in zip(asked, retriever.ranked(search(texts, asked), 5), strict=True):
        scores = _bm25(texts, question, k1, b)
        assert found == sorted((n for n in range(5) if scores[n] > 0), key=lambda n: (-round(scores[n], 6), n))
    english = Bm25(kind="bm25", k1=k1, b=b, stopwords="en")
    assert list(english.ranked(search(["the key"], ["the", "key"]), 5)) == [[], [0]]


def test_vectors_rank_by_cosine_and_fusion_adds_both_ranks() -> None:
    vectors = {"a": (1.0, 0.0), "disk b": (0.6, 0.8), "disk c": (0.0, 1.0), "d": (0.6, 0.8), "q: disk": (0.6, 0.8)}
    vectors["q: disk disk"] = (0.0, 1.0)

    def given(texts: Sequence[str], pooling: str, most: int | None) -> Any:
        assert (pooling, most) == ("first", 7)
        return np.array([vectors[text] for text in texts])

    vector: dict[str, Any] = {"model": MODEL, "pooling": "first", "max_tokens": 7, "question_prefix": "q: "}
    texts, asked = ["a", "disk b", "disk c", "d"], ["disk", "disk disk"]
    dense = Dense.model_validate(vector | {"kind": "dense"})
    assert list(dense.ranked(search(texts, asked, given), 4)) == [[1, 3, 2, 0], [2, 1, 3, 0]]
    hybrid = Hybrid.model_validate({"kind": "hybrid", "bm25": BM25, "dense": vector, "rank_constant": 60})
    # Words find 1 and 2. Sums: 1/61 + 1/61 for 1, 1/62 + 1/63 for 2, 1/62 for 3, 1/64 for 0; then 1 and 2 are equal.
    assert list(hybrid.ranked(search(texts, asked, given), 4)) == [[1, 2, 3, 0]] * 2


def test_passages_in_blocks_rank_as_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(5)
    vectors = draw.integers(-2, 3, (47, 4)) + np.array([9.0, 0, 0, 0])  # many are equal
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True) + draw.normal(0, 1e-9, vectors.shape)
    monkeypatch.setattr("checks.evaluation.encoder._COSINES", 100)
    monkeypatch.setattr("checks.evaluation.encoder._PASSAGES", 7)
    retriever = Dense.model_validate({"kind": "dense", "model": MODEL, "pooling": "mean"})
    found = list(retriever.ranked(search(["x"] * 40, ["y"] * 7, lambda *_: vectors), 10))
    cosines = np.round(vectors[40:] @ vectors[:40].T, 6)
    assert found == [np.argsort(-row, kind="stable")[:10].tolist() for row in cosines]


BEST: dict[str, tuple[list[float], int, list[int]]] = {
    "all": ([1, 3, 2], 5, [1, 2, 0]),
    "some": ([1, 3, 2], 2, [1, 2]),
    "equal ones in their order": ([2, 1, 2, 1, 2], 2, [0, 2]),
    "only what is found": ([-np.inf, 0, -9], 3, [1, 2]),
    "nothing": ([-np.inf], 3, []),
}


@pytest.mark.parametrize("case", BEST)
def test_the_best_places_are_those_of_the_largest_scores(case: str) -> None:
    scores, most, places = BEST[case]
    assert best(np.array(scores, float), most) == places
