"""Reads OpenAI's answers beside their way to the client: whole ones, and streams event by event. Nothing is changed.

What cannot be read is left out, never an error: an answer is the client's, and not the gateway's to judge.
"""

import json
from dataclasses import dataclass, field
from typing import Any

MOST_TEXT = 512 << 10  # characters that are kept of an answer: about 128,000 tokens
_MOST_EVENT = 1 << 20  # bytes of an event of a stream


@dataclass
class Choice:
    """One of an answer's choices."""

    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: list[Any] = field(default_factory=list)
    finish: str | None = None


@dataclass
class ParsedAnswer:
    """The parts of an answer that were read. ``pieces``: events of a stream that had text, about the number of tokens.

    ``done``: a whole answer was read, or a stream said that it ended. ``cut``: it was too long to be kept.
    """

    model: str | None = None
    choices: dict[int, Choice] = field(default_factory=dict)
    input_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int | None = None
    pieces: int = 0
    failed: bool = False
    done: bool = False
    cut: bool = False
    size: int = 0

    @property
    def text(self) -> str:
        """The text of the first choice."""
        return "".join(self.choices[0].text) if 0 in self.choices else ""

    @property
    def finish(self) -> str | None:
        """Why the first choice ended."""
        return self.choices[0].finish if 0 in self.choices else None

    @property
    def written_tokens(self) -> int:
        """Tokens of the answer: as the server counts them, else events of the stream that had text."""
        return self.pieces if self.output_tokens is None else self.output_tokens

    @property
    def thought_tokens(self) -> int | None:
        """Tokens of thoughts, which are a part of ``written_tokens``; None: there is no thought, or nothing to count.

        Few servers count them (OpenAI's ``reasoning_tokens``). Otherwise thoughts get their share of the tokens: of the
        events of a stream, in each of which is about one token, or of the characters of a whole answer.
        """
        choices = self.choices.values()
        thinks = any(choice.reasoning for choice in choices)
        if self.reasoning_tokens is not None or not thinks:
            return self.reasoning_tokens or None
        if self.output_tokens is None and self.pieces < 2:
            return None
        measure = len if self.pieces > 1 else _characters
        thought = sum(measure(choice.reasoning) for choice in choices)
        others = sum(measure(choice.text) + measure(choice.calls) for choice in choices)
        return round(self.written_tokens * thought / (thought + others))

    @property
    def complete(self) -> bool:
        """Whether it came to its end; not every server ends a stream with [DONE]."""
        return self.done or (
            bool(self.choices) and all(choice.finish for choice in self.choices.values())
        )

    def add(self, value: Any) -> bool:
        """Add a whole answer, or an event of a stream; return whether it has text."""
        if not isinstance(value, dict):
            return False
        if isinstance(value.get("model"), str):
            self.model = value["model"]
        self.failed = self.failed or bool(value.get("error"))
        usage = value.get("usage")
        if isinstance(usage, dict):
            self.input_tokens = _count(usage.get("prompt_tokens"), self.input_tokens)
            self.output_tokens = _count(usage.get("completion_tokens"), self.output_tokens)
            details = usage.get("completion_tokens_details")
            if isinstance(details, dict):
                counted = details.get("reasoning_tokens")
                self.reasoning_tokens = _count(counted, self.reasoning_tokens)
        listed = value.get("choices")
        spoke = (
            [self._choice(item) for item in listed if isinstance(item, dict)]
            if isinstance(listed, list)
            else []
        )
        self.pieces += any(spoke)
        return any(spoke)

    def _choice(self, value: dict[str, Any]) -> bool:
        index = value.get("index", 0)
        if not isinstance(index, int) or not 0 <= index < 128:
            return False
        choice = self.choices.setdefault(index, Choice())
        if isinstance(value.get("finish_reason"), str):
            choice.finish = value["finish_reason"]
        message = next(
            (value[key] for key in ("message", "delta") if isinstance(value.get(key), dict)), value
        )
        text = message.get("content") if message is not value else message.get("text")
        reasoning = thought_of(message)
        for part, kept in ((text, choice.text), (reasoning, choice.reasoning)):
            if isinstance(part, str) and part and self._fits(len(part)):
                kept.append(part)
        calls = message.get("tool_calls")
        if isinstance(calls, list) and self._fits(len(json.dumps(calls)) if calls else 0):
            choice.calls += calls
        return bool(text or reasoning or calls)

    def _fits(self, size: int) -> bool:
        self.size += size
        self.cut = self.cut or self.size > MOST_TEXT
        return not self.cut


class Events:
    """Reads a stream of server-sent events in the pieces in which it comes."""

    def __init__(self, answer: ParsedAnswer) -> None:
        self.answer = answer
        self._rest = b""

    def feed(self, data: bytes) -> int:
        """Read the next bytes; return how many events with text ended in them."""
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        if len(self._rest) > _MOST_EVENT:
            self._rest, self.answer.cut = b"", True
        return sum(self._line(line) for line in lines)

    def _line(self, line: bytes) -> bool:
        if not line.startswith(b"data:"):
            return False
        data = line[5:].strip()
        if data == b"[DONE]":
            self.answer.done = True
            return False
        return self.answer.add(object_in(data))


def whole(data: bytes) -> ParsedAnswer:
    """Read an answer that is no stream."""
    answer = ParsedAnswer()
    try:
        answer.add(json.loads(data))
        answer.done = True
    except (ValueError, RecursionError):
        pass
    return answer


def object_in(data: bytes | str) -> dict[str, Any]:
    """Return the object of JSON that ``data`` is; empty if it is none."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def thought_of(message: dict[str, Any]) -> Any:
    """Return the thought of a message: ``reasoning_content``, or ``reasoning`` in newer versions of vLLM."""
    return message.get("reasoning_content") or message.get("reasoning")


def _characters(parts: list[Any]) -> int:
    return sum(len(part if isinstance(part, str) else json.dumps(part)) for part in parts)


def _count(value: Any, default: int | None) -> int | None:
    return value if isinstance(value, int) and value >= 0 else default
