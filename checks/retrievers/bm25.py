"""bm25: passages that share words with the question, by ``bm25s``.

Robertson and Zaragoza (2009), The Probabilistic Relevance Framework: BM25 and Beyond; as Lucene computes it.
"""

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from checks.kinds.retriever import DECIMALS, RetrieverKind, Search, best
from checks.records.sections import Section, Share


class Words(Section):
    """How much the words count that a passage shares with a question.

    Words are lower-cased, and not reduced to stems; a single letter is no word.
    """

    k1: Annotated[
        float, Field(ge=0, description="how much a word's further occurrences count; 1.5 is usual")
    ]
    b: Annotated[Share, Field(description="how much long passages are held back; 0.75 is usual")]
    stopwords: Annotated[
        Literal["en", "de", "nl", "fr", "es", "pt", "it", "ru", "sv", "no", "da", "tr"] | None,
        Field(description="the language whose commonest words do not count; null: all words count"),
    ]

    def scores(
        self, passages: Sequence[str], questions: Sequence[str]
    ) -> "Iterator[NDArray[np.float64]]":
        """For each question the score of each passage; -inf for one that has no word of it.

        Raises ValueError when no passage has a word.
        """
        import bm25s

        texts, asked = (
            bm25s.tokenize(
                list(side), stopwords=self.stopwords, return_ids=False, show_progress=False
            )
            for side in (passages, questions)
        )
        if not any(texts):
            raise ValueError("has no words")
        index = bm25s.BM25(k1=self.k1, b=self.b, method="lucene", dtype="float64")
        index.index(texts, show_progress=False)
        for words in asked:
            scored = (
                np.round(index.get_scores(words), DECIMALS) if words else np.zeros(len(passages))
            )
            yield np.where(scored > 0, scored, -np.inf)


class Bm25(Words, RetrieverKind):
    """Ranks passages by the words that they share with a question: BM25 as Lucene computes it, by ``bm25s``."""

    kind: Literal["bm25"]

    def ranked(self, search: Search, most: int) -> Iterator[list[int]]:
        """By words alone."""
        scored = self.scores([*search.passages.values()], [*search.questions.values()])
        return (best(scores, most) for scores in scored)
