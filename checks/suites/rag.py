"""rag: questions whose answers lie in a corpus. Passages are retrieved, and each model answers from them.

A line of ``file`` is one of kind ``rows``, with ``gold``: the documents of ``corpus`` that answer it, each by its id,
and where it is long by the words of it that do. An empty list says that nothing in the corpus answers the question::

    {"id": "queue", "prompt": "How long is the task queue?", "reference": "1000",
     "gold": [{"id": "s3-config.rst", "quote": "max_queue_size -------------- **Default** - ``1000``"}]}

Metrics: ``retrieved/SCORER`` (answers from what was retrieved; where nothing answers the question, whether the model
abstains), ``gold/SCORER`` (answers from the gold passages: what a perfect retriever would give), ``recall-at-k`` (the
share of a question's gold documents among what was retrieved), ``grounded`` (the share of an answer's words and numbers
that the retrieved passages have), ``abstains`` (where nothing answers the question) and ``attempted`` (from the gold
passages, does the model not abstain). Answers and what was read are evidence, and gates score them again.
"""

import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Annotated, Literal

from pydantic import (
    Field,
    JsonValue,
    TypeAdapter,
    ValidationError,
    field_validator,
)

from checks.evaluation import scoring
from checks.evaluation.retrieval import (
    Chunker,
    Reranker,
    documents,
    first_of,
    fitting,
    grounded,
    has,
    recall,
    words,
)
from checks.formats.suite_report import (
    Gold,
    Passage,
    Reading,
    SampleId,
    Scale,
    SuiteAnswer,
)
from checks.kinds.retriever import Embed, Retriever, Search, no_model
from checks.kinds.suite import Made, Material
from checks.process.errors import EvaluationRefused, EvidenceRefused
from checks.records.record import Record
from checks.records.rows import Message, Row
from checks.records.sections import Log, Positive, Section, Source
from checks.scorers.regex import Regex
from checks.storage import files, layout
from checks.suites.rows import SHARE, Questions

RECALL, GROUNDED, ABSTAINS, ATTEMPTED = "recall-at-k", "grounded", "abstains", "attempted"
_RERANKER = "reranker.model"


class _Named(Record):
    """A gold document in a line of the file."""

    id: SampleId
    quote: Annotated[str | None, Field(min_length=1)] = None


_GOLD = TypeAdapter(tuple[_Named, ...])


class Unanswerable(Section):
    """Questions that nothing in the corpus answers, and how a model says so."""

    rows: Annotated[Positive, Field(description="how many rows have no gold document")]
    abstains: Annotated[
        str, Field(description="regular expression that a whole answer matches which abstains")
    ]

    @field_validator("abstains")
    @classmethod
    def _is_an_expression(cls, abstains: str) -> str:
        import regex

        try:
            regex.compile(abstains)
        except regex.error as error:
            raise ValueError(
                f"abstains: {abstains!r} is no regular expression ({error})|correct it"
            ) from error
        return abstains


