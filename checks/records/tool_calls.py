"""Calls of functions in the text of an answer, read and compared.

Models write calls in the form of their chat template. These are read: ``<tool_call>{JSON}</tool_call>`` (Hermes, Qwen),
``[TOOL_CALLS]`` with a JSON list or with ``name[ARGS]{JSON}`` (Mistral), and an answer that is nothing but JSON, after
``<|python_tag|>`` or not (Llama 3). JSON is an object with ``name`` and ``arguments``, or ``parameters``; a list of
these; or several, parted by white space or ``;``. The first two are read without their special tokens too, which
decoding may leave out. References of rows have Hermes' form: ``checks.records.rows.said``.
"""

import json
import re
from collections.abc import Hashable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from pydantic import JsonValue

from checks.records import json_values

_THOUGHT_END = "</think>"  # a template may ask with <think> already
_HERMES, _HERMES_END = "<tool_call>", "</tool_call>"
_MISTRAL, _LLAMA = "[TOOL_CALLS]", "<|python_tag|>"
_NAMED = re.compile(r"([A-Za-z_][\w.-]*)\s*(?:\[ARGS\])?\s*(?=\{)")
_BETWEEN = re.compile(r"[\s;]*")


class Call(NamedTuple):
    """One call of a function."""

    name: str
    arguments: Mapping[str, JsonValue]


class MalformedCall(ValueError):  # noqa: N818 - an observation about an answer, which scores 0
    """The answer begins a call that cannot be read."""


def read(text: str) -> tuple[Call, ...]:
    """The calls in an answer, in their order; empty if it makes none. Other text around them is left out.

    Raises MalformedCall if a call is marked as one, and is not JSON of the form above.
    """
    text = _without_thought(text).strip()
    if _HERMES in text:
        return _of_hermes(text)
    for mark in (_MISTRAL, _LLAMA):
        if mark in text:
            return tuple(call for part in text.split(mark)[1:] for call in _several(part))
    try:
        return _several(text)
    except MalformedCall:
        return ()  # an answer in words, or other JSON


def comparable(call: Call, loose: bool = False) -> Hashable:
    """A value that is equal for equal calls: the same name, and the same arguments as JSON values.

    ``loose``: as in ``json_values.comparable``.
    """
    return call.name, json_values.comparable(call.arguments, loose)


def _without_thought(text: str) -> str:
    """Return what follows the first ``</think>`` that is not in the JSON of a call."""
    if (end := text.find(_THOUGHT_END)) < 0:
        return text
    place = text.find(_HERMES, 0, end)
    while place >= 0:
        place += len(_HERMES)
        with suppress(MalformedCall):
            place = _json(text, _past(text, place))[1]
        if place > end:
            return text
        place = text.find(_HERMES, place, end)
    return text[end + len(_THOUGHT_END) :]


def _of_hermes(text: str) -> tuple[Call, ...]:
    """The calls of each block. A block ends at its tag, which arguments may contain, at the next, or with the text."""
    every: list[Call] = []
    place = text.find(_HERMES)
    while place >= 0:
        calls, place = _up_to(text, place + len(_HERMES), (_HERMES, _HERMES_END))
        every += calls
        place = text.find(_HERMES, place)
    return tuple(every)


def _several(text: str) -> tuple[Call, ...]:
    """The calls that ``text`` consists of, at least one. Raises MalformedCall for any other text."""
    return tuple(_up_to(text, 0, ())[0])


def _up_to(text: str, place: int, ends: tuple[str, ...]) -> tuple[list[Call], int]:
    """The calls from ``place`` to one of ``ends`` or to the end of the text, at least one; and that place."""
    calls: list[Call] = []
    place = _past(text, place)
    while place < len(text) and not text.startswith(ends, place):
        if name := _NAMED.match(text, place):
            arguments, place = _json(text, name.end())
            calls.append(_call({"name": name[1], "arguments": arguments}))
        else:
            value, place = _json(text, place)
            calls += [_call(item) for item in (value if isinstance(value, list) else [value])]
        place = _past(text, place)
    if not calls:
        raise MalformedCall("no call")
    return calls, place


def _past(text: str, place: int) -> int:
    match = _BETWEEN.match(text, place)
    return match.end() if match else place


def _json(text: str, place: int) -> tuple[Any, int]:
    try:
        return _DECODER.raw_decode(text, place)
    except (ValueError, RecursionError) as error:
        raise MalformedCall("not JSON") from error


def _call(value: Any) -> Call:
    if isinstance(value, dict):
        arguments = value.get("arguments", value.get("parameters"))
        if isinstance(name := value.get("name"), str) and isinstance(arguments, dict):
            return Call(name, arguments)
    raise MalformedCall("not an object with name and arguments")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    arguments = dict(pairs)
    if len(arguments) < len(pairs):
        raise MalformedCall("a key is written twice")
    return arguments


def _refuse_constant(name: str) -> None:
    raise MalformedCall(f"{name} is not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse_constant)
