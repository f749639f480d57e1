"""json-valid: the prediction is JSON."""

import json
from typing import ClassVar, Literal

from checks.kinds.scorer import ScorerKind


class JsonValid(ScorerKind):
    """1 when the prediction parses as JSON."""

    rank: ClassVar[int] = 40

    kind: Literal["json-valid"]

    def score(self, prediction: str, reference: str) -> float:
        """1 for JSON by RFC 8259, else 0: NaN and Infinity, which Python's reader lets through, are not JSON."""
        try:
            # Numbers stay text: only their grammar matters, and a long one is legal.
            json.loads(prediction, parse_int=str, parse_float=str, parse_constant=_refuse_constant)
        except (ValueError, RecursionError):
            return 0.0
        return 1.0


def _refuse_constant(name: str) -> None:
    raise ValueError(name)
