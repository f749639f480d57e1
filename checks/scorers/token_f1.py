"""token-f1: how many words prediction and reference share."""

import string
from collections import Counter
from typing import ClassVar, Literal

from checks.kinds.scorer import ScorerKind

_ARTICLES = frozenset(("a", "an", "the"))
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


class TokenF1(ScorerKind):
    """F1 of the two bags of lower-cased words (SQuAD)."""

    rank: ClassVar[int] = 20

    kind: Literal["token-f1"]

    def score(self, prediction: str, reference: str) -> float:
        """F1 of two bags of words as SQuAD 2.0's official script has it (Rajpurkar et al., 2018).

        Lower case, no ASCII punctuation, no English article; two texts without a word agree.
        """
        predicted, wanted = _words(prediction), _words(reference)
        if not predicted or not wanted:
            return float(predicted == wanted)
        shared = (predicted & wanted).total()
        return 2 * shared / (predicted.total() + wanted.total())


def _words(text: str) -> Counter[str]:
    words = text.lower().translate(_WITHOUT_PUNCTUATION).split()
    return Counter(word for word in words if word not in _ARTICLES)
