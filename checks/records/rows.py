"""One row of a split, and one prediction: the data that stages exchange as JSON lines."""

import json
from collections.abc import Iterable, Sequence
from typing import Annotated, ClassVar, Literal, NamedTuple

from pydantic import Field, JsonValue, ValidationError, ValidationInfo, field_validator

from checks.records.record import Record as Record
from checks.records.record import Sparse as Sparse


class Function(Record):
    """The function that is called, and with what."""

    name: Annotated[str, Field(min_length=1)]
    arguments: dict[str, JsonValue]


class ToolCall(Sparse):
    """A call of a function, as OpenAI and chat templates have it. ``id``: what its result names it by, if anything."""

    sparse: ClassVar[frozenset[str]] = frozenset({"id"})

    id: str = ""
    type: Literal["function"] = "function"
    function: Function


class Message(Sparse):
    """One turn of a chat. ``tool_calls`` are the assistant's; a turn of role ``tool`` is the result of one of them.

    ``tool_call_id`` or ``name`` say of which; without both, results are in the order of the calls.
    """

    sparse: ClassVar[frozenset[str]] = frozenset({"tool_calls", "tool_call_id", "name"})

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    name: str = ""

    @property
    def text(self) -> str:
        """All that it says: its content, and its calls."""
        return said(self.content, self.tool_calls) if self.tool_calls else self.content


def said(content: str, calls: Sequence[ToolCall]) -> str:
    """An answer as one text: its content, then its calls."""
    return "\n".join(part for part in (content, _written(calls)) if part)


def _written(calls: Iterable[ToolCall]) -> str:
    """As Hermes and Qwen write them: ``checks.records.tool_calls`` reads it."""
    written = (json.dumps(call.function.model_dump(), ensure_ascii=False) for call in calls)
    return "\n".join(f"<tool_call>\n{call}\n</tool_call>" for call in written)


def calls_in(messages: Iterable[Message]) -> bool:
    """Whether a turn calls a function, or is the result of a call."""
    return any(message.tool_calls or message.role == "tool" for message in messages)


def in_the_reference(calls: tuple[ToolCall, ...], info: ValidationInfo) -> tuple[ToolCall, ...]:
    """A validator of ``calls`` beside ``reference``."""
    if not str(info.data.get("reference")).endswith(_written(calls)):
        raise ValueError(
            "the reference does not end with these calls, as <tool_call>{JSON}</tool_call>"
        )
    return calls


def request(messages: Iterable[Message]) -> str:
    """Return the request: all turns except the system's, which many rows share."""
    return "\n".join(message.text for message in messages if message.role != "system")


def earlier_requests(messages: Sequence[Message]) -> tuple[str, ...]:
    """Return what the assistant's turns in a prompt answer: the request before each of them."""
    return tuple(
        request(messages[:place])
        for place, message in enumerate(messages)
        if message.role == "assistant"
    )


