"""regex: the whole prediction matches a pattern."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from checks.kinds.scorer import ScorerKind
from checks.process.errors import ParamsRefused

# Time limit of one pattern on one prediction. A normal pattern needs microseconds, so the limit only refuses patterns
# that would practically never end.
REGEX_SECONDS = 2.0


class Regex(ScorerKind):
    """1 when the whole prediction matches ``pattern``."""

    rank: ClassVar[int] = 50

    kind: Literal["regex"]
    pattern: Annotated[
        str, Field(description="regular expression that the whole prediction must match")
    ]

    def score(self, prediction: str, reference: str) -> float:
        """1 for a match, else 0; by the ``regex`` package, because it has a time limit."""
        import regex

        try:
            pattern = regex.compile(self.pattern)
        except (regex.error, RecursionError, OverflowError) as error:
            raise ParamsRefused(
                f"evaluate.scorers: {self.pattern!r} is not a regular expression: {error}",
                "fix the pattern",
            ) from error
        try:
            return float(pattern.fullmatch(prediction, timeout=REGEX_SECONDS) is not None)
        except TimeoutError as error:
            raise ParamsRefused(
                f"evaluate.scorers: {self.pattern!r} takes over {REGEX_SECONDS:g} s on a prediction of "
                f"{len(prediction)} characters",
                "write it without a repetition inside a repetition",
            ) from error
