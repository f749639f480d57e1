"""Prediction and reference to a score in [0, 1], by the scorers that params.yaml names.

A scorer is found by its ``kind``. All are pure: the same two texts give the same score anywhere.
White space around a prediction or a reference never counts.
"""

import functools
import json
import string
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from checks import digest
from checks.errors import ParamsRefused
from checks.params import EditSimilarity, ExactMatch, JsonValid, Regex, Scorer, TokenF1

# How long one pattern may search one prediction. An honest pattern needs microseconds, so the limit
# decides nothing but whether a hopeless one is refused.
REGEX_SECONDS = 2.0

_ARTICLES = frozenset(("a", "an", "the"))
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def score(scorer: Scorer, prediction: str, reference: str) -> float:
    """Score one answer. Raises ParamsRefused when the scorer itself cannot be used (regex)."""
    return _SCORERS[scorer.kind](scorer, prediction.strip(), reference.strip())


def digest_of(scorers: Sequence[Scorer]) -> str:
    """Digest of the scorers' settings, in their order: what an evaluation was scored by."""
    return digest.of_json([scorer.model_dump(mode="json") for scorer in scorers])


def _exact_match(_: ExactMatch, prediction: str, reference: str) -> float:
    return float(prediction == reference)


def _token_f1(_: TokenF1, prediction: str, reference: str) -> float:
    """F1 of two bags of words as SQuAD 2.0's official script has it (Rajpurkar et al., 2018).

    Lower case, no ASCII punctuation, no English article; two texts without a word agree.
    """
    found, wanted = _words(prediction), _words(reference)
    if not found or not wanted:
        return float(found == wanted)
    shared = (found & wanted).total()
    return 2 * shared / (found.total() + wanted.total())


def _words(text: str) -> Counter[str]:
    words = text.lower().translate(_WITHOUT_PUNCTUATION).split()
    return Counter(word for word in words if word not in _ARTICLES)


def _edit_similarity(_: EditSimilarity, prediction: str, reference: str) -> float:
    """1 - Levenshtein distance in characters / length of the longer text; two empty texts agree."""
    return float(_levenshtein()(prediction, reference))


@functools.cache
def _levenshtein() -> Callable[[str, str], float]:
    """Found once: an import statement takes longer than most distances."""
    from rapidfuzz.distance import Levenshtein

    similarity: Callable[[str, str], float] = Levenshtein.normalized_similarity
    return similarity


def _json_valid(_: JsonValid, prediction: str, __: str) -> float:
    """RFC 8259: NaN and Infinity, which Python's reader lets through, are not JSON."""
    try:
        # Numbers stay text: only their grammar matters, and a long one is legal.
        json.loads(prediction, parse_int=str, parse_float=str, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return 0.0
    return 1.0


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


def _regex(scorer: Regex, prediction: str, _: str) -> float:
    """1 when the whole prediction matches; the ``regex`` package, because it has a time limit."""
    import regex

    try:
        pattern = regex.compile(scorer.pattern)
    except (regex.error, RecursionError, OverflowError) as error:
        raise ParamsRefused(
            f"evaluate.scorers: {scorer.pattern!r} is not a regular expression: {error}", "mend the pattern"
        ) from error
    try:
        return float(pattern.fullmatch(prediction, timeout=REGEX_SECONDS) is not None)
    except TimeoutError as error:
        raise ParamsRefused(
            f"evaluate.scorers: {scorer.pattern!r} takes over {REGEX_SECONDS:g} s on a prediction of "
            f"{len(prediction)} characters",
            "write it without a repetition inside a repetition",
        ) from error


_SCORERS: dict[str, Callable[[Any, str, str], float]] = {
    "exact-match": _exact_match,
    "token-f1": _token_f1,
    "edit-similarity": _edit_similarity,
    "json-valid": _json_valid,
    "regex": _regex,
}
