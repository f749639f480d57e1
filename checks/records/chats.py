"""Chats in data and suites: turns as OpenAI and TRL write them (role, content), or as ShareGPT does (from, value).

Calls of functions and their results are read as OpenAI writes them: ``call_columns.py``.
"""

import re
from typing import Any, NamedTuple

from checks.records import call_columns
from checks.records.rows import Message, ToolCall

_ROLES = ("system", "user", "assistant", "tool")
_SHAREGPT = {"human": "user", "gpt": "assistant"}
# These keys come beside role and content.
_KEYS = {"assistant": ("tool_calls",), "tool": ("tool_call_id", "name")}
MOST = 256  # turns: what a chat answers earlier is compared turn by turn, which takes the square of them
_SHOWN = 80  # characters of a refusal about roles or keys


class Shape(NamedTuple):
    """Which roles a list of turns has, and the same in words.

    The pattern has a space after each role; an assistant's turn with calls is ``call``.
    """

    pattern: str
    words: str


_WITH_RESULTS = "(call (tool )+)*"
CHAT = Shape(
    rf"(system )?(user {_WITH_RESULTS}(assistant |call \Z))+",
    "system or none, then user and assistant in turn",
)
PROMPT = Shape(
    f"(system )?(user {_WITH_RESULTS}assistant )*user {_WITH_RESULTS}",
    "system or none, then user and assistant in turn, and the user last",
)
ANSWER = Shape("(assistant|call) ", "one turn of the assistant")


def is_chat(value: Any) -> bool:
    """Whether a cell looks like a list of turns."""
    return (
        isinstance(value, list)
        and bool(value)
        and isinstance(value[0], dict)
        and bool({"role", "from"} & {*value[0]})
    )


def turns(value: list[dict[str, Any]], shape: Shape) -> list[Message]:
    """Read the turns. Raises ValueError for other roles or keys, too many turns, or a call without its result."""
    if len(value) > MOST:
        raise ValueError(f"has {len(value):,} turns, and a chat has at most {MOST}")
    read = [_as_openai(turn) for turn in value]
    roles = [role if isinstance(role := turn.get("role"), str) else None for turn in read]
    kinds = [
        "call" if role == "assistant" and turn.get("tool_calls") else role
        for role, turn in zip(roles, read, strict=True)
    ]
    if not all(role in _ROLES for role in roles) or not re.fullmatch(
        shape.pattern, "".join(f"{k} " for k in kinds)
    ):
        more = "; after calls of tools, their results" if {"call", "tool"} & {*kinds} else ""
        raise ValueError(f"roles {ascii(roles)[:_SHOWN]} are not: {shape.words}{more}")
    messages = []
    for number, (role, turn) in enumerate(zip(roles, read, strict=True), 1):
        known = ("role", "content", *_KEYS.get(str(role), ()))
        if other := sorted(
            key for key, value in turn.items() if key not in known and value is not None
        ):
            raise ValueError(f"a turn has {', '.join(other)[:_SHOWN]} beside {' and '.join(known)}")
        try:
            calls = call_columns.calls(turn.get("tool_calls") or ())
            content, call_id, name = (
                call_columns.as_text(turn.get(key), key)
                for key in ("content", "tool_call_id", "name")
            )
        except ValueError as error:
            raise ValueError(f"turn {number}: {error}") from error
        values = {"tool_calls": calls, "tool_call_id": call_id, "name": name}
        messages.append(Message.model_validate({"role": role, "content": content, **values}))
    _refuse_unanswered(messages)
    return messages


def _refuse_unanswered(messages: list[Message]) -> None:
    """Raise ValueError unless each result is of a call of the turn before the results, and each call has one.

    The last turn's calls have none. A result says of which call it is by its id, or by the function's name; without
    both, results are in the order of the calls.
    """
    waiting: list[ToolCall] = []
    for number, turn in enumerate(messages, 1):
        if turn.role == "tool":
            fits = (
                call for call in waiting
                if turn.tool_call_id in ("", call.id) and turn.name in ("", call.function.name)
            )  # fmt: skip
            if (call := next(fits, None)) is None:
                what = turn.tool_call_id or turn.name
                raise ValueError(
                    f"turn {number}: answers {what[:_SHOWN]!r}, a call that was not made, or was answered"
                )
            waiting.remove(call)
        elif waiting:
            raise ValueError(
                f"turn {number}: comes before the result of {waiting[0].function.name[:_SHOWN]!r}"
            )
        else:
            waiting = list(turn.tool_calls)


def _as_openai(turn: dict[str, Any]) -> dict[str, Any]:
    if "from" not in turn or "role" in turn:
        return turn
    named = {
        {"from": "role", "value": "content"}.get(key, key): value for key, value in turn.items()
    }
    role = named["role"]
    return named | {"role": _SHAREGPT.get(role, role) if isinstance(role, str) else None}