class Rag(Questions):
    """Questions that each of ``models`` answers from passages of a corpus, retrieved and gold ones."""

    kind: Literal["rag"]
    file: Annotated[
        Log, Field(description="JSON lines as of kind rows, with gold: the documents that answer")
    ]
    corpus: Annotated[
        Log, Field(description="JSON lines with id and text; or a folder, if documents is set")
    ]
    documents: Annotated[
        str | None,
        Field(
            min_length=1,
            description="names of a folder's text files, such as *.rst; null: JSON lines",
        ),
    ] = None
    chunker: Annotated[
        Chunker | None,
        Field(description="how documents are cut into passages; null: a document is a passage"),
    ]
    retriever: Annotated[Retriever, Field(description="how passages are ranked")]
    reranker: Annotated[
        Reranker | None, Field(description="ranks the retrieved passages again; null: no reranker")
    ] = None
    top_k: Annotated[Positive, Field(description="how many passages are retrieved")]
    max_words: Annotated[
        Positive,
        Field(
            description="most words of passages in a prompt: of retrieved ones, the last are left out"
        ),
    ]
    prompt: Annotated[
        str, Field(description="how a model is asked: $passages and $question are the texts")
    ]
    unanswerable: Annotated[
        Unanswerable | None,
        Field(description="questions without a gold document; null: there are none"),
    ]

    @field_validator("prompt")
    @classmethod
    def _has_both_texts(cls, prompt: str) -> str:
        template = string.Template(prompt)
        if not template.is_valid() or set(template.get_identifiers()) != {"passages", "question"}:
            raise ValueError(
                "prompt: does not hold $passages and $question alone|write both, and $$ for a dollar"
            )
        return prompt

    def contradictions(self) -> Iterator[str]:
        """Yield each contradiction, as "problem|remedy"."""
        yield from super().contradictions()
        if self.reranker and self.reranker.candidates < self.top_k:
            yield (
                f"reranker.candidates: {self.reranker.candidates} is below top_k, {self.top_k}|raise it, 50 is usual"
            )

    @property
    def scales(self) -> Mapping[str, Scale]:
        """Answers from retrieved passages come first: a server is asked these."""
        names = [
            f"{setting}/{scorer}" for setting in ("retrieved", "gold") for scorer in self.scored_by
        ]
        return dict.fromkeys(
            [*names, RECALL, GROUNDED, *([ABSTAINS, ATTEMPTED] if self.unanswerable else [])], SHARE
        )

    @property
    def partial(self) -> frozenset[str]:
        """Return what is asked of rows with gold alone, or of the others alone."""
        of_gold = {RECALL, ATTEMPTED, *(f"gold/{scorer}" for scorer in self.scored_by)}
        return frozenset({ABSTAINS} | of_gold) if self.unanswerable else frozenset()

    @property
    def _cross_encoder(self) -> Mapping[str, Source]:
        return {_RERANKER: self.reranker.model} if self.reranker else {}

    @property
    def folders(self) -> frozenset[str]:
        """Return the corpus, where its documents are files, the encoder and the cross-encoder."""
        return frozenset(
            {*(["corpus"] if self.documents else []), *self._encoders, *self._cross_encoder}
        )

    @property
    def _encoders(self) -> Sequence[str]:
        return [f"retriever.{name}" for name in sorted(self.retriever.folders)]

    @property
    def retrieved_by(self) -> str:
        """Return the kind of ``retriever``."""
        return self.retriever.kind

    def to_judge(self, given: Iterable[SuiteAnswer]) -> Iterable[SuiteAnswer]:
        """Return the answers from retrieved passages, which are what users get."""
        return (
            answer
            for answer in given
            if (reading := answer.reading)
            and reading.setting == "retrieved"
            and answer.messages == self.asked(reading)
        )

    def size_of(self, metric: str, test_rows: int) -> int:
        """Rows with gold, rows without, or both."""
        without = self.unanswerable.rows if self.unanswerable else 0
        return (
            without
            if metric == ABSTAINS
            else self.size(test_rows) - (without if metric in self.partial else 0)
        )

    def score(self, metric: str, answer: str, reference: str) -> float:
        """By the metric's scorer; without a reference, whether the answer abstains."""
        if metric != ABSTAINS and reference:
            scorer = metric.partition("/")[2]
            return scoring.score(
                next(kind for kind in self.scorers if kind.kind == scorer), answer, reference
            )
        if self.unanswerable is None:
            return 0.0
        return scoring.score(Regex(kind="regex", pattern=self.unanswerable.abstains), answer, "")

    def chance_of(self, metric: str, references: Sequence[str]) -> float | None:
        """Of answers; a model that knows nothing may also abstain always."""
        if "/" not in metric:
            return None
        commonest = super().chance_of(metric, [text for text in references if text])
        if commonest is None or self.chance is not None:
            return commonest
        answerable = sum(1 for text in references if text) / len(references)
        return max(commonest * answerable, 1 - answerable)

    def row(self, line: Mapping[str, JsonValue], number: int) -> Row:
        """As of ``rows``, with its gold documents."""
        row = super().row(line, number)
        if row.has_calls:
            raise ValueError("calls tools, which suites of kind rag do not support")
        if "gold" not in line:
            raise ValueError("has no gold; an empty list says that no document answers it")
        named = line["gold"] if isinstance(line["gold"], list) else [line["gold"]]
        gold = [{"id": passage} if isinstance(passage, str) else passage for passage in named]
        _GOLD.validate_python(gold)
        if bool(gold) != bool(row.reference.strip()):
            raise ValueError("has gold and no reference" if gold else "has a reference and no gold")
        return row.model_copy(update={"extra": {"gold": gold}})

    def scored(self, material: Material) -> Made:
        """Retrieve, let each model answer, and score the answers."""
        rows = self.questions(material)
        about = {row.id: row for row in rows}
        asked = [
            (about[sample].model_copy(update={"messages": self.asked(reading)}), reading)
            for sample, reading in self._readings(material, rows)
        ]
        try:
            return self.answered(material, rows, asked)
        except EvaluationRefused as refused:
            place = f"suites.{material.name}"
            if not refused.what.startswith(f"{layout.PARAMS}: {place}.file"):
                raise
            raise EvaluationRefused(
                refused.what, f"lower {place}.max_words or max_new_tokens, or shorten that row"
            ) from refused

    def asked(self, reading: Reading) -> tuple[Message, ...]:
        """Return the chat of which the last question has the passages with it."""
        *before, last = reading.question
        shown = (
            "\n\n".join(f"[{n}] {passage.text}" for n, passage in enumerate(reading.passages, 1))
            or "(none)"
        )
        prompt = string.Template(self.prompt).substitute(passages=shown, question=last.content)
        return (*before, last.model_copy(update={"content": prompt}))

    def scored_again(
        self, given: Sequence[SuiteAnswer]
    ) -> Iterator[tuple[SuiteAnswer, str, float]]:
        """Every score of an answer that was asked with the passages that it names."""
        for answer in given:
            reading = answer.reading
            if reading is None or answer.messages != self.asked(reading):
                continue
            for scorer in self.scored_by:
                metric = f"{reading.setting}/{scorer}"
                yield answer, metric, self.score(metric, answer.answer, answer.reference)
            abstains = self.score(ABSTAINS, answer.answer, "")
            if reading.setting == "gold" and self.unanswerable:
                yield answer, ATTEMPTED, 1 - abstains
            if reading.setting == "retrieved":
                yield answer, GROUNDED, 1.0 if abstains else grounded(answer.answer, reading)
                yield answer, *((RECALL, recall(reading)) if reading.gold else (ABSTAINS, abstains))

    def _readings(self, material: Material, rows: Sequence[Row]) -> Iterator[tuple[str, Reading]]:
        """Yield what is read for each row: what is retrieved for all of them, then their gold passages, if any."""
        key = f"{layout.PARAMS}: suites.{material.name}"
        without, declared = sum(not row.extra["gold"] for row in rows), self.size_of(ABSTAINS, 0)
        if without != declared:
            raise EvidenceRefused(
                f"{key}.file: {without} rows have no gold, and unanswerable has {declared}",
                f"set suites.{material.name}.unanswerable to what the file has",
            )
        try:
            cut = {
                document.id: self._cut(document)
                for document in documents(material.files["corpus"], self.documents)
            }
            passages = [passage for parts in cut.values() for passage in parts]
            rankings = self._found(
                material,
                {passage.id: passage.text for passage in passages},
                {row.id: row.prompt for row in rows},
            )
        except ValueError as error:
            what = files.first(error) if isinstance(error, ValidationError) else str(error)
            raise EvidenceRefused(f"{key}.corpus: {what}", "see docs/how-to/rag.md") from error
        gold = [self._gold(key, row, cut) for row in rows]
        for row, right, best in zip(rows, gold, rankings, strict=True):
            read = fitting([passages[place] for place in best], self.max_words)
            yield (
                row.id,
                Reading(setting="retrieved", question=row.messages, gold=right, passages=read),
            )
        for row, right in zip(rows, gold, strict=True):
            if not right:
                continue
            shown = first_of(right, passages)
            if len(fitting(shown, self.max_words)) < len(shown):
                raise EvidenceRefused(
                    f"{key}.file: {_line(row)}: its gold passages have {words(shown)} words, and max_words is "
                    f"{self.max_words}",
                    "raise it, or name the words of gold documents that answer, as quote",
                )
            yield row.id, Reading(setting="gold", question=row.messages, gold=right, passages=shown)

    def _found(
        self, material: Material, passages: Mapping[str, str], questions: Mapping[str, str]
    ) -> list[Sequence[int]]:
        """The places of the ``top_k`` passages for each question, best first. Raises ValueError as a retriever does."""
        encoder = next(iter(self._encoders), None)
        embed: Embed = partial(material.encode, encoder) if encoder else no_model
        given = {name: material.files[f"retriever.{name}"] for name in self.retriever.sources}
        search = Search(
            f"{layout.PARAMS}: suites.{material.name}.retriever", passages, questions, embed, given
        )
        most = self.reranker.candidates if self.reranker else self.top_k
        rankings = [places[:most] for places in self.retriever.ranked(search, most)]
        if self.reranker:
            again = self.reranker.ranked(
                [*passages.values()],
                [*questions.values()],
                rankings,
                partial(material.relate, _RERANKER),
            )
            rankings = [places[: self.top_k] for places in again]
        return rankings

    def _cut(self, document: Passage) -> list[Passage]:
        """Return the passages of a document. Raises ValueError for one that no prompt may have."""
        parts = self.chunker.cut(document) if self.chunker else [document]
        if long := next((part for part in parts if words([part]) > self.max_words), None):
            raise ValueError(
                f"{long.id[:80]!r} has {words([long])} words, and max_words is {self.max_words}"
            )
        return parts

    def _gold(self, key: str, row: Row, cut: Mapping[str, Sequence[Passage]]) -> tuple[Gold, ...]:
        """The row's gold documents, with the passages that have them. Raises EvidenceRefused where there are none."""
        passages = []
        for fact in _GOLD.validate_python(row.extra["gold"]):
            parts = cut.get(fact.id, ())
            names = tuple(part.id for part in parts if fact.quote is None or has(part, fact.quote))
            if not names:
                what = (
                    f"{fact.id[:80]!r} has no passage with the whole of {(fact.quote or '')[:80]!r}"
                )
                raise EvidenceRefused(
                    f"{key}.file: {_line(row)}: "
                    + (what if parts else f"no document is called {fact.id[:80]!r}"),
                    "name documents of the corpus, and quote their words; chunker.overlap must be as long as a quote",
                )
            passages.append(Gold(id=fact.id, quote=fact.quote, passages=names))
        return tuple(passages)


def _line(row: Row) -> str:
    """How a refusal names a row."""
    return f"{row.source.removeprefix('line:')}: row {row.id[:80]}"
