"""Test texts that also occur in training, by consecutive words; ``checks.data.similar`` finds the near-duplicates.

The method is that of GPT-3's appendix C (Brown et al., "Language Models are Few-Shot Learners", 2020), which is common
in evaluations of language models: a test example is suspect if n consecutive words, without case and punctuation, occur
in the training data. There n is between 8 and 13, depending on the lengths of the examples. Shared words are an
indication, not a proof, because texts from templates share them too; so the tolerated share depends on the data.

``first_repeated`` asks the same of a model's answers: which of them repeat a training row word for word, as in Carlini
et al., "Quantifying Memorization Across Neural Language Models" (2023), there with 50 tokens.
"""

import re
import unicodedata
from collections.abc import Container, Iterable, Iterator, Sequence

from checks.data.documents import plain

_SHORTEST = 8  # words of a text that means something wherever it stands in a document: the least of Brown et al.


def words(text: str) -> tuple[str, ...]:
    """The sequences of letters and digits of ``text``, without case and width. Text without spaces is one long word."""
    return tuple(re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold()))


def first_seen(
    texts: Sequence[str], train: Sequence[str], length: int, documents: Container[int] = ()
) -> Iterator[tuple[int, int]]:
    """For each of ``texts`` that shares ``length`` consecutive words with one of ``train``: its index, and the first
    such index.

    A shorter text counts as a whole: it matches only a training text with exactly the same words. Being contained in a
    longer text means nothing for a short one: "list all disks" is part of many other requests. But a text of 8 words or
    more also matches where it stands whole in one of ``documents``, which are indices of ``train``.
    """
    wanted: dict[
        tuple[str, ...], list[int]
    ] = {}  # The index is of the texts: they are fewer than the train rows and take less memory.
    for position, text in enumerate(texts):
        for run in _runs(words(text), length):
            wanted.setdefault(run, []).append(position)
    first: dict[int, int] = {}
    for number, text in enumerate(train):
        whole = number in documents
        sizes = range(min(_SHORTEST, length), length + 1) if whole else (length,)
        for of in {words(text), words(plain(text))} if whole else (words(text),):
            for run in (run for size in sizes for run in _runs(of, size)):
                for position in wanted.pop(run, ()):  # once it is found, a later number is no news
                    first.setdefault(position, number)
    yield from sorted(first.items())


def first_repeated(
    answers: Sequence[str],
    known: Sequence[Sequence[str]],
    train: Iterable[Iterable[str]],
    length: int,
) -> dict[int, int]:
    """The index of each of ``answers`` with ``length`` consecutive words of a row of ``train``, and of the first such.

    ``known[i]`` has texts from which answer i may have its words, such as its prompt: runs of theirs do not count. A
    shorter answer has no such run.
    """
    wanted: dict[tuple[str, ...], list[int]] = {}
    for position, (answer, texts) in enumerate(zip(answers, known, strict=True)):
        runs = _whole_runs(answer, length)
        for run in runs.difference(*(_whole_runs(text, length) for text in texts)) if runs else ():
            wanted.setdefault(run, []).append(position)
    first: dict[int, int] = {}
    for number, row in enumerate(train if wanted else ()):
        for text in row:
            for run in _runs(words(text), length):
                for position in wanted.pop(run, ()):
                    first.setdefault(position, number)
    return first


def _whole_runs(text: str, length: int) -> set[tuple[str, ...]]:
    return {run for run in _runs(words(text), length) if len(run) == length}


def _runs(of: tuple[str, ...], length: int) -> Iterator[tuple[str, ...]]:
    """Every sequence of ``length`` words; all words if there are fewer; none for a text without words."""
    if of:
        yield from (of[start : start + length] for start in range(max(1, len(of) - length + 1)))
