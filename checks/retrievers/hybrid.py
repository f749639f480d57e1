"""hybrid: the ranks of bm25 and dense together, by reciprocal rank fusion.

Cormack, Clarke and Büttcher (2009), Reciprocal Rank Fusion outperforms Condorcet and individual Rank Learning Methods.
"""

from collections.abc import Iterator
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from checks.evaluation.encoder import Vectors
from checks.kinds.retriever import RetrieverKind, Search, best
from checks.records.sections import Positive
from checks.retrievers.bm25 import Words


class Hybrid(RetrieverKind):
    """Ranks passages by the sum of 1 / (rank_constant + rank) over their ranks by ``bm25`` and by ``dense``."""

    kind: Literal["hybrid"]
    bm25: Annotated[Words, Field(description="how words count")]
    dense: Annotated[Vectors, Field(description="the encoder, and how it is asked")]
    rank_constant: Annotated[
        Positive, Field(description="the larger, the less the first ranks count; 60 is usual")
    ]

    def ranked(self, search: Search, most: int) -> Iterator[list[int]]:
        """By both."""
        passages, questions = [*search.passages.values()], [*search.questions.values()]
        shares = 1 / (self.rank_constant + np.arange(1, len(passages) + 1))
        both = (
            self.bm25.scores(passages, questions),
            self.dense.scores(passages, questions, search.embed),
        )
        for rankings in zip(*both, strict=True):
            total = np.zeros(len(passages))
            for scores in rankings:
                places = np.argsort(-scores, kind="stable")[: int(np.isfinite(scores).sum())]
                total[places] += shares[: len(places)]
            yield best(total, most)
