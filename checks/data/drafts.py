"""Drafts of rows: a loader makes them of raw data, and rules fix or drop them (``checks.kinds``)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from pydantic import JsonValue

from checks.data.similar import normalised
from checks.records.rows import Function, Message, Row, ToolCall, calls_in, said
from checks.storage import digest


@dataclass(frozen=True, slots=True)
class Draft:
    """A row while the rules process it.

    The prompt is ``before``, ``prompt``, which is the last user message, and ``after``: calls and their results. The
    answer is the text ``reference`` and ``calls``.
    """

    before: tuple[Message, ...]
    prompt: str
    reference: str
    answer: str  # The source's answer; the reference is this or a part of it.
    slice: str
    source: str  # path:line below the raw data
    service: str = ""  # Only the Azure CLI loader sets it.
    unreadable: str | None = None  # why the source gives no row here
    id: str | None = None  # the owner's
    group: str | None = None  # the owner's
    # A training method may read further columns.
    extra: Mapping[str, JsonValue] = field(default_factory=dict, hash=False)
    origin: str = ""  # the source's name in data.sources; empty for data.uri
    after: tuple[Message, ...] = field(default=(), hash=False)
    calls: tuple[ToolCall, ...] = field(default=(), hash=False)
    tools: tuple[dict[str, JsonValue], ...] = field(default=(), hash=False)
    document: bool = False  # its text is the reference

    @property
    def messages(self) -> tuple[Message, ...]:
        """The prompt as a chat."""
        return (*self.before, Message(role="user", content=self.prompt), *self.after)

    @property
    def full_reference(self) -> str:
        """The reference with its calls, as rows have it."""
        return said(self.reference, self.calls) if self.calls else self.reference

    @property
    def has_calls(self) -> bool:
        """Whether it describes functions, or a turn calls one."""
        return bool(self.tools or self.calls) or calls_in(self.messages)

    @property
    def content(self) -> str:
        """16 hex digits of the digest of messages, reference, tools and further columns."""
        messages = [
            *([message.role, message.text] for message in self.before), ["user", self.prompt],
            *([message.role, message.text] for message in self.after),
        ]  # fmt: skip
        more = {"extra": dict(self.extra), "tools": list(self.tools)}
        whole = {"messages": messages, "reference": self.full_reference}
        return digest.of_json(whole | {name: of for name, of in more.items() if of}).removeprefix(
            "sha256:"
        )[:16]

    @property
    def asked(self) -> tuple[str, ...]:
        """The normalised prompt, equal for drafts with the same request and the same tools."""
        before, after = (
            (f"{message.role}: {normalised(message.text)}" for message in turns)
            for turns in (self.before, self.after)
        )
        tools = (digest.of_json(list(self.tools)),) if self.tools else ()
        return (*before, f"user: {normalised(self.prompt)}", *after, *tools)

    def rewritten(self, prompt: str, reference: str) -> "Draft":
        """The draft with this prompt and reference: itself if they are its own, as most are."""
        if (prompt, reference) == (self.prompt, self.reference):
            return self
        return replace(self, prompt=prompt, reference=reference)

    def turns_rewritten(self, **by_role: Callable[[str], str]) -> "Draft":
        """The draft with the text of each turn, last prompt and reference included, changed by its role's function.

        ``call`` changes the texts in the arguments of calls.
        """
        before, after = _rewritten(self.before, by_role), _rewritten(self.after, by_role)
        calls = _calls_rewritten(self.calls, by_role)
        draft = self
        if before is not self.before or after is not self.after or calls is not self.calls:
            draft = replace(self, before=before, after=after, calls=calls)
        return draft.rewritten(by_role["user"](self.prompt), by_role["assistant"](self.reference))

    def has_blank(self, role: Literal["user", "assistant"]) -> bool:
        """Whether a turn of this role, last prompt and reference included, is empty or white space."""
        last = self.prompt if role == "user" else self.full_reference
        earlier = (m.text for turns in (self.before, self.after) for m in turns if m.role == role)
        return not all(text.strip() for text in (last, *earlier))


def _rewritten(
    turns: tuple[Message, ...], by_role: Mapping[str, Callable[[str], str]]
) -> tuple[Message, ...]:
    """The turns changed; themselves if nothing is, as mostly."""
    changed = turns
    for place, turn in enumerate(turns):
        text = by_role[turn.role](turn.content) if turn.role in by_role else turn.content
        calls = _calls_rewritten(turn.tool_calls, by_role)
        if text != turn.content or calls is not turn.tool_calls:
            new = turn.model_copy(update={"content": text, "tool_calls": calls})
            changed = (*changed[:place], new, *changed[place + 1 :])
    return changed


def _calls_rewritten(
    calls: tuple[ToolCall, ...], by_role: Mapping[str, Callable[[str], str]]
) -> tuple[ToolCall, ...]:
    if not calls or "call" not in by_role:
        return calls
    changed = tuple(
        call.model_copy(
            update={
                "function": Function(
                    name=call.function.name,
                    arguments={
                        key: each_string(value, by_role["call"])
                        for key, value in call.function.arguments.items()
                    },
                )
            }
        )
        for call in calls
    )
    return calls if changed == calls else changed


def each_string(value: JsonValue, change: Callable[[str], str]) -> JsonValue:
    """A JSON value with each string in it changed, keys left out."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {key: each_string(item, change) for key, item in value.items()}
    return [each_string(item, change) for item in value] if isinstance(value, list) else value


def parted(drafts: Sequence[Draft], goes: Sequence[bool]) -> tuple[list[Draft], list[Draft]]:
    """The drafts that stay, and those that go."""
    kept = [draft for draft, gone in zip(drafts, goes, strict=True) if not gone]
    return kept, [draft for draft, gone in zip(drafts, goes, strict=True) if gone]


def draft_of(row: Row) -> Draft:
    """A finished row as a draft, so that rules can check whether it still has a defect."""
    last = max(
        (i for i, m in enumerate(row.messages) if m.role == "user"), default=len(row.messages) - 1
    )
    content = row.answer.content if row.calls else row.reference
    return Draft(
        row.messages[:last], row.messages[last].content, content, content, row.slice, row.source, extra=row.extra,
        origin=row.origin, after=row.messages[last + 1 :], calls=row.calls, tools=row.tools,
        document=row.document,
    )  # fmt: skip
