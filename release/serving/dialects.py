"""Requests and replies in each ``Runtime.dialect``.

All are OpenAI's chat completions. In addition, ``tgi`` (its OpenAPI document) returns log-probabilities by token
text and tokenizes a chat at /chat_tokenize; ``vllm`` returns token ids on request and tokenizes at /tokenize;
``sglang`` does both, too, and returns the ids in a list beside the log-probabilities (its release 0.5.23);
``llamacpp`` returns token ids, writes a chat as text at /apply-template and tokenizes that at /tokenize; ``openai`` has
neither. TGI cannot be kept from ending an answer. ``openai`` and ``llamacpp`` have ``logit_bias`` for that; vLLM
refuses it where it speculates, so it and SGLang are given the fewest tokens of the answer.

A chat with tools is asked for text. With ``tool_choice: none`` vLLM and llama.cpp describe the tools in the prompt, and
read no call from the answer. TGI and SGLang would leave them out of the prompt then. Without it, TGI's model can write
only a call, and SGLang, started without a parser of calls, returns the text as it is.

A server that takes thoughts out of answers is asked to leave them in. vLLM cannot, so its two parts are joined again.
``parsed`` asks as clients do, for the parts that the server makes of an answer.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import Annotated, Any, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from checks.config.release_params import Reasoning
from checks.formats.captures import RELEASE_HEADER
from checks.records.rows import Message
from checks.storage import files
from release.runtimes import Dialect
from release.serving.client import Client, NoAnswer, shown

CHAT = "/v1/chat/completions"
Part = TypeVar("Part", bound=BaseModel)


class Token(NamedTuple):
    """One generated token from the server, by id or by text. ``logprob`` in nats."""

    id: int | None
    text: str | None
    logprob: float


class Answer(NamedTuple):
    """One complete answer; None for what the server does not return.

    ``finish`` is "length" if the limit on new tokens ended it, anything else if the model did. ``release``: which one
    answered, as a gateway says.
    """

    text: str
    finish: str
    tokens: tuple[Token, ...] | None
    prompt_tokens: int | None
    release: str | None = None


class Parsed(NamedTuple):
    """The parts that a server made of an answer. ``calls``: the name and the arguments of each, as text.

    ``finish``: as ``Answer`` has it.
    """

    content: str
    thought: str
    calls: tuple[tuple[str, str], ...]
    finish: str


class Streamed(NamedTuple):
    """One streamed answer. Seconds count from sending the request; ``first``: to the first text, if any came."""

    text: str
    tokens: int
    first: float | None
    seconds: float
    parts: Parsed


class _Loose(BaseModel):
    """A part of a reply; unknown keys are allowed."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)


class _Logprob(_Loose):
    id: int | None = None
    token: str
    logprob: float


class _Logprobs(_Loose):
    content: list[_Logprob] | None = None


class _Function(_Loose):
    name: str | None = None
    arguments: str | None = None


class _Call(_Loose):
    index: Annotated[int, Field(ge=0)] = 0
    function: _Function


