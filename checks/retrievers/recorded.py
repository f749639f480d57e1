"""recorded: reads from a pinned file which passages another search, such as that of a vector store, found before.

A line says what was found for one question, best first::

    {"id": "q1", "question": "How long is the task queue?", "passages": ["faq-12", "faq-3"]}

``id`` and ``question`` are those of the suite's row; ``passages`` are ids of passages of the corpus. If the question of
the row changed after it was searched for, the record is refused.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from checks.formats.suite_report import SampleId
from checks.kinds.retriever import RetrieverKind, Search
from checks.process.errors import EvidenceRefused
from checks.records.record import Record
from checks.records.sections import Log
from checks.storage import files

_AGAIN = "record the search again: docs/how-to/rag.md"


class Ranking(Record):
    """The passages for a question, best first; empty if nothing was found."""

    id: SampleId
    question: str
    passages: tuple[SampleId, ...]


class RecordedSearch(RetrieverKind):
    """Ranks passages as a pinned file says that another search ranked them. Nothing is searched."""

    folders: ClassVar[frozenset[str]] = frozenset()  # the record is a file

    kind: Literal["recorded"]
    log: Annotated[
        Log,
        Field(description="JSON lines with id, question and passages: the ids of what was found"),
    ]

    def ranked(self, search: Search, most: int) -> Iterator[list[int]]:
        """As recorded. Raises EvidenceRefused for a record of other questions or passages, or of too few."""
        key, path = f"{search.where}.log", search.files["log"]
        lines = files.read_pinned(path, Ranking, key, _AGAIN)
        ranking = dict[str, tuple[str, ...]]()
        for number, line in enumerate(lines, 1):
            if wrong := _problem(line, search, ranking):
                what, fix = wrong
                raise EvidenceRefused(f"{key}: {number}: {what}", fix)
            ranking[line.id] = line.passages
        if missing := [name for name in search.questions if name not in ranking]:
            raise EvidenceRefused(f"{key}: has no line for row {missing[0][:80]!r}", _AGAIN)
        longest = max(map(len, ranking.values()), default=0)
        if longest < min(most, len(search.passages)):
            raise EvidenceRefused(
                f"{key}: no question has more than {longest} passages, and {most} are asked for",
                "record more for each question, or lower top_k or reranker.candidates",
            )
        places = {name: place for place, name in enumerate(search.passages)}
        return ([places[name] for name in ranking[row][:most]] for row in search.questions)


def _problem(line: Ranking, search: Search, before: Mapping[str, object]) -> tuple[str, str] | None:
    """Return what is wrong with a line, and what to do about it."""
    row = f"row {line.id[:80]!r}"
    asked = search.questions.get(line.id)
    strange = next((name for name in line.passages if name not in search.passages), "")
    rows = (
        (asked is None, f"the suite's file has no {row}", _AGAIN),
        (line.id in before, f"{row} has a line already", "keep one of them"),
        (
            line.question != asked,
            f"{row}: {line.question[:80]!r} was searched for, and the row asks {(asked or '')[:80]!r}",
            _AGAIN,
        ),
        (
            strange,
            f"{row}: no passage of the corpus is called {strange[:80]!r}",
            "pin the passages that were searched as corpus; with a chunker, passages are called DOCUMENT#NUMBER",
        ),
        (
            len(set(line.passages)) < len(line.passages),
            f"{row}: has a passage twice",
            "name each passage once",
        ),
    )
    return next(((what, todo) for holds, what, todo in rows if holds), None)
