"""Drafts of rows, loaders, which create them, and rules, which fix or drop them.

A loader is one file of ``stages/loaders``, a rule one file of ``checks/rules``. A user's package can add both by entry
points (``lockstep.loaders``, ``lockstep.rules``). The file defines one subclass of ``Loader`` or ``Rule``; the fields
of a loader are its parameters. It may import pydantic, the standard library and ``checks``, except
``checks.config.params``, which imports the loaders and the rules. It imports other packages only inside functions,
because the release tool reads params.yaml without them.
"""

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Literal, Protocol

from pydantic import JsonValue

from checks import digest
from checks.data.similar import normalised
from checks.rows import Function, Message, Row, ToolCall, calls_in, said
from checks.sections import Section


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


class Detects(Protocol):
    """``checks.data.personal_data.PersonalData``, which is not imported: a training does not depend on detectors."""

    def count(self, row: Draft, /) -> Counter[str]: ...
    def mask(self, text: str, /) -> str: ...


class Numbers(Protocol):
    """The numbers in the section ``prepare`` that rules read."""

    @property
    def max_prompt_words(self) -> int:
        """The most words of a prompt."""

    @property
    def personal_data(self) -> Detects | None:
        """Return what counts as personal data; None: nothing is looked for."""


class Rule:
    """A rule. A subclass sets ``name`` and ``does``, and defines exactly one of ``fix``, ``drop`` and ``among``.

    ``fix`` returns the fixed draft. ``drop`` says whether to drop a draft. ``among`` decides for all drafts together. A
    rule is pure, and its result does not depend on the order of the drafts.
    """

    name: ClassVar[str]
    does: ClassVar[str]  # Says in a few words what the rule does, for the documentation.
    # A finished row still shows the defect, so that validate can look for it.
    in_rows: ClassVar[bool] = True
    # The rule applies to documents, too: their text is the reference, and the prompt is empty.
    of_documents: ClassVar[bool] = False
    # ``among`` compares a draft only with those that have the same ``asked``.
    within_request: ClassVar[bool] = False
    fix: Callable[[Draft], Draft] | None = None
    drop: Callable[[Draft], bool] | None = None
    among: Callable[[Sequence[Draft]], list[bool]] | None = None

    def __init__(self, numbers: Numbers) -> None:
        self.numbers = numbers

    @property
    def kind(self) -> Literal["fix", "drop"]:
        """Whether the rule fixes or drops rows."""
        return "fix" if self.fix else "drop"

    def finds(self, draft: Draft) -> bool:
        """Whether the draft has the defect; False for a rule that needs all drafts."""
        if self.fix:
            return (fixed := self.fix(draft)) is not draft and fixed != draft
        return self.drop is not None and self.drop(draft)

    def shown(self, draft: Draft) -> str:
        """How a report shows a row with the defect."""
        return f"{draft.prompt!r} → {draft.full_reference!r}"


class Loader(Section):
    """The section ``prepare.loader``, or ``loader`` of a source in data.sources: it reads raw data.

    A subclass has the field ``kind: Literal["its-name"]``.
    """

    # Rules whose defects validate looks for in the rows of this loader, whatever prepare.rules names.
    defects: ClassVar[tuple[str, ...]] = ()
    # Its rows are planted among the train rows as they are, each as often as it is read: no rule applies to them.
    planted: ClassVar[bool] = False
    # Its rows are documents, for a training method that learns from documents.
    of_documents: ClassVar[bool] = False

    kind: str

    @abstractmethod
    def load(self, folder: Path) -> list[Draft]:
        """All rows below ``folder``, in an order that is the same on every machine.

        Raises DataRefused if rows cannot be read.
        """

    def rules_before(self) -> tuple[Rule, ...]:
        """The loader's own rules that run before those of prepare.rules."""
        return ()

    def rules_after(self, seed: int) -> tuple[Rule, ...]:
        """The loader's own rules that run after those of prepare.rules. ``seed``: prepare.seed."""
        del seed
        return ()


def apply(rule: Rule, drafts: Sequence[Draft]) -> tuple[list[Draft], list[Draft]]:
    """The remaining drafts, and the drafts that the rule fixed or dropped, as they were before."""
    if rule.fix:
        fixed = [rule.fix(draft) for draft in drafts]
        return fixed, [
            old for old, new in zip(drafts, fixed, strict=True) if old is not new and old != new
        ]
    return parted(
        drafts, rule.among(drafts) if rule.among else [rule.finds(draft) for draft in drafts]
    )


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
