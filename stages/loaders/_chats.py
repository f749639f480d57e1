"""Chats in a cell of a table: turns as OpenAI and TRL write them (role, content), or as ShareGPT does (from, value)."""

import re
from typing import Any, NamedTuple

_ROLES = ("system", "user", "assistant")
_SHAREGPT = {"human": "user", "gpt": "assistant"}
MOST = 256  # turns: what a chat answers earlier is compared turn by turn, which takes the square of them
_SHOWN = 80  # characters of a refusal about roles or keys


class Shape(NamedTuple):
    """Which roles a list of turns has: a pattern, in which a space follows each role, and the same in words."""

    pattern: str
    words: str


CHAT = Shape("(system )?(user assistant )+", "system or none, then user and assistant in turn")
PROMPT = Shape(
    "(system )?(user assistant )*user ", "system or none, then user and assistant in turn, and the user last"
)
ANSWER = Shape("assistant ", "one turn of the assistant")


def is_chat(value: Any) -> bool:
    """Whether a cell looks like a list of turns."""
    return (
        isinstance(value, list) and bool(value) and isinstance(value[0], dict) and bool({"role", "from"} & {*value[0]})
    )


def turns(value: list[dict[str, Any]], shape: Shape) -> list[tuple[Any, Any]]:
    """Role and content of each turn. Raises ValueError for other roles, too many turns, or a turn with more."""
    if len(value) > MOST:
        raise ValueError(f"has {len(value):,} turns, and a chat has at most {MOST}")
    read = [_as_openai(turn) for turn in value]
    roles = [role if isinstance(role := turn.get("role"), str) else None for turn in read]
    if not all(role in _ROLES for role in roles) or not re.fullmatch(shape.pattern, "".join(f"{r} " for r in roles)):
        raise ValueError(f"roles {ascii(roles)[:_SHOWN]} are not: {shape.words}")
    for turn in read:
        other = sorted(key for key, held in turn.items() if key not in ("role", "content") and held is not None)
        if other:
            raise ValueError(f"a turn has {', '.join(other)[:_SHOWN]} beside role and content")
    return [(role, turn.get("content")) for role, turn in zip(roles, read, strict=True)]


def _as_openai(turn: dict[str, Any]) -> dict[str, Any]:
    if "from" not in turn or "role" in turn:
        return turn
    named = {{"from": "role", "value": "content"}.get(key, key): held for key, held in turn.items()}
    role = named["role"]
    return named | {"role": _SHAREGPT.get(role, role) if isinstance(role, str) else None}
