"""What an answer shows without a label: refusals, repetition. The gateway counts them, `lockstep watch` compares.

Both are rules of thumb: a share that changes between two windows is worth a look, its level is no measurement.
"""

import re

_SORRY = r"(?:i(?:'|’)m|i am) (?:very |so |really )?sorry|sorry|i apologi[sz]e|unfortunately"
_CANNOT = (
    r"i (?:can(?:'|’)?t|cannot|can not|won(?:'|’)?t|will not) (?:help|assist|do|provide|answer|fulfil|comply|support|"
    r"create|write|give|share|discuss|engage|generate|offer)"
    r"|i(?:'|’)m (?:not able|unable)|i am (?:not able|unable)|i must decline|i decline to|as an ai\b"
    r"|i(?:'|’)m just an ai|i do not feel comfortable|i don(?:'|’)t feel comfortable"
)
_REFUSAL = re.compile(rf"\s*(?:(?:{_SORRY})[\s,.!:;-]{{1,5}}(?:but )?)?(?:{_CANNOT})", re.IGNORECASE)
_WORDS, _FEWEST, _DISTINCT = 4, 24, 0.5


def is_refusal(answer: str) -> bool:
    """Whether an English answer begins by declining the request."""
    return _REFUSAL.match(answer) is not None


def is_repetitive(answer: str) -> bool:
    """Whether fewer than half of an answer's sequences of four words are distinct; never for fewer than 24 words."""
    words = answer.split()
    if len(words) < _FEWEST:
        return False
    grams = [tuple(words[at : at + _WORDS]) for at in range(len(words) - _WORDS + 1)]
    return len(set(grams)) < _DISTINCT * len(grams)
