"""hybrid: the ranks of bm25 and dense together, by reciprocal rank fusion.

Cormack, Clarke and Büttcher (2009), Reciprocal Rank Fusion outperforms Condorcet and individual Rank Learning Methods.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field

from checks.retriever_kind import Embed, RetrieverKind
from checks.retrievers.bm25 import Words
from checks.retrievers.dense import Vectors
from checks.sections import Positive, Source


class Hybrid(RetrieverKind):
    """Ranks passages by the sum of 1 / (rank_constant + rank) over their ranks by ``bm25`` and by ``dense``."""

    kind: Literal["hybrid"]
    bm25: Annotated[Words, Field(description="how words count")]
    dense: Annotated[Vectors, Field(description="the encoder, and how it is asked")]
    rank_constant: Annotated[Positive, Field(description="the larger, the less the first ranks count; 60 is usual")]

    @property
    def sources(self) -> Mapping[str, Source]:
        """The encoder."""
        return {"dense.model": self.dense.model}

    def ranked(self, passages: Sequence[str], questions: Sequence[str], embed: Embed) -> Iterator[list[int]]:
        """By both."""
        both = self.bm25.places(passages, questions), self.dense.places(passages, questions, embed)
        for ranks in zip(*both, strict=True):
            score = defaultdict[int, float](float)
            for places in ranks:
                for rank, place in enumerate(places, 1):
                    score[place] += 1 / (self.rank_constant + rank)
            yield sorted(sorted(score), key=score.__getitem__, reverse=True)
