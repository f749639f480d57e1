"""tool-call: the answer makes the calls of the reference."""

from collections import Counter
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from checks.kinds.scorer import ScorerKind
from checks.records import tool_calls


class ToolCall(ScorerKind):
    """1 when the answer calls the functions of the reference, with the same arguments.

    If the reference calls no function: 1 when the answer calls none either. Use another scorer for the text.
    """

    rank: ClassVar[int] = 45
    reads_calls: ClassVar[bool] = True

    kind: Literal["tool-call"]
    texts: Annotated[
        Literal["exact", "loose"],
        Field(
            description="how texts in arguments are compared: `loose` ignores case, spaces and ,./-_*^ as the Berkeley "
            "Function-Calling Leaderboard does"
        ),
    ] = "exact"

    def score(self, prediction: str, reference: str) -> float:
        """1 for equal calls, as ``checks.records.tool_calls`` reads and compares them, in any order; else 0."""
        loose = self.texts == "loose"
        try:
            predicted, wanted = (
                Counter(tool_calls.comparable(call, loose) for call in tool_calls.read(text))
                for text in (prediction, reference)
            )
        except (tool_calls.MalformedCall, RecursionError):
            return 0.0
        return float(predicted == wanted)
