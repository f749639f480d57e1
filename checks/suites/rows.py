"""rows: questions of a pinned file, which each model answers as it answers the test rows, by Lockstep's own scorers.

A line of the file is a JSON object. It has ``prompt``, or ``messages`` that end with a user's; and ``id``,
``reference``, ``group`` and ``slice`` where there are any. ``columns`` says where a file calls them otherwise::

    {"id": "capital", "prompt": "What is the capital of France?", "reference": "Paris", "slice": "places"}

A chat can call functions, as rows of data do, and ``columns.tools`` names the key of those that can be called. Such a
chat may also end with the assistant's turn, which is then the reference.

Every model is asked the same: no model gets examples or a list of labels. The answers are evidence, and gates score
them again.
"""

import abc
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, JsonValue, RootModel, TypeAdapter, ValidationError

from checks.evaluation import scoring
from checks.formats.json_schema import text_problem
from checks.formats.suite_report import (
    Reading,
    Role,
    Scale,
    Scored,
    SourceClass,
    SuiteAnswer,
    asked_sha,
)
from checks.kinds.scorer import Scorer
from checks.kinds.suite import AskedSuite, BoundedSuite, Made, Material, SizedSuite
from checks.process.errors import EvidenceRefused
from checks.records import call_columns, chats
from checks.records.rows import Message, Row
from checks.records.sections import Log, Positive, Section, Share
from checks.storage import digest, files, layout

_MESSAGES = TypeAdapter(Annotated[tuple[Message, ...], Field(min_length=1)])
SHARE = Scale(low=0.0, high=1.0)


class Columns(Section):
    """The keys of a line. A key that is named here must be in every line.

    Without a name, the field's own name is the key, and a line may lack it: then the id is the first 16 digits of a
    digest of prompt and reference, the reference is empty, the group is the line itself, and the slice is ``all``.
    ``tools`` are read only where they are named.
    """

    id: Annotated[str | None, Field(description="key of the sample's name")] = None
    prompt: Annotated[str | None, Field(description="key of the question")] = None
    messages: Annotated[
        str | None, Field(description="key of a chat, in place of the question")
    ] = None
    reference: Annotated[str | None, Field(description="key of the expected answer")] = None
    tools: Annotated[
        str | None,
        Field(
            exclude_if=lambda key: key is None,
            description="key of the functions that can be called; null: none are described",
        ),
    ] = None
    group: Annotated[str | None, Field(description="key of the cluster")] = None
    slice: Annotated[str | None, Field(description="key of the part of the domain")] = None


