"""``otlp``: OpenTelemetry's spans of chats as JSON, such as the files of the Collector's file exporter.

A span counts if ``gen_ai.operation.name`` is chat or text_completion, and if it has the messages. Instrumentations
record them only if OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT asks for them on spans. ``lockstep.release`` of
the span or of its resource is the digest of the model that answered. Request id: trace and span.
Conventions: https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans, version 1.37.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from checks.process.errors import EvidenceRefused
from release.monitoring.log_kind import NO_COMPLETION, Entry, LogKind, documents, entry
from release.monitoring.store import CaptureStore
from release.monitoring.window import TimeSpan

_OPERATIONS = ("chat", "text_completion")
_NO_CONTENT = "a span without messages: the application records none"
_ERROR = 2  # STATUS_CODE_ERROR
_FORM = "give OTLP as JSON, such as files of the Collector's file exporter"


class Spans(LogKind):
    """OTLP traces with messages."""

    name = "otlp"

    def read(self, source: str, span: TimeSpan) -> Iterator[Entry]:
        """Yield the spans of a file, or of all files in a folder or at an address of fsspec."""
        del span
        for name, data in CaptureStore(source).documents():
            for place, value in documents(name, data):
                try:
                    yield from _entries(place, value)
                except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
                    why = f"{place}: is no trace of OTLP: {type(error).__name__}: {str(error)[:80]}"
                    raise EvidenceRefused(why, _FORM) from error


def _entries(place: str, value: Mapping[str, Any]) -> Iterator[Entry]:
    for resource in value["resourceSpans"]:
        shared = _attributes(resource.get("resource", {}))
        for scope in resource.get("scopeSpans", ()):
            for chat_span in scope.get("spans", ()):
                yield _entry(place, chat_span, shared | _attributes(chat_span))


def _entry(place: str, span: Mapping[str, Any], attributes: Mapping[str, Any]) -> Entry:
    if attributes.get("gen_ai.operation.name") not in _OPERATIONS:
        return Entry(place, None, NO_COMPLETION)
    asked = _messages(attributes.get("gen_ai.input.messages"))
    if not asked:
        return Entry(place, None, _NO_CONTENT)
    if instructions := _messages(attributes.get("gen_ai.system_instructions")):
        asked = [{"role": "system", "parts": instructions}, *asked]
    begins, ends = (int(span[key]) for key in ("startTimeUnixNano", "endTimeUnixNano"))
    answers = _messages(attributes.get("gen_ai.output.messages"))
    finished = attributes.get("gen_ai.response.finish_reasons") or ()
    return entry(
        place, time=datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=begins // 1000),
        request_id=f"{span['traceId']}-{span['spanId']}",
        request={"messages": [turn for message in asked for turn in _turns(message)]},
        response={
            "model": attributes.get("gen_ai.response.model"),
            "choices": [_choice(*numbered, finished) for numbered in enumerate(answers)],
            "usage": {
                "prompt_tokens": attributes.get("gen_ai.usage.input_tokens"),
                "completion_tokens": attributes.get("gen_ai.usage.output_tokens"),
                "completion_tokens_details": {
                    "reasoning_tokens": attributes.get("gen_ai.usage.reasoning.output_tokens")
                },
            },
        },
        status=_status(span, attributes), seconds=(ends - begins) / 1e9,
        first=attributes.get("gen_ai.response.time_to_first_chunk"), release=attributes.get("lockstep.release"),
        user=attributes.get("user.id") or attributes.get("enduser.id"),
    )  # fmt: skip


def _status(span: Mapping[str, Any], attributes: Mapping[str, Any]) -> int:
    """Return the HTTP status; 500 for an error that does not say one, so that it counts against availability."""
    status = attributes.get("http.response.status_code")
    if status is None and str(attributes.get("error.type")).isdigit():
        status = attributes["error.type"]
    failed = span.get("status", {}).get("code") == _ERROR or "error.type" in attributes
    return int(status) if status is not None else 500 if failed else 200


def _turns(message: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a message as OpenAI's API has it: each result of a function is a turn of its own."""
    parts = message["parts"]
    results = [part for part in parts if part["type"] == "tool_call_response"]
    for part in results:
        text = _as_text(part.get("response", part.get("result")))
        yield {"role": "tool", "tool_call_id": part.get("id"), "content": text}
    if len(results) < len(parts) or not parts:
        yield {"role": message["role"], **_spoken(parts)}


def _choice(number: int, message: Mapping[str, Any], finished: Sequence[str]) -> dict[str, Any]:
    reason = finished[number] if number < len(finished) else message.get("finish_reason")
    return {
        "index": number,
        "finish_reason": reason or "stop",
        "message": {"role": message["role"], **_spoken(message["parts"])},
    }


def _spoken(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return text, thought and calls of a message in the fields of OpenAI's API."""

    def text_of(kind: str) -> str:
        return "".join(part["content"] for part in parts if part["type"] == kind)

    calls = [
        {
            "id": part.get("id"),
            "type": "function",
            "function": {"name": part["name"], "arguments": _as_text(part.get("arguments"))},
        }
        for part in parts
        if part["type"] == "tool_call"
    ]
    thought = text_of("reasoning")
    return {
        "content": text_of("text"),
        **({"reasoning_content": thought} if thought else {}),
        **({"tool_calls": calls} if calls else {}),
    }


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _messages(value: Any) -> list[Any]:
    """Return a list of messages or parts, which an attribute has as values or as JSON text."""
    return list((json.loads(value) if isinstance(value, str) else value) or ())


def _attributes(owner: Mapping[str, Any]) -> dict[str, Any]:
    return {pair["key"]: _value(pair["value"]) for pair in owner.get("attributes", ())}


def _value(wrapped: Mapping[str, Any]) -> Any:
    """Return a value of OTLP (AnyValue) as plain JSON."""
    ((kind, value),) = wrapped.items()
    if kind == "arrayValue":
        return [_value(item) for item in value.get("values", ())]
    if kind == "kvlistValue":
        return _attributes({"attributes": value.get("values", ())})
    return int(value) if kind == "intValue" else value
