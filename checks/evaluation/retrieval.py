"""Reads what suites of kind ``rag`` search: documents of a pinned corpus, cut into passages.

A corpus is JSON lines with ``id`` and ``text``, or a folder of text files, each of which is a document called after its
path. ``checks.retrievers`` searches.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Annotated

import numpy as np
from pydantic import ConfigDict, Field

from checks.formats.suite_report import Gold, Passage, Reading
from checks.kinds.retriever import DECIMALS, Relevance, best
from checks.process.errors import EvidenceRefused
from checks.records.sections import Log, Positive, Section, problems
from checks.storage import files


class Reranker(Section):
    """A cross-encoder scores question and passage together, and ranks the retriever's first passages by this score."""

    model: Annotated[
        Log,
        Field(
            description="folder of a cross-encoder with one label: config, tokenizer, weights in safetensors"
        ),
    ]
    candidates: Annotated[
        Positive, Field(description="how many passages of the retriever it reads, at least top_k")
    ]
    max_tokens: Annotated[
        Positive | None,
        Field(
            description="most tokens of a pair; the longer text is cut. null: a pair that is too long is refused"
        ),
    ] = None

    def ranked(
        self,
        passages: Sequence[str],
        questions: Sequence[str],
        retrieved: Sequence[Sequence[int]],
        relevance: Relevance,
    ) -> Iterator[list[int]]:
        """Yield each question's ``retrieved`` places, best first; equal scores keep the retriever's order."""
        pairs = [
            (question, passages[place])
            for question, places in zip(questions, retrieved, strict=True)
            for place in places
        ]
        scores = np.round(relevance(pairs, self.max_tokens), DECIMALS)
        ends = np.cumsum([0, *(len(places) for places in retrieved)])
        for places, (start, end) in zip(retrieved, pairwise(ends), strict=True):
            yield [places[rank] for rank in best(scores[start:end], len(places))]


# Numbers, and words of four letters or more, are what a text claims.
_CLAIMS = re.compile(r"[0-9]+(?:[.,][0-9]+)*|[^\W\d_]{4,}")


class _Line(Passage):
    """A line of a corpus; further keys are left alone."""

    model_config = ConfigDict(extra="ignore")


def documents(corpus: Path, names: str | None) -> list[Passage]:
    """Return the documents of a file, or those files of a folder whose names match ``names``, in order of their paths.

    Raises ValueError, with what is wrong in a few words.
    """
    passages = _of_file(corpus) if names is None else list(_of_folder(corpus, names))
    if not passages:
        raise ValueError("has no documents" if names is None else f"has no file called {names}")
    if twice := [
        name for name, count in Counter(passage.id for passage in passages).items() if count > 1
    ]:
        raise ValueError(f"two documents are called {twice[0][:80]!r}")
    if empty := next((passage.id for passage in passages if not passage.text.strip()), None):
        raise ValueError(f"document {empty[:80]!r} has no text")
    return passages


def _of_file(corpus: Path) -> list[Passage]:
    try:
        return [Passage(id=line.id, text=line.text) for line in files.read_jsonl(corpus, _Line)]
    except EvidenceRefused as refused:
        raise ValueError(refused.what.removeprefix(f"{corpus}:").strip()) from refused


def _of_folder(corpus: Path, names: str) -> Iterator[Passage]:
    paths = {
        path.relative_to(corpus).as_posix(): path
        for path in corpus.rglob("*")
        if fnmatchcase(path.name, names)
    }
    for name, path in sorted(paths.items()):
        if path.is_file():
            try:
                yield Passage(id=name, text=path.read_text(encoding="utf-8"))
            except UnicodeDecodeError as error:
                raise ValueError(f"{name!r} is no text in UTF-8") from error


def words(passages: Iterable[Passage]) -> int:
    """How many words they have together."""
    return sum(len(passage.text.split()) for passage in passages)


def fitting(passages: Sequence[Passage], most: int) -> tuple[Passage, ...]:
    """Return the first of ``passages``, as many as have at most ``most`` words together."""
    kept = [count for count in range(1, len(passages) + 1) if words(passages[:count]) <= most]
    return tuple(passages[: max(kept, default=0)])


def has(passage: Passage, quote: str) -> bool:
    """Whether the whole of ``quote`` is in a passage; all white space is one space."""
    return " ".join(quote.split()) in " ".join(passage.text.split())


def first_of(gold: Iterable[Gold], passages: Iterable[Passage]) -> tuple[Passage, ...]:
    """For each gold document the first passage with its quote, without one all its passages; each passage once."""
    known = {passage.id: passage for passage in passages}
    names = [
        name
        for fact in gold
        for name in (fact.passages if fact.quote is None else fact.passages[:1])
    ]
    return tuple(known[name] for name in dict.fromkeys(names))


def recall(reading: Reading) -> float:
    """Return the share of the gold documents of which a passage was read."""
    read = {passage.id for passage in reading.passages}
    return fmean(bool(read.intersection(fact.passages)) for fact in reading.gold)


def grounded(answer: str, reading: Reading) -> float:
    """The share of an answer's words and numbers that occur in the passages: those that the question has are left out.

    A floor: an answer can be wrong in words that the passages have. 1 where nothing is left.
    """
    read = _claims(" ".join(passage.text for passage in reading.passages))
    claims = _claims(answer) - _claims(reading.question[-1].content)
    return len(claims & read) / len(claims) if claims else 1.0


def _claims(text: str) -> set[str]:
    return set(_CLAIMS.findall(text.casefold()))


class Chunker(Section):
    """Cuts documents into passages of ``words`` words; each begins with the last ``overlap`` words of the one before.

    A passage is called after its document and its number, from 0: ``faq.rst#2``.
    """

    words: Annotated[Positive, Field(description="most words of a passage")]
    overlap: Annotated[
        int, Field(ge=0, description="words that a passage shares with the one before")
    ]

    def contradictions(self) -> Iterator[str]:
        """Yield each contradiction, as "problem|remedy"."""
        return problems(
            (
                self.overlap >= self.words,
                f"overlap: {self.overlap} is not below words, {self.words}|lower it",
            )
        )

    def cut(self, document: Passage) -> list[Passage]:
        """Return the passages of a document, in order; their text is the document's, with its line breaks."""
        spans = [word.span() for word in re.finditer(r"\S+", document.text)]
        starts = range(0, max(len(spans) - self.overlap, 1), self.words - self.overlap)
        parts = [spans[start : start + self.words] for start in starts]
        return [
            Passage(id=f"{document.id}#{number}", text=document.text[part[0][0] : part[-1][1]])
            for number, part in enumerate(parts)
        ]