class Questions(BoundedSuite, AskedSuite, SizedSuite, abc.ABC):
    """The base of kinds whose ``models`` answer questions of a pinned file, by Lockstep's own scorers."""

    evidence: ClassVar[SourceClass] = "pure"
    # The gates score its answers again, by the same scorers.
    recomputed: ClassVar[bool] = True

    file: Annotated[
        Log, Field(description="JSON lines with prompt or messages, and more where there is more")
    ]
    columns: Annotated[Columns, Field(description="what the file calls its keys")] = Columns()
    instruction: Annotated[
        str | None, Field(description="the system message for rows without one")
    ] = None
    scorers: Annotated[
        tuple[Scorer, ...], Field(strict=False, min_length=1, description="how answers are scored")
    ]
    max_new_tokens: Annotated[Positive, Field(description="most tokens of an answer")]
    # A suite without it has the digest that it had before there was this key.
    json_schema: Annotated[
        str | None,
        Field(
            exclude_if=lambda schema: schema is None,
            description="as evaluate.json_schema, of these answers; null: none, also with evaluate.json_schema",
        ),
    ] = None
    chance: Annotated[
        Share | None,
        Field(
            description="mean of a model that knows nothing; null: of one that always gives the commonest reference"
        ),
    ] = None
    served: Annotated[bool, Field(description="whether `lockstep verify` asks the server, too")] = (
        False
    )

    def contradictions(self) -> Iterator[str]:
        """Yield each contradiction, as "problem|remedy"."""
        yield from super().contradictions()
        if len(set(self.scored_by)) < len(self.scorers):
            yield f"scorers: {', '.join(self.scored_by)} has one twice|name each scorer once"
        if unusable := text_problem(self.json_schema):
            yield f"json_schema: {unusable}"

    @property
    def scored_by(self) -> Sequence[str]:
        """Return the kinds of ``scorers``."""
        return tuple(scorer.kind for scorer in self.scorers)

    @property
    def answer_schema(self) -> str | None:
        """Return ``json_schema``."""
        return self.json_schema

    @property
    def served_tokens(self) -> int | None:
        """As of the models offline, if it is ``served``."""
        return self.max_new_tokens if self.served else None

    def score(self, metric: str, answer: str, reference: str) -> float:
        """By the scorer of that name. Raises ParamsRefused as it does."""
        return scoring.score(
            next(scorer for scorer in self.scorers if scorer.kind == metric), answer, reference
        )

    def chance_of(self, metric: str, references: Sequence[str]) -> float | None:
        """As declared; else the mean of the commonest reference as the answer to every row.

        None where no row has a reference: what a model must know then depends on nothing that is here.
        """
        if self.chance is not None:
            return self.chance
        if not any(references):
            return None
        ((commonest, _),) = Counter(references).most_common(1)
        return fmean(self.score(metric, commonest, reference) for reference in references)

    def questions(self, material: Material) -> list[Row]:
        """The rows of the file. Raises EvidenceRefused with the line that is none, or for another number of them."""
        rows = _rows(self, material.name, material.files["file"])
        if len(rows) != self.samples:
            raise EvidenceRefused(
                f"{layout.PARAMS}: suites.{material.name}.file: has {len(rows)} rows, and samples is {self.samples}",
                "set samples to what the file has",
            )
        return rows

    def row(self, line: Mapping[str, JsonValue], number: int) -> Row:
        """One row. Raises ValueError, of which ValidationError is one, with what is wrong with it."""
        return _row(self, line, number)

    def answered(
        self, material: Material, rows: Sequence[Row], asked: Sequence[tuple[Row, Reading | None]]
    ) -> Made:
        """Let each model answer what is ``asked`` about ``rows``, and score the answers."""
        about = {row.id: row for row in rows}
        scored, given = dict[Role, list[Scored]](), dict[Role, list[SuiteAnswer]]()
        for role in (role for role in self.models if role in material.models):
            answers = material.ask(role, [row for row, _ in asked], self.max_new_tokens)
            given[role] = [
                SuiteAnswer(
                    sample=row.id, model=material.models[role], messages=row.messages, reference=row.reference,
                    answer=answer, reading=reading, tools=row.tools,
                )
                for (row, reading), answer in zip(asked, answers, strict=True)
            ]  # fmt: skip
            scored[role] = [
                Scored(
                    sample=answer.sample, sample_sha=answer.sample_sha, model=answer.model, metric=metric, value=value,
                    group=about[answer.sample].group, slice=about[answer.sample].slice,
                )
                for answer, metric, value in self.scored_again(given[role])
            ]  # fmt: skip
        return Made(scored, given=given)


class Rows(Questions):
    """Questions that each of ``models`` answers. A metric is called after its scorer."""

    kind: Literal["rows"]

    @property
    def scales(self) -> Mapping[str, Scale]:
        """Each scorer gives a share."""
        return {scorer.kind: SHARE for scorer in self.scorers}

    def scored(self, material: Material) -> Made:
        """Let each model answer, and score the answers."""
        rows = self.questions(material)
        return self.answered(material, rows, [(row, None) for row in rows])


class _Line(RootModel[dict[str, JsonValue]]):
    """Any JSON object."""


