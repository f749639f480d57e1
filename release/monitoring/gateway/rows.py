"""Makes the row that is stored of a request: OpenAI's fields become those of captures, texts are redacted.

It runs in the thread that writes, after the answer has gone.
"""

import hashlib
import hmac
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from checks.data import detectors
from checks.formats import captures
from release.monitoring.gateway.answers import Choice, ParsedAnswer, object_in, thought_of

MOST_BODY = 512 << 10  # bytes of a request that is stored: about 128,000 tokens
MOST_TEXTS = 4000  # Texts of a row: those of messages, and values of calls of tools.
_ROLES = 40  # characters


class TooLarge(Exception):  # noqa: N818 - no malfunction: a row is not stored
    """A request or an answer is too large to be stored."""


@dataclass
class Exchange:
    """One request and what became of it. ``body``: the request as it came; ``error``: why no whole answer was given.

    ``adapter``: the one that it names, where a server has several; ``asked``: the release of that; ``answered_by``: the
    adapter that got it. ``upstream``: the address of the server that got it. ``cause``: the exception behind ``error``.
    ``heard``: when the server's latest text came, or the request was sent, on the clock of ``time.monotonic``.
    ``provider``: what runs the model, as OpenTelemetry calls it.
    """

    time: datetime
    request_id: str
    operation: Literal["chat", "text_completion"]
    body: bytes = b""
    release: str | None = None
    status: int = 0
    error: str | None = None
    answer: ParsedAnswer = field(default_factory=ParsedAnswer)
    seconds: float = 0.0
    first: float | None = None
    upstream: str | None = None
    cause: str | None = None
    provider: str | None = None
    heard: float = 0.0
    user: str | None = None  # The user that a header named.
    adapter: str | None = None
    asked: str | None = None
    answered_by: str | None = None
    # The client named the canary itself, or wrote the name in such a way that it cannot be replaced.
    is_chosen: bool = False

    @property
    def size(self) -> int:
        """Return what it takes in a queue: bytes of the request and characters of the answer."""
        return len(self.body) + self.answer.size

    @property
    def is_large(self) -> bool:
        """Whether it is too large to be stored, as far as sizes say."""
        return len(self.body) > MOST_BODY or self.answer.cut


def sampled(request_id: str, share: float) -> bool:
    """Whether a request is stored: by its id, so that two releases that get the same requests store the same ones.

    Requests of `lockstep shadow` are no traffic and are never stored.
    """
    return (
        request_id != captures.SHADOW_ID
        and int.from_bytes(hashlib.sha256(request_id.encode()).digest()[:8], "big") < share * 2**64
    )


def row(
    exchange: Exchange, environment: str, share: float, secret: bytes | None = None
) -> captures.Capture:
    """The row to store. Every text from the client or the server is redacted, except the request's id.

    ``secret``: makes a key of the user, which is another one for each release; None: no key is stored. Raises TooLarge.
    """
    if exchange.is_large:
        raise TooLarge
    redactor = _Redactor()
    model = exchange.answer.model or exchange.answered_by
    # As for a release that is named by its digest: it was not drawn, and is not compared.
    if exchange.is_chosen:
        model = f"{exchange.answered_by}-{exchange.release}"
    return captures.Capture(
        time=exchange.time,
        operation=exchange.operation,
        provider=exchange.provider,
        model=redactor.plain(model),
        input_messages=tuple(_prompt(exchange.body, redactor)),
        output_messages=tuple(
            _output(choice, redactor, broken=exchange.error is not None)
            for _, choice in sorted(exchange.answer.choices.items())
        ),
        input_tokens=exchange.answer.input_tokens,
        output_tokens=exchange.answer.output_tokens,
        thought_tokens=exchange.answer.thought_tokens,
        status=exchange.status,
        error=exchange.error,
        request_id=exchange.request_id,
        release=exchange.release,
        environment=environment,
        seconds=exchange.seconds,
        seconds_to_first_token=exchange.first,
        redactions=dict(redactor.kinds),
        sampled_share=share,
        user_key=_user_key(exchange, secret) if secret else None,
    )


