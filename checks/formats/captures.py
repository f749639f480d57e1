"""One captured request of a running model: what the gateway stores and `lockstep watch` reads, as JSON lines.

Names follow OpenTelemetry's conventions for generative AI where they have one; ours begin with ``lockstep.``. Texts are
redacted before a row is made. An example, one line in a file:

{"time": "2026-11-26T16:20:00.123456Z", "gen_ai.operation.name": "chat", "gen_ai.provider.name": "vllm",
 "gen_ai.response.model": "router",
 "gen_ai.input.messages": [{"role": "user", "parts": [{"type": "text", "content": "create a group"}]}],
 "gen_ai.output.messages": [{"role": "assistant", "parts": [{"type": "text", "content": "az group create"}],
 "finish_reason": "stop"}], "gen_ai.usage.input_tokens": 11, "gen_ai.usage.output_tokens": 4,
 "http.response.status_code": 200, "error.type": null, "lockstep.request_id": "3f1c…", "lockstep.release":
 "2bf8835691b3", "lockstep.environment": "production", "lockstep.seconds": 0.31,
 "lockstep.seconds_to_first_token": null, "lockstep.redactions": {"email": 1}, "lockstep.sampled_share": 0.1,
 "lockstep.user_key": "9b2d6c01f3a8e754"}

``lockstep.user_key`` is there only where the gateway was told to make one, and
``gen_ai.usage.reasoning.output_tokens`` only where the model thought.

A file is ENVIRONMENT/YYYY-MM-DD/HH-WRITER-NUMBER.jsonl: rows of requests that ended in that hour (UTC); of those that
`lockstep capture` took from other tools, requests that arrived in it. It is complete and never changed. While it is
written it is called ….jsonl.open, and its last line may be a part of one.
"""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AwareDatetime, BeforeValidator, ConfigDict, Field, JsonValue, ValidationError

from checks.formats.report import Count
from checks.formats.serving import Seconds
from checks.process.errors import EvidenceRefused
from checks.records.record import CapturedName, Record, ReleaseDigits, Sparse
from checks.storage import files, layout

CLOSED, OPEN = ".jsonl", ".jsonl.open"
# A gateway allows no longer one, so a row of an hour may be in a file as much later.
LONGEST_REQUEST = timedelta(hours=1)
Release = ReleaseDigits
Name = CapturedName
# An answer names its request and the release that gave it.
ID_HEADER, RELEASE_HEADER = "X-Request-Id", "Lockstep-Release"
# Every request of `lockstep shadow` has it. They are no traffic, so a gateway does not store them.
SHADOW_ID = "lockstep-shadow"

# The folder of weights is /models/NAME-VERSION; an adapter that ships beside its base is in a folder of that.
_FOLDER = re.compile(rf".*-([0-9a-f]{{12}})(?:/{layout.SHIPPED_ADAPTER})?/?")
_DIGEST = re.compile(r"(?:sha256:)?([0-9a-f]{12})(?:[0-9a-f]{52})?")
_NAME = re.compile(r"(?:^|/)(\d{4}-\d\d-\d\d)/(\d\d)-[^/]+$")
# The time of a row is written in UTC, whatever zone it was read in.
_Time = Annotated[
    AwareDatetime,
    BeforeValidator(
        lambda value: (
            value.astimezone(UTC) if isinstance(value, datetime) and value.tzinfo else value
        )
    ),
]


class Part(Sparse):
    """A part of a message: ``text`` and ``reasoning`` have ``content``; calls of tools have a name and arguments.

    Other parts, such as images, are stored as their type alone: they cannot be redacted.
    """

    sparse: ClassVar[frozenset[str]] = frozenset({"content", "id", "name", "arguments", "response"})

    # One of text, reasoning, tool_call, tool_call_response, image_url.
    type: Annotated[str, Field(min_length=1, max_length=40)]
    content: str | None = None
    id: str | None = None
    name: str | None = None
    arguments: JsonValue = None
    response: JsonValue = None


class InputMessage(Record):
    """One turn of the prompt."""

    # One of system, developer, user, assistant, tool.
    role: Annotated[str, Field(min_length=1, max_length=40)]
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        """Its text parts, joined."""
        return "".join(part.content or "" for part in self.parts if part.type == "text")


class OutputMessage(InputMessage):
    """One answer. ``finish_reason``: as the server said, such as stop or length; error if the answer broke off."""

    finish_reason: Annotated[str, Field(min_length=1, max_length=40)]


