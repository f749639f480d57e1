"""One row of a split, and one prediction: the units of data that stages hand over as JSON lines."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class Record(BaseModel):
    """A hand-over value: frozen, no unknown keys, no NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Message(Record):
    """One turn of a chat."""

    role: Literal["system", "user", "assistant"]
    content: str


class Row(Record):
    """One example. ``messages`` is the prompt, without the answer; ``reference`` is the answer.

    ``id``: 16 hex digits of the content's digest, unique in a data set. ``group``: rows of one group
    are near-duplicates and stay in one split. ``slice``: the part of the domain that metrics are
    broken down by. ``source``: where the row came from, ``path:line`` below the raw data.
    """

    id: Annotated[str, Field(min_length=1)]
    messages: Annotated[tuple[Message, ...], Field(min_length=1)]
    reference: str
    group: Annotated[str, Field(min_length=1)]
    slice: Annotated[str, Field(min_length=1)]
    source: str

    @property
    def prompt(self) -> str:
        """The last user message."""
        return next((m.content for m in reversed(self.messages) if m.role == "user"), self.messages[-1].content)


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
