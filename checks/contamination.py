"""Which texts of a test split training has seen, by runs of words; ``checks.similar`` finds the near-duplicates.

The method is that of GPT-3's appendix C (Brown et al., "Language Models are Few-Shot Learners", 2020), which
evaluations of language models took over: a test example is suspect when a run of n of its words, without case and
punctuation, is in the training data. There n is between 8 and 13, by the lengths of the examples. A shared run is a
sign, not a proof: texts made from templates share them too, so the share that is tolerated belongs to the data.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence


def words(text: str) -> tuple[str, ...]:
    """The runs of letters and digits of ``text``, without case and width; a script without spaces is one long word."""
    return tuple(re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold()))


def first_seen(texts: Sequence[str], train: Sequence[str], length: int) -> Iterator[tuple[int, int]]:
    """For each of ``texts`` that shares a run of ``length`` words with one of ``train``: its index, and the first's.

    A text of fewer words counts whole: it is seen when a training text has the same words and no others. Being
    contained in a longer one is no sign for so short a text: "list all disks" is part of many other requests.
    """
    seen: dict[tuple[str, ...], int] = {}
    for number, text in enumerate(train):
        for run in _runs(words(text), length):
            seen.setdefault(run, number)
    for position, text in enumerate(texts):
        found = [seen[run] for run in _runs(words(text), length) if run in seen]
        if found:
            yield position, min(found)


def _runs(of: tuple[str, ...], length: int) -> Iterator[tuple[str, ...]]:
    """Every run of ``length`` words, or all of them where there are fewer; none of a text without words."""
    if of:
        yield from (of[start : start + length] for start in range(max(1, len(of) - length + 1)))