class Capture(Sparse):
    """One request that ended, and its answer. Seconds count from the request's arrival at the gateway.

    ``user_key``: tells requests of one user to one release from those of others, and says nothing else of a person.
    """

    sparse: ClassVar[frozenset[str]] = frozenset(
        {"lockstep.user_key", "gen_ai.usage.reasoning.output_tokens"}
    )

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    time: _Time  # when the request arrived
    operation: Annotated[Literal["chat", "text_completion"], Field(alias="gen_ai.operation.name")]
    # What runs the model, such as vllm; None: another tool recorded the request.
    provider: Annotated[str | None, Field(alias="gen_ai.provider.name", max_length=60)] = None
    # The model's name as the server gives it.
    model: Annotated[str | None, Field(alias="gen_ai.response.model")] = None
    input_messages: Annotated[tuple[InputMessage, ...], Field(alias="gen_ai.input.messages")]
    output_messages: Annotated[
        tuple[OutputMessage, ...], Field(alias="gen_ai.output.messages")
    ] = ()
    input_tokens: Annotated[Count | None, Field(alias="gen_ai.usage.input_tokens")] = None
    output_tokens: Annotated[Count | None, Field(alias="gen_ai.usage.output_tokens")] = None
    # The part of output_tokens that are thoughts, which a gateway may have estimated. None: no thought.
    thought_tokens: Annotated[Count | None, Field(alias="gen_ai.usage.reasoning.output_tokens")] = (
        None
    )
    # Status 499 says that the client went away.
    status: Annotated[int, Field(alias="http.response.status_code", ge=100, le=599)]
    # None if the answer is complete.
    error: Annotated[str | None, Field(alias="error.type", max_length=80)] = None
    request_id: Annotated[Name, Field(alias="lockstep.request_id")]
    # None if the server does not say.
    release: Annotated[Release | None, Field(alias="lockstep.release")] = None
    environment: Annotated[Name, Field(alias="lockstep.environment")]
    seconds: Annotated[Seconds, Field(alias="lockstep.seconds")]
    seconds_to_first_token: Annotated[
        Seconds | None, Field(alias="lockstep.seconds_to_first_token")
    ] = None  # streams
    # The number of redactions by kind.
    redactions: Annotated[
        dict[str, Count], Field(alias="lockstep.redactions", default_factory=dict)
    ]
    sampled_share: Annotated[float, Field(alias="lockstep.sampled_share", gt=0, le=1)]
    user_key: Annotated[str | None, Field(alias="lockstep.user_key", pattern=r"^[0-9a-f]{16}$")] = (
        None
    )

    @property
    def prompt(self) -> str:
        """Return the last user message, as ``checks.records.rows.Row.prompt``; empty if there is none."""
        return next(
            (message.text for message in reversed(self.input_messages) if message.role == "user"),
            "",
        )

    @property
    def answer(self) -> str | None:
        """Return the text of the first answer; None if there was none."""
        return self.output_messages[0].text if self.output_messages else None


def release_of(folder: Any) -> str | None:
    """Return the release whose weights a server says that it serves from ``folder``; None if it does not say."""
    match = _FOLDER.fullmatch(folder) if isinstance(folder, str) else None
    return match[1] if match else None


def release_named(text: str) -> str | None:
    """Return the release of a model's digest, or of its first 12 digits; None if ``text`` is neither."""
    match = _DIGEST.fullmatch(text)
    return match[1] if match else None


def parse(data: bytes, place: str) -> Iterator[Capture]:
    """The rows of a file; of one that is still written (its name ends in OPEN) an incomplete last line is left out.

    Raises EvidenceRefused with the line that is no capture.
    """
    lines = data.split(b"\n")
    last = lines.pop()
    if last and not place.endswith(OPEN):
        lines.append(last)
    for number, line in enumerate(lines, 1):
        try:
            yield Capture.model_validate_json(line)
        except ValidationError as error:
            raise EvidenceRefused(
                f"{place}:{number}: {files.first(error)}",
                "move the file out of the captures: only the gateway, or an adapter to its format, writes there",
            ) from error


def may_hold(name: str, since: datetime, until: datetime) -> bool:
    """Whether a file of this name may hold requests that arrived from ``since`` on and before ``until``."""
    match = _NAME.search(PurePosixPath(name).as_posix())
    if match is None or not name.endswith((CLOSED, OPEN)):
        return False
    hour = datetime.fromisoformat(f"{match[1]}T{match[2]}:00:00+00:00")
    return since - timedelta(hours=1) < hour < until + LONGEST_REQUEST
