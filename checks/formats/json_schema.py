"""JSON Schemas (draft 2020-12) that answers must fit: ``serve.json_schema`` and the scorer json-schema.

A schema under which models answer is a text, because they write keys in the order in which it names them: no digest
and no comparison of parameters sees the order of a mapping.
"""

from collections.abc import Mapping
from typing import Any, Protocol

from pydantic import JsonValue

from checks.process import distribution
from checks.process.text import escape
from checks.records import json_values


class Validator(Protocol):
    """A validator of the package jsonschema, which has no types of its own."""

    def iter_errors(self, value: Any) -> Any: ...


def problem(schema: Mapping[str, JsonValue]) -> str | None:
    """Return why this cannot be used as a JSON Schema, as "problem|remedy"; None: it can."""
    try:  # The package has no types of its own, and takes long to import.
        from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
        from jsonschema.exceptions import SchemaError  # type: ignore[import-untyped]
    except ImportError:
        remedy = distribution.install("json-schema")
        return f"needs the package jsonschema, which is not installed|{remedy}"
    try:
        Draft202012Validator.check_schema(schema, Draft202012Validator.FORMAT_CHECKER)
    except SchemaError as error:
        why = escape(f"{error.json_path}: {error.message}"[:200])
    except RecursionError:
        why = "is nested too deeply"
    else:
        return None
    bar = "\\x7c"  # a bar would end the problem
    return f"{why.replace('|', bar)}|write a JSON Schema of draft 2020-12"


def text_problem(text: str | None) -> str | None:
    """Return why this text cannot be a JSON Schema, in the form of ``problem``; None if it can be one, or is None."""
    if text is None:
        return None
    try:
        schema = json_values.read(text)
    except ValueError:
        schema = None
    if not isinstance(schema, dict):
        return """is no JSON object|write the schema as JSON text, such as '{"type": "object"}'"""
    return problem(schema)


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
