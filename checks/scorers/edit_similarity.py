"""edit-similarity: how few characters must change to make the prediction the reference."""

import functools
from collections.abc import Callable
from typing import ClassVar, Literal

from checks.kinds.scorer import ScorerKind


class EditSimilarity(ScorerKind):
    """1 - Levenshtein distance / length of the longer text."""

    rank: ClassVar[int] = 30

    kind: Literal["edit-similarity"]

    def score(self, prediction: str, reference: str) -> float:
        """1 - Levenshtein distance in characters / length of the longer text; two empty texts agree."""
        return float(_levenshtein()(prediction, reference))


@functools.cache
def _levenshtein() -> Callable[[str, str], float]:
    """Found once: an import statement takes longer than most distances."""
    from rapidfuzz.distance import Levenshtein

    similarity: Callable[[str, str], float] = Levenshtein.normalized_similarity
    return similarity
