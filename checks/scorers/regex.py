"""regex: the whole prediction matches a pattern."""

from typing import ClassVar, Literal

from checks.errors import ParamsRefused
from checks.scorer_kind import ScorerKind

# How long one pattern may search one prediction. An honest pattern needs microseconds, so the limit
# decides nothing but whether a hopeless one is refused.
REGEX_SECONDS = 2.0


class Regex(ScorerKind):
    """1 when the whole prediction matches ``pattern``."""

    rank: ClassVar[int] = 50

    kind: Literal["regex"]
    pattern: str

    def score(self, prediction: str, reference: str) -> float:
        """1 for a match, else 0; by the ``regex`` package, because it has a time limit."""
        import regex

        del reference
        try:
            pattern = regex.compile(self.pattern)
        except (regex.error, RecursionError, OverflowError) as error:
            raise ParamsRefused(
                f"evaluate.scorers: {self.pattern!r} is not a regular expression: {error}", "fix the pattern"
            ) from error
        try:
            return float(pattern.fullmatch(prediction, timeout=REGEX_SECONDS) is not None)
        except TimeoutError as error:
            raise ParamsRefused(
                f"evaluate.scorers: {self.pattern!r} takes over {REGEX_SECONDS:g} s on a prediction of "
                f"{len(prediction)} characters",
                "write it without a repetition inside a repetition",
            ) from error