def _user_key(exchange: Exchange, secret: bytes) -> str | None:
    """A keyed hash of the user that a header or OpenAI's fields name; None: they name none."""
    body = object_in(exchange.body)
    user = exchange.user or body.get("safety_identifier") or body.get("user")
    if not isinstance(user, str):
        return None
    named = f"{exchange.release}\n{user}".encode(errors="replace")
    return hmac.new(secret, named, hashlib.sha256).hexdigest()[:16]


class _Redactor:
    """Redacts the texts of one row. ``kinds``: how often each kind was redacted."""

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()
        self._left = MOST_TEXTS

    def plain(self, value: Any) -> Any:
        """Redact all texts of a value of JSON, keys too. Raises TooLarge if they are too many."""
        self._left -= 1
        if self._left < 0:
            raise TooLarge
        if isinstance(value, str):
            # Half a surrogate pair is no UTF-8.
            text, counts = detectors.redact(value.encode(errors="replace").decode())
            self.kinds.update(counts)
            return text
        if isinstance(value, list):
            return [self.plain(item) for item in value]
        if isinstance(value, dict):
            return {self.plain(key): self.plain(item) for key, item in value.items()}
        return value

    def text(self, kind: str, text: str) -> captures.Part:
        """Return a part with a redacted text."""
        return captures.Part(type=kind, content=self.plain(text))

    def short(self, value: Any) -> str:
        """Return the name of a role or of a kind, cut after it was redacted: half an address is not recognised."""
        return str(self.plain(str(value or "unknown")))[:_ROLES]


def _prompt(data: bytes, redactor: _Redactor) -> Iterator[captures.InputMessage]:
    body = object_in(data)
    prompts = body.get("prompt")
    for prompt in prompts if isinstance(prompts, list) else [prompts]:
        if isinstance(prompt, str):
            yield captures.InputMessage(role="user", parts=(redactor.text("text", prompt),))
    listed = body.get("messages")
    for message in listed if isinstance(listed, list) else []:
        if isinstance(message, dict):
            role = redactor.short(message.get("role"))
            yield captures.InputMessage(role=role, parts=tuple(_parts(message, role, redactor)))


def _parts(message: dict[str, Any], role: str, redactor: _Redactor) -> Iterator[captures.Part]:
    content = message.get("content")
    if role == "tool":
        call = message.get("tool_call_id")
        response = redactor.plain(content)
        named = redactor.plain(call) if isinstance(call, str) else None
        yield captures.Part(type="tool_call_response", id=named, response=response)
        return
    if isinstance(thought := thought_of(message), str):
        yield redactor.text("reasoning", thought)
    for part in content if isinstance(content, list) else [content]:
        if isinstance(part, str):
            yield redactor.text("text", part)
        elif isinstance(part, dict):
            kind = redactor.short(part.get("type"))
            text = part.get("text")
            yield redactor.text(kind, text) if isinstance(text, str) else captures.Part(type=kind)
    yield from _calls(message.get("tool_calls"), redactor)


def _output(choice: Choice, redactor: _Redactor, *, broken: bool) -> captures.OutputMessage:
    spoken = (("reasoning", choice.reasoning), ("text", choice.text))
    parts = [redactor.text(kind, "".join(pieces)) for kind, pieces in spoken if pieces]
    finish = redactor.short(choice.finish or ("error" if broken else None))
    return captures.OutputMessage(
        role="assistant", parts=(*parts, *_calls(choice.calls, redactor)), finish_reason=finish
    )


def _calls(calls: Any, redactor: _Redactor) -> Iterator[captures.Part]:
    """Calls of tools. Those of a stream come in pieces, which belong together by their index."""
    joined: dict[Any, dict[str, str]] = {}
    for number, call in enumerate(calls if isinstance(calls, list) else []):
        if not isinstance(call, dict):
            continue
        function = call.get("function")
        entry = joined.setdefault(
            call.get("index", f"whole {number}"), {"id": "", "name": "", "arguments": ""}
        )
        shown = {"id": call.get("id"), **(function if isinstance(function, dict) else {})}
        for key in entry:
            if isinstance(shown.get(key), str):
                entry[key] += shown[key]
    for entry in joined.values():
        call, name, arguments = (redactor.plain(value) for value in entry.values())
        yield captures.Part(
            type="tool_call", id=call or None, name=name or None, arguments=arguments
        )
