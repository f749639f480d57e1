"""dense: passages whose vectors are nearest to the question's, all compared exactly.

An encoder of transformers gives the vectors; its folder is pinned, and in safetensors.
"""

from collections.abc import Iterator
from typing import Literal

from checks.evaluation.encoder import Vectors
from checks.kinds.retriever import RetrieverKind, Search, best


class Dense(Vectors, RetrieverKind):
    """Ranks passages by the cosine of their vectors with the question's, compared exactly."""

    kind: Literal["dense"]

    def ranked(self, search: Search, most: int) -> Iterator[list[int]]:
        """By vectors alone."""
        scored = self.scores(
            [*search.passages.values()], [*search.questions.values()], search.embed
        )
        return (best(scores, most) for scores in scored)
