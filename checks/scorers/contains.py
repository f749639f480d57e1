"""contains: the reference occurs in the prediction, as whole words."""

import re
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from checks.kinds.scorer import ScorerKind


class Contains(ScorerKind):
    """1 when the reference occurs in the prediction as whole words, in any case.

    For answers in sentences: "The capital of France is Paris." contains "Paris". A long answer contains more words, so
    ask for short ones.
    """

    rank: ClassVar[int] = 25

    kind: Literal["contains"]
    separator: Annotated[
        str | None,
        Field(
            min_length=1,
            description="what parts references of which any counts: with `|`, `7|seven` is both",
        ),
    ] = None

    def score(self, prediction: str, reference: str) -> float:
        """1 where the words of a reference follow one another in the prediction, else 0.

        White space counts as one space. An empty reference occurs in no prediction.
        """
        text = _plain(prediction)
        parts = [reference] if self.separator is None else reference.split(self.separator)
        wanted = filter(None, map(_plain, parts))
        return float(any(re.search(rf"(?<!\w){re.escape(part)}(?!\w)", text) for part in wanted))


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