class _Text(_Loose):
    """A message, or a part of one. vLLM calls a thought ``reasoning``."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[_Call] | None = None

    @property
    def thought(self) -> str:
        return self.reasoning_content or self.reasoning or ""


class _Choice(_Loose):
    message: _Text
    finish_reason: str
    logprobs: _Logprobs | None = None
    response_token_ids: list[int] | None = None

    @property
    def tokens(self) -> list[_Logprob] | None:
        """The tokens that the answer has log-probabilities of, each with its id where SGLang lists the ids apart."""
        content = self.logprobs.content if self.logprobs else None
        ids = self.response_token_ids
        if content is None or ids is None:
            return content
        if (
            abs(len(content) - len(ids)) > 1
        ):  # the token that ended the answer may be in one of them alone
            raise NoAnswer(f"returned {len(ids)} token ids and {len(content)} log-probabilities")
        pairs = zip(content, ids, strict=False)
        return [token.model_copy(update={"id": number}) for token, number in pairs]


class _Delta(_Loose):
    delta: _Text = _Text()
    finish_reason: str | None = None


class _Usage(_Loose):
    prompt_tokens: Annotated[int, Field(ge=0)]
    completion_tokens: Annotated[int, Field(ge=0)] = 0


class _Chat(_Loose):
    choices: list[_Choice] = Field(min_length=1)
    usage: _Usage | None = None


class _Chunk(_Loose):
    error: Any = None
    choices: list[_Delta] = []
    usage: _Usage | None = None


class _TgiToken(_Loose):
    id: int


class _TgiTokens(_Loose):
    tokenize_response: list[_TgiToken]


class _VllmTokens(_Loose):
    tokens: list[int]


class _Prompt(_Loose):
    prompt: str


@dataclass(frozen=True)
class Speech:
    """The fields of one dialect. ``logprobs``: fields that request log-probabilities, None if unsupported.

    ``unending``: fields that keep some tokens from ending an answer before the limit; None if it cannot.
    ``raw``: fields beside ``tools`` with which a server answers as without them, but for the prompt; None if it cannot.
    ``whole``: fields with which a server leaves thoughts in the text. ``only``: fields that turn off every sampler but
    the temperature and top_p, in this order.
    """

    logprobs: dict[str, Any] | None
    token: Callable[[_Logprob], Token]
    tokenize: Callable[[Client, dict[str, Any]], tuple[int, ...]] | None
    unending: Callable[[Sequence[int], int], dict[str, Any]] | None
    raw: dict[str, Any] | None
    whole: Mapping[str, Any] = field(default_factory=dict)
    only: Mapping[str, Any] = field(default_factory=dict)

    def without(self, ends: Sequence[int], limit: int) -> dict[str, Any]:
        """The fields of a request for exactly ``limit`` tokens, none of them among ``ends``; none if there are none."""
        return self.unending(ends, limit) if ends and self.unending else {}

    def for_text(
        self, tools: Sequence[dict[str, JsonValue]], reasoning: Reasoning | None = None
    ) -> dict[str, Any]:
        """Return the fields by which a prompt describes ``tools``, and an answer has all that the model writes."""
        described = {"tools": list(tools), **(self.raw or {})} if tools else {}
        return described | (dict(self.whole) if reasoning else {})


def chat(
    client: Client, speech: Speech, model: str, messages: Sequence[Message], limit: int, ends: Sequence[int] = (),
    tools: Sequence[dict[str, JsonValue]] = (), reasoning: Reasoning | None = None,
    schema: Mapping[str, JsonValue] | None = None,
) -> Answer:  # fmt: skip
    """Request the greedy answer of at most ``limit`` tokens, without the tokens ``ends``. Raises NoAnswer.

    ``reasoning``: the marks of thoughts, if the server takes them out of answers. ``schema``: what it must fit.
    """
    body = request(model, messages, limit) | response_format(schema)
    body |= speech.for_text(tools, reasoning) | speech.without(ends, limit)
    reply = client.post(CHAT, body | (speech.logprobs or {})).good()
    answer = _read(_Chat, reply.body)
    choice, usage = answer.choices[0], answer.usage
    tokens = choice.tokens if speech.logprobs else None
    return Answer(
        text=_joined(choice.message.thought, choice.message.content or "", reasoning),
        finish=choice.finish_reason,
        tokens=None if tokens is None else tuple(map(speech.token, tokens)),
        prompt_tokens=usage.prompt_tokens if usage else None,
        release=reply.headers.get(RELEASE_HEADER),
    )


def stream(
    client: Client,
    model: str,
    messages: Sequence[Message],
    limit: int,
    spoke: Callable[[], object] = lambda: None,
    fields: Mapping[str, Any] | None = None,
    reasoning: Reasoning | None = None,
) -> Streamed:
    """Request the same as a stream; ``spoke`` is called at its first text. ``fields``: what the dialect adds.

    Raises NoAnswer, also if the stream ends before the answer does.
    """
    return _streamed(client, request(model, messages, limit) | dict(fields or {}), spoke, reasoning)


def parsed(client: Client, body: Mapping[str, Any], streamed: bool) -> Parsed:
    """Ask as a client does, and return the parts of the answer. Raises NoAnswer."""
    if streamed:
        return _streamed(client, body).parts
    choice = _read(_Chat, client.post(CHAT, body).good().body).choices[0]
    calls = [call.function for call in choice.message.tool_calls or ()]
    named = tuple((call.name or "", call.arguments or "") for call in calls)
    message = choice.message
    return Parsed(message.content or "", message.thought, named, choice.finish_reason)


def _streamed(
    client: Client,
    body: Mapping[str, Any],
    spoke: Callable[[], object] = lambda: None,
    reasoning: Reasoning | None = None,
) -> Streamed:
    """Request a stream, and put its parts together. Raises NoAnswer, also if it ends before the answer does."""
    began = monotonic()
    first: float | None = None
    usage: _Usage | None = None
    content, thought, finish = "", "", ""
    done, spoken = False, 0
    calls: dict[int, tuple[str, str]] = {}
    streaming = {"stream": True, "stream_options": {"include_usage": True}}
    for data in client.events(CHAT, {**body, **streaming}):
        if data == b"[DONE]":
            done = True
            continue
        chunk = _read(_Chunk, data)
        if chunk.error is not None:
            raise NoAnswer(f"the stream broke off with {shown(data)}")
        usage = chunk.usage or usage
        for choice in chunk.choices[:1]:
            delta = choice.delta
            finish = choice.finish_reason or finish
            content += delta.content or ""
            thought += delta.thought
            spoken += bool(delta.content) + bool(delta.thought)
            for call in delta.tool_calls or ():
                name, arguments = calls.get(call.index, ("", ""))
                calls[call.index] = (
                    name or call.function.name or "",
                    arguments + (call.function.arguments or ""),
                )
            if first is None and spoken:
                first = monotonic() - began
                spoke()
    if not finish:
        how = "was called done" if done else "ended"
        raise NoAnswer(f"the stream {how} before the answer did, after {shown(content)}")
    parts = Parsed(content, thought, tuple(calls[place] for place in sorted(calls)), finish)
    tokens = usage.completion_tokens if usage else spoken
    text = _joined(thought, content, reasoning)
    return Streamed(text, tokens, first, monotonic() - began, parts)


def _joined(thought: str, content: str, reasoning: Reasoning | None) -> str:
    """The text of which a server made a thought and content, but for the marks at its beginning and at its end."""
    if reasoning is None:
        return content
    return f"{thought}{reasoning.ends}{content}" if thought and content else thought or content


def request(model: str, messages: Sequence[Message], limit: int) -> dict[str, Any]:
    """A request for a greedy answer. TGI samples unless the temperature is present and zero."""
    return {"model": model, "messages": _plain(messages), "max_tokens": limit, "temperature": 0}


def response_format(schema: Mapping[str, JsonValue] | None) -> dict[str, Any]:
    """Return the field of a request for JSON that fits ``schema``; none without a schema."""
    if schema is None:
        return {}
    named = {"name": "answer", "schema": schema, "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": named}}


def tokenize(
    client: Client,
    speech: Speech,
    model: str,
    messages: Sequence[Message],
    tools: Sequence[dict[str, JsonValue]] = (),
) -> tuple[int, ...] | None:
    """The token ids of a chat from the server; None if the dialect does not offer them. Raises NoAnswer."""
    body = {"model": model, "messages": _plain(messages)} | (
        {"tools": list(tools)} if tools else {}
    )
    return None if speech.tokenize is None else speech.tokenize(client, body)


def _tgi_tokens(client: Client, body: dict[str, Any]) -> tuple[int, ...]:
    reply = client.post("/chat_tokenize", body).good()
    return tuple(token.id for token in _read(_TgiTokens, reply.body).tokenize_response)


def _vllm_tokens(client: Client, body: dict[str, Any], **more: Any) -> tuple[int, ...]:
    """Without ``add_generation_prompt`` SGLang writes the chat as for an answer, and vLLM does not."""
    return tuple(_read(_VllmTokens, client.post("/tokenize", body | more).good().body).tokens)


def _llamacpp_tokens(client: Client, body: dict[str, Any]) -> tuple[int, ...]:
    """Both requests do what a chat does: the template's own beginning is left out where the model adds one."""
    prompt = _read(_Prompt, client.post("/apply-template", body).good().body).prompt
    return _vllm_tokens(client, {"content": prompt}, add_special=True, parse_special=True)


