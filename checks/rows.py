"""One row of a split, and one prediction: the data that stages exchange as JSON lines."""

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, JsonValue, SerializerFunctionWrapHandler, model_serializer


class Record(BaseModel):
    """A value that steps exchange: frozen, no unknown keys, no NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)


class Sparse(Record):
    """A record that omits empty fields among ``sparse`` when it is written.

    So files that do not use such a field have the same bytes as before the field existed.
    """

    sparse: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _without_empty_fields(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in handler(self).items() if value or name not in self.sparse}


class Message(Record):
    """One turn of a chat."""

    role: Literal["system", "user", "assistant"]
    content: str


def request(messages: Iterable[Message]) -> str:
    """The request: all turns except the system's, which many rows share."""
    return "\n".join(message.content for message in messages if message.role != "system")


def earlier_requests(messages: Sequence[Message]) -> tuple[str, ...]:
    """What the assistant's turns in a prompt answer: the request before each of them."""
    return tuple(request(messages[:place]) for place, each in enumerate(messages) if each.role == "assistant")


class Row(Sparse):
    """One example. ``messages`` is the prompt, without the answer; ``reference`` is the answer.

    ``id``: 16 hex digits of the content's digest, unique in a data set. ``group``: rows of one group
    are near-duplicates and stay in one split. ``slice``: the part of the domain that metrics are
    broken down by. ``source``: where the row came from, ``path:line`` below the raw data. ``extra``: further columns
    that a training method needs, such as the answer that people liked less. ``origin``: the source's name in
    data.sources; empty for that of data.uri.
    """

    sparse: ClassVar[frozenset[str]] = frozenset({"extra", "origin"})

    id: Annotated[str, Field(min_length=1)]
    messages: Annotated[tuple[Message, ...], Field(min_length=1)]
    reference: str
    group: Annotated[str, Field(min_length=1)]
    slice: Annotated[str, Field(min_length=1)]
    source: str
    extra: dict[str, JsonValue] = Field(default_factory=dict)
    origin: str = ""

    @property
    def prompt(self) -> str:
        """The last user message."""
        return next((m.content for m in reversed(self.messages) if m.role == "user"), self.messages[-1].content)

    @property
    def transcript(self) -> str:
        """The prompt as a judge reads it: the last user message; of a chat each turn with its role, but no system's."""
        turns = [message for message in self.messages if message.role != "system"]
        return self.prompt if len(turns) < 2 else "\n\n".join(f"{turn.role}: {turn.content}" for turn in turns)


def of_tested_sources(train: Iterable[Row], test: Iterable[Row]) -> list[Row]:
    """The train rows of sources that have test rows: a source for training alone is another task."""
    tested = {row.origin for row in test}
    return [row for row in train if row.origin in tested]


class Learned(NamedTuple):
    """What is kept of a train row for a verdict: a million whole rows take gigabytes."""

    request: str
    source: str
    further: tuple[str, ...] = ()  # the system's messages, the reference, and strings of further columns
    earlier: tuple[str, ...] = ()  # requests that its chat answers before the last one

    @property
    def requests(self) -> tuple[str, ...]:
        """All requests that it answers."""
        return (self.request, *self.earlier)


class Prediction(Record):
    """One model's answer to one row of the test split.

    ``score`` is by the first scorer of evaluate.scorers, ``scores`` by each, all in [0, 1].
    ``latency`` is of files that older versions wrote, in seconds: it is read, and not written any more.
    """

    id: Annotated[str, Field(min_length=1)]
    prompt: str
    prediction: str
    reference: str
    score: Annotated[float, Field(ge=0, le=1)]
    scores: dict[str, float]
    group: str
    slice: str
    latency: Annotated[float | None, Field(ge=0, exclude=True)] = None
