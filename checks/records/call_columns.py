"""Tools and their calls in a row of data or of a suite, as OpenAI's files, TRL and transformers write them."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import JsonValue, TypeAdapter, ValidationError

from checks.records.rows import Function, ToolCall

_OBJECT: TypeAdapter[dict[str, JsonValue]] = TypeAdapter(dict[str, JsonValue])
_SHAPE = '{"type": "function", "function": {"name": …, "arguments": {…}}}'
_TOOL = (
    '{"type": "function", "function": {"name": …, "description": …, "parameters": {JSON schema}}}'
)
_SHOWN = 80  # characters of a refusal


class Bad(ValueError):  # noqa: N818 - becomes a line of a refusal
    """A bad row: its place and the reason."""


def shown(value: Any) -> str:
    """Show a value in a refusal."""
    try:
        return cut(ascii(value))
    except RecursionError:
        return f"a deeply nested {type(value).__name__}"


def cut(text: str) -> str:
    """Shorten a text for a refusal."""
    return text if len(text) <= 80 else f"{text[:77]}…"


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of JSON. Raises ValueError if a key is there twice."""
    row = dict(pairs)
    if len(row) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        twice = next(key for key, count in counts.items() if count > 1)
        raise ValueError(f"key {shown(twice)} is written twice")
    return row


def as_text(value: Any, place: str) -> str:
    """Return a cell as text; null (and NaN, as pandas writes null) becomes empty text. Anything else is refused."""
    if value is None or (isinstance(value, float) and value != value):  # NaN differs from itself
        return ""
    if not isinstance(value, str):
        written = (
            f': write it as text, "{cut(json.dumps(value))}"'
            if isinstance(value, int | float)
            else ""
        )
        raise Bad(f"{place}: {shown(value)} is not text{written}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise Bad(f"{place}: {shown(value)} holds half of a surrogate pair") from error
    return value


def calls(value: Any) -> tuple[ToolCall, ...]:
    """Return the calls of a turn; arguments may be a JSON object or its text. Raises ValueError for any other shape."""
    if not isinstance(value, list | tuple):
        raise ValueError("tool_calls is not a list")
    read = tuple(map(_call, value))
    ids = [call.id for call in read if call.id]
    if len({*ids}) < len(ids):
        raise ValueError("two calls have one id")
    return read


def tools(value: Any) -> tuple[dict[str, JsonValue], ...]:
    """Return the tools of a row: a list, or its JSON text. None: it has none. Raises ValueError for any other shape."""
    if isinstance(value, str) and value.strip():
        value = _parsed(value, "tools")
    if value is None or value == "":
        return ()
    if not isinstance(value, list):
        raise ValueError(f"{ascii(value)[:_SHOWN]} is not a list of tools")
    read = tuple(_tool(tool) for tool in value)
    names = [name_of(tool) for tool in read]
    if len({*names}) < len(names):
        raise ValueError(f"two tools have one name: {ascii(names)[:_SHOWN]}")
    return read


def refuse_unknown(made: Iterable[ToolCall], known: Sequence[dict[str, JsonValue]]) -> None:
    """Raise ValueError for a call of no tool, with an argument that its tool does not take, or without one it needs."""
    by_name = {name_of(tool): tool for tool in known}
    for call in made if known else ():
        name, given = call.function.name, call.function.arguments
        if (tool := by_name.get(name)) is None:
            raise ValueError(f"calls {name[:_SHOWN]!r}, which is none of the row's tools")
        takes: Any = tool["function"]
        takes = takes.get("parameters") or {}
        named, more = takes.get("properties") or {}, takes.get("additionalProperties", False)
        if named and not more and (odd := [name for name in given if name not in named]):
            raise ValueError(
                f"calls {name[:_SHOWN]!r} with {odd[0][:_SHOWN]!r}, which it does not take{_filled(given[odd[0]])}"
            )
        if lacking := [name for name in takes.get("required") or () if name not in given]:
            raise ValueError(
                f"calls {name[:_SHOWN]!r} without {str(lacking[0])[:_SHOWN]!r}, which it requires"
            )


def name_of(tool: Mapping[str, Any]) -> str:
    """Return the function's name."""
    return str(tool["function"]["name"])


def _call(value: Any) -> ToolCall:
    function = value.get("function") if isinstance(value, dict) else None
    if not isinstance(function, dict) or value.get("type", "function") != "function":
        raise ValueError(f"{ascii(value)[:_SHOWN]} is no call: write {_SHAPE}")
    if other := sorted(
        [
            *(value.keys() - {"id", "type", "function", "index"}),
            *(function.keys() - {"name", "arguments"}),
        ]
    ):
        raise ValueError(
            f"a call has {', '.join(map(str, other))[:_SHOWN]} beside id, type, name and arguments"
        )
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        arguments = _parsed(arguments or "{}", "arguments")
    name = as_text(function.get("name"), "name")
    if not name or not isinstance(arguments, dict):
        raise ValueError(f"{ascii(value)[:_SHOWN]} is no call: write {_SHAPE}")
    return ToolCall(
        id=as_text(value.get("id"), "id"),
        function=Function(name=name, arguments=_plain(arguments, "arguments")),
    )


def _tool(value: Any) -> dict[str, JsonValue]:
    function = value.get("function") if isinstance(value, dict) else None
    if (
        not isinstance(function, dict)
        or value.get("type") != "function"
        or not as_text(function.get("name"), "name")
    ):
        raise ValueError(f"{ascii(value)[:_SHOWN]} is no tool: write {_TOOL}")
    takes = function.get("parameters")
    named = takes.get("properties") if isinstance(takes, dict) else None
    if not isinstance(takes, dict | None) or not isinstance(named, dict | None):
        raise ValueError(
            f"tool {function['name'][:_SHOWN]!r}: its parameters are no JSON schema of an object"
        )
    for key, schema in (named or {}).items():
        if not isinstance(schema, dict | bool):
            raise ValueError(
                f"tool {function['name'][:_SHOWN]!r}: {str(key)[:_SHOWN]!r} has no JSON schema{_filled(schema)}"
            )
    required = (takes or {}).get("required")
    if not isinstance(required, list | None) or not all(
        isinstance(name, str) for name in required or ()
    ):
        raise ValueError(
            f"tool {function['name'][:_SHOWN]!r}: its required parameters are no list of names"
        )
    return _plain(value, "tools")


def _filled(value: Any) -> str:
    """Return what null means in a column of structs: Arrow gives each struct the keys of all."""
    return (
        ": in Parquet, write the column as JSON text, or it has the keys of every row"
        if value is None
        else ""
    )


def _parsed(value: str, what: str) -> Any:
    try:
        return json.loads(value, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{what}: {ascii(value)[:_SHOWN]} is not JSON: {error}") from error


def _plain(value: Any, what: str) -> dict[str, JsonValue]:
    """Return an object as a line of a split can hold it."""
    try:
        plain = _OBJECT.validate_python(value)
        _OBJECT.validate_json(json.dumps(plain, allow_nan=False, ensure_ascii=False).encode())
    except (
        ValidationError,
        ValueError,
        RecursionError,
    ) as error:  # a type, NaN, half of a surrogate pair, too deep
        raise ValueError(f"{what}: {ascii(value)[:_SHOWN]} is not JSON") from error
    return plain