def _biased(ends: Sequence[int], _limit: int) -> dict[str, Any]:
    """-100 is the lowest bias in OpenAI's API; transformers serve accepts only floats."""
    return {"logit_bias": {str(token): -100.0 for token in ends}}


def _at_least(ends: Sequence[int], limit: int) -> dict[str, Any]:
    """vLLM generates no token that could stop it before it has ``min_tokens``."""
    return {"min_tokens": limit, "stop_token_ids": [*ends]}


def _by_text(token: _Logprob) -> Token:
    return Token(None, token.token, token.logprob)


def _by_id(token: _Logprob) -> Token:
    """vLLM writes ``token_id:<id>`` as a token's text if ``return_tokens_as_token_ids`` is set."""
    number = token.token.removeprefix("token_id:")
    if number == token.token or not (number.isascii() and number.isdigit()):
        raise NoAnswer(f"returned a token as {shown(token.token)}, not as token_id:<id>")
    return Token(int(number), None, token.logprob)


def _by_number(token: _Logprob) -> Token:
    """Of llama.cpp, which writes a token's id beside its text, and of SGLang."""
    if token.id is None:
        raise NoAnswer(f"returned the token {shown(token.token)} without its id")
    return Token(token.id, None, token.logprob)


def _plain(messages: Iterable[Message]) -> list[dict[str, Any]]:
    """The turns as OpenAI's API has them: arguments of calls are text."""
    values = [message.model_dump() for message in messages]
    for call in (call for turn in values for call in turn.get("tool_calls", ())):
        call["function"]["arguments"] = json.dumps(
            call["function"]["arguments"], ensure_ascii=False
        )
    return values


def _read(model: type[Part], body: bytes) -> Part:
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise NoAnswer(f"replied with {shown(body)}: {files.first(error)}") from error


SPEECHES: dict[Dialect, Speech] = {
    "tgi": Speech({"logprobs": True}, _by_text, _tgi_tokens, unending=None, raw=None),
    "vllm": Speech(
        {"logprobs": True, "return_tokens_as_token_ids": True},
        _by_id,
        partial(_vllm_tokens, add_generation_prompt=True),
        unending=_at_least,
        raw={"tool_choice": "none"},
        only={"top_k": 0, "min_p": 0},
    ),
    "sglang": Speech(
        {"logprobs": True, "return_token_ids": True},
        _by_number,
        _vllm_tokens,
        unending=_at_least,
        raw={},
        whole={"separate_reasoning": False},
    ),
    "llamacpp": Speech(
        {"logprobs": True, "top_logprobs": 1},
        _by_number,
        _llamacpp_tokens,
        unending=_biased,
        raw={"tool_choice": "none"},
        whole={"reasoning_format": "none"},
        only={"samplers": ["temperature", "top_p"]},
    ),
    "openai": Speech(None, _by_text, None, unending=_biased, raw={}),
}
