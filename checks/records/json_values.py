"""JSON in the text of an answer: read, compared, and held to a JSON Schema (draft 2020-12)."""

import json
import re
from collections.abc import Hashable, Mapping
from typing import Any, Protocol

from pydantic import JsonValue

from checks.process import distribution
from checks.process.text import escape


class Validator(Protocol):
    """A validator of the package jsonschema, which has no types of its own."""

    def iter_errors(self, value: Any) -> Any: ...


def read(text: str) -> Any:
    """Return the value that ``text`` is as JSON by RFC 8259. Raises ValueError if it is none."""

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    try:
        return json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise ValueError("no JSON") from error


def comparable(value: Any, loose: bool = False) -> Hashable:
    """Return a value that is equal for equal JSON values.

    The order of keys does not count, that of lists does. 1 and 1.0 are equal; true, 1 and "1" are three values.
    ``loose``: texts are equal as the Berkeley Function-Calling Leaderboard compares them: without case, spaces and the
    characters ``,./-_*^``, and with ``"`` for ``'``.
    """
    if isinstance(value, Mapping):
        return "object", frozenset((key, comparable(item, loose)) for key, item in value.items())
    if isinstance(value, list):
        return "list", tuple(comparable(item, loose) for item in value)
    if isinstance(value, str):
        return "text", re.sub(r"[ ,./\-_*^]", "", value).lower().replace(
            "'", '"'
        ) if loose else value
    return (
        "boolean" if isinstance(value, bool) else "number" if value is not None else "null"
    ), value


def schema_problem(schema: Mapping[str, JsonValue]) -> str | None:
    """Return why this cannot be used as a JSON Schema, as "problem|remedy"; None: it can."""
    try:  # It takes long to import.
        from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
        from jsonschema.exceptions import SchemaError  # type: ignore[import-untyped]
    except ImportError:
        remedy = distribution.install("json-schema")
        return f"needs the package jsonschema, which is not installed|{remedy}"
    try:
        Draft202012Validator.check_schema(schema, Draft202012Validator.FORMAT_CHECKER)
    except SchemaError as error:
        problem = escape(f"{error.json_path}: {error.message}"[:200])
    except RecursionError:
        problem = "is nested too deeply"
    else:
        return None
    bar = "\\x7c"  # a bar would end the problem
    return f"{problem.replace('|', bar)}|write a JSON Schema of draft 2020-12"


def validator(schema: Mapping[str, JsonValue]) -> Validator:
    """Return the validator of a schema, which fetches no schema that this one refers to."""
    from jsonschema import Draft202012Validator
    from referencing import Registry

    made: Validator = Draft202012Validator(schema, registry=Registry())
    return made


def unfit(made: Validator, value: Any) -> str | None:
    """Return why ``value`` does not fit the schema; None: it fits. Raises LookupError if that needs another schema."""
    from referencing.exceptions import Unresolvable

    try:
        error = next(iter(made.iter_errors(value)), None)
    except (Unresolvable, RecursionError) as reason:
        raise LookupError(str(reason)) from reason
    return None if error is None else f"{error.json_path}: {error.message}"
