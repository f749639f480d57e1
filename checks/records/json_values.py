"""JSON in the text of an answer, read and compared."""

import json
import re
from collections.abc import Hashable, Mapping
from typing import Any


def read(text: str) -> Any:
    """Parse ``text`` as JSON by RFC 8259 and return its value. Raises ValueError if it is no JSON."""

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