class Row(Sparse):
    """One example. ``messages`` is the prompt, without the answer; ``reference`` is the answer, its calls included.

    ``calls``: the calls that the answer makes. ``tools``: the functions that can be called, as OpenAI and chat
    templates describe them.

    ``document``: the row is a document for continued pre-training. Its text is ``reference``, and its prompt is empty.

    ``id``: 16 hex digits of the content's digest, unique in a data set. ``group``: rows of one group
    are near-duplicates and stay in one split. ``slice``: the part of the domain that metrics are
    broken down by. ``source``: where the row came from, ``path:line`` below the raw data. ``extra``: further columns
    that a training method needs, such as the answer that people liked less. ``origin``: the source's name in
    data.sources; empty for that of data.uri.
    """

    sparse: ClassVar[frozenset[str]] = frozenset({"extra", "origin", "calls", "tools", "document"})

    id: Annotated[str, Field(min_length=1)]
    messages: Annotated[tuple[Message, ...], Field(min_length=1)]
    reference: str
    group: Annotated[str, Field(min_length=1)]
    slice: Annotated[str, Field(min_length=1)]
    source: str
    extra: dict[str, JsonValue] = Field(default_factory=dict)
    origin: str = ""
    calls: tuple[ToolCall, ...] = ()
    tools: tuple[dict[str, JsonValue], ...] = ()
    document: bool = False

    _calls_are_in_the_reference = field_validator("calls")(in_the_reference)

    @property
    def answer(self) -> Message:
        """Return the reference as a turn of the assistant."""
        if not self.calls:
            return Message(role="assistant", content=self.reference)
        return Message(
            role="assistant",
            content=self.reference.removesuffix(_written(self.calls)).removesuffix("\n"),
            tool_calls=self.calls,
        )

    def turn(self, text: str) -> Message:
        """Another answer than the reference as a turn: with the calls that it ends in, if the row has tools or calls.

        Calls have the form of those in the reference; in another form they are text.
        """
        lines, calls = text.split("\n"), list[ToolCall]()
        while self.has_calls and lines[-3:-2] + lines[-1:] == ["<tool_call>", "</tool_call>"]:
            try:
                calls.insert(0, ToolCall(function=Function.model_validate_json(lines[-2])))
            except ValidationError:
                break
            del lines[-3:]
        content = "\n".join(lines)
        if said(content, calls) != text:
            return Message(role="assistant", content=text)
        return Message(role="assistant", content=content, tool_calls=tuple(calls))

    @property
    def has_calls(self) -> bool:
        """Whether it describes functions, or a turn calls one."""
        return bool(self.tools or self.calls) or calls_in(self.messages)

    @property
    def schemas(self) -> list[dict[str, JsonValue]] | None:
        """``tools`` as transformers takes them."""
        return list(self.tools) or None

    @property
    def prompt(self) -> str:
        """Return the last user message."""
        return next(
            (m.content for m in reversed(self.messages) if m.role == "user"),
            self.messages[-1].content,
        )

    @property
    def transcript(self) -> str:
        """The prompt as a judge reads it: the last user message; of a chat each turn with its role, but no system's."""
        turns = [message for message in self.messages if message.role != "system"]
        return (
            self.prompt
            if len(turns) < 2
            else "\n\n".join(f"{turn.role}: {turn.text}" for turn in turns)
        )


def of_tested_sources(train: Iterable[Row], test: Iterable[Row]) -> list[Row]:
    """Return the train rows of sources that have test rows: a source for training alone is another task.

    If one source is the whole test split, none of its rows are train rows. Then those of data.uri are returned.
    """
    rows, tested = list(train), {row.origin for row in test}
    return [row for row in rows if row.origin in tested] or [row for row in rows if not row.origin]


class Learned(NamedTuple):
    """The part of a train row that a verdict needs: a million whole rows take gigabytes.

    Of a document, ``request`` is its text and ``earlier`` its passages (``checks.data.documents``).
    """

    request: str
    source: str
    further: tuple[
        str, ...
    ] = ()  # the system's messages, tools, the reference, and strings of further columns
    earlier: tuple[str, ...] = ()  # requests that its chat answers before the last one
    document: bool = False

    @property
    def requests(self) -> tuple[str, ...]:
        """All requests that it answers."""
        return (self.request, *self.earlier)


class Thought(Record):
    """The thought of a model before its answer. ``closed``: false where it never ended, so that there is no answer.

    ``tokens``: its length, by the tokenizer of the candidate; of an answer without a thought 0.
    """

    text: str
    tokens: Annotated[int, Field(ge=0)]
    closed: bool


class Prediction(Sparse):
    """One model's answer to one row of the test split.

    ``score`` is by the first scorer of evaluate.scorers, ``scores`` by each, all in [0, 1]. ``learned``: the train
    split of this model, a reference of another test split, asks the same. No comparison with it counts this row.
    ``further``: the answers of the second and later draws, where answers are sampled. Scores are means over all draws.
    ``thoughts``: with ``base.thinking``, what was thought before the answer of each draw. Where a thought has no end,
    the answer is empty.
    """

    sparse: ClassVar[frozenset[str]] = frozenset({"learned", "further", "thoughts"})

    id: Annotated[str, Field(min_length=1)]
    prompt: str
    prediction: str
    reference: str
    score: Annotated[float, Field(ge=0, le=1)]
    scores: dict[str, float]
    group: str
    slice: str
    learned: bool = False
    further: tuple[str, ...] = ()
    thoughts: tuple[Thought, ...] = ()

    @property
    def draws(self) -> tuple[str, ...]:
        """All answers to the row."""
        return (self.prediction, *self.further)