def _rows(suite: Questions, name: str, path: Path) -> list[Row]:
    """Return the rows of the pinned file. Raises EvidenceRefused with the line that is none."""
    key = f"{layout.PARAMS}: suites.{name}.file"
    todo = "pin JSON lines with prompt, or name the file's keys in columns: docs/how-to/suites.md"
    lines = files.read_pinned(path, _Line, key, todo)
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(suite.row(line.root, number))
        except (ValueError, TypeError) as error:
            what = files.first(error) if isinstance(error, ValidationError) else str(error)
            raise EvidenceRefused(f"{key}: {number}: {what}", todo) from error
    if twice := [row_id for row_id, count in Counter(row.id for row in rows).items() if count > 1]:
        raise EvidenceRefused(
            f"{key}: two rows are called {twice[0][:80]!r}", "give each its own id"
        )
    return rows


def _row(suite: Questions, line: Mapping[str, JsonValue], number: int) -> Row:
    named = {field: getattr(suite.columns, field) for field in Columns.model_fields}
    if missing := [key for key in named.values() if key is not None and line.get(key) is None]:
        raise ValueError(f"has no {missing[0]!r}")
    value = {field: line.get(key or field) for field, key in named.items()}
    for field, other in (("prompt", "messages"), ("messages", "prompt")):
        if named[field] is not None and named[other] is None:
            value[other] = None  # The file calls something else by that name.
    tools = call_columns.tools(value["tools"]) if named["tools"] is not None else ()
    messages, answer = _chat(suite, value, tools)
    last = messages[-1]
    if last.role != "tool" and not (last.role == "user" and last.content.strip()):
        raise ValueError("does not end with a question of a user")
    made = [call for turn in (*messages, answer) for call in turn.tool_calls]
    if made and value["tools"] and not tools:
        raise ValueError("calls tools, and columns names no key of them: add tools: tools")
    call_columns.refuse_unknown(made, tools)
    if answer.tool_calls and not any(scorer.reads_calls for scorer in suite.scorers):
        raise ValueError("its reference calls a tool: add kind: tool-call to the suite's scorers")
    identity = (
        _text("id", value["id"])
        or digest.of_json(asked_sha(messages, answer.text, tools)).removeprefix("sha256:")[:16]
    )
    return Row(
        id=identity, messages=messages, reference=answer.text, group=_text("group", value["group"]) or identity[:200],
        slice=_text("slice", value["slice"]) or "all", source=f"line:{number}", calls=answer.tool_calls, tools=tools,
    )  # fmt: skip


def _chat(
    suite: Questions, value: Mapping[str, Any], tools: Sequence[Any]
) -> tuple[tuple[Message, ...], Message]:
    """Return what is asked, and the reference as a turn: the last one of a chat that ends with the assistant's."""
    prompt, messages, reference = value["prompt"], value["messages"], value["reference"]
    if (prompt is None) == (messages is None):
        raise ValueError(
            "has both prompt and messages"
            if prompt is not None
            else "has neither prompt nor messages"
        )
    answer = Message(role="assistant", content=_text("reference", reference))
    asked: Sequence[Message]
    if prompt is not None:
        asked = (Message(role="user", content=_text("prompt", prompt)),)
    elif not _can_call(messages, tools):
        asked = _MESSAGES.validate_python(messages)
    elif reference is None and messages[-1].get("role") == "assistant":
        *asked, answer = chats.turns(messages, chats.CHAT)
    else:
        asked = chats.turns(messages, chats.PROMPT)
    if suite.instruction is not None and asked[0].role != "system":
        asked = (Message(role="system", content=suite.instruction), *asked)
    return tuple(asked), answer


def _can_call(messages: Any, tools: Sequence[Any]) -> bool:
    """Whether a list of turns has tools, calls a function, or has the result of a call."""
    turns = messages if isinstance(messages, list) else []
    if not all(isinstance(turn, dict) for turn in turns):
        return False
    return any(tools or turn.get("tool_calls") or turn.get("role") == "tool" for turn in turns)


def _text(field: str, value: JsonValue) -> str:
    """Text; numbers and booleans as JSON has them. Empty: there is none."""
    if value is None:
        return ""
    if isinstance(value, dict | list):
        raise ValueError(f"{field} is no text")
    return (
        value
        if isinstance(value, str)
        else str(value).lower()
        if isinstance(value, bool)
        else str(value)
    )
