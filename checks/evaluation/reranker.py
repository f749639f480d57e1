"""Re-ranking, for suites of kind ``rag``: a cross-encoder reads the question with each passage that a retriever found.

Nogueira and Cho (2019), Passage Re-ranking with BERT.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Annotated

import numpy as np
from pydantic import Field

from checks.kinds.retriever import DECIMALS, Relevance, best
from checks.records.sections import Log, Positive, Section


class Reranker(Section):
    """A cross-encoder scores question and passage together, and ranks the retriever's first passages by this score."""

    model: Annotated[
        Log,
        Field(
            description="folder of a cross-encoder with one label: config, tokenizer, weights in safetensors"
        ),
    ]
    candidates: Annotated[
        Positive, Field(description="how many passages of the retriever it reads, at least top_k")
    ]
    max_tokens: Annotated[
        Positive | None,
        Field(
            description="most tokens of a pair; the longer text is cut. null: a pair that is too long is refused"
        ),
    ] = None

    def ranked(
        self,
        passages: Sequence[str],
        questions: Sequence[str],
        retrieved: Sequence[Sequence[int]],
        relevance: Relevance,
    ) -> Iterator[list[int]]:
        """For each question the places that the retriever ``retrieved``, best first; equal scores keep its order."""
        pairs = [
            (question, passages[place])
            for question, places in zip(questions, retrieved, strict=True)
            for place in places
        ]
        scores = np.round(relevance(pairs, self.max_tokens), DECIMALS)
        ends = np.cumsum([0, *(len(places) for places in retrieved)])
        for places, (start, end) in zip(retrieved, pairwise(ends), strict=True):
            yield [places[rank] for rank in best(scores[start:end], len(places))]
