"""exact-match: prediction and reference are the same text."""

from typing import ClassVar, Literal

from checks.kinds.scorer import ScorerKind


class ExactMatch(ScorerKind):
    """1 when prediction and reference are equal after trimming white space."""

    rank: ClassVar[int] = 10

    kind: Literal["exact-match"]

    def score(self, prediction: str, reference: str) -> float:
        """1 for the same text, else 0."""
        return float(prediction == reference)
