"""The draft of a row; what a loader is, which makes drafts, and what a rule is, which fixes or drops them.

A loader is one file of ``stages/loaders``, a rule one file of ``checks/rules``. A package of a user can add both by
entry points (``lockstep.loaders``, ``lockstep.rules``). The file defines one class below ``Loader`` or ``Rule``; the
fields of a loader are its parameters. It may import pydantic, the standard library and ``checks``, but for
``checks.params``, which imports the loaders and the rules. What it needs besides, it imports in the functions that
need it: the release tool reads params.yaml too, without those libraries.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal, Protocol

from pydantic import JsonValue

from checks import digest
from checks.rows import Message, Row
from checks.sections import Section
from checks.similar import normalised


@dataclass(frozen=True, slots=True)
class Draft:
    """A row on its way through the rules. The prompt is ``before`` and then ``prompt``, the last user message."""

    before: tuple[Message, ...]
    prompt: str
    reference: str
    answer: str  # what the source gives as the answer; the reference is this or taken from it
    slice: str
    source: str  # path:line below the raw data
    service: str = ""  # of the Azure CLI loader
    unreadable: str | None = None  # why the source gives no row here
    id: str | None = None  # the owner's
    group: str | None = None  # the owner's
    extra: Mapping[str, JsonValue] = field(default_factory=dict, hash=False)  # further columns, for a training method

    @property
    def messages(self) -> tuple[Message, ...]:
        """The prompt as a chat."""
        return (*self.before, Message(role="user", content=self.prompt))

    @property
    def content(self) -> str:
        """16 hex digits of the digest of what is asked and answered, and of the further columns where there are any."""
        messages = [[message.role, message.content] for message in self.messages]
        said = {"messages": messages, "reference": self.reference} | ({"extra": dict(self.extra)} if self.extra else {})
        return digest.of_json(said).removeprefix("sha256:")[:16]

    @property
    def asked(self) -> tuple[str, ...]:
        """The prompt, normalised: equal for drafts that ask the same."""
        return tuple(f"{message.role}: {normalised(message.content)}" for message in self.messages)


class Numbers(Protocol):
    """The numbers of the section ``prepare`` that rules read."""

    @property
    def max_prompt_words(self) -> int:
        """Words of the longest prompt."""


class Rule:
    """One rule. A subclass sets ``name`` and ``does``, and defines exactly one of ``fix``, ``drop`` and ``among``.

    ``fix`` gives the fixed draft. ``drop`` says whether a draft goes. ``among`` says it for all drafts together. A
    rule is pure, and its outcome does not depend on the order of the drafts.
    """

    name: ClassVar[str]
    does: ClassVar[str]  # in a few words, for the documentation
    in_rows: ClassVar[bool] = True  # a finished row still shows the defect, so that validate can look for it
    fix: Callable[[Draft], Draft] | None = None
    drop: Callable[[Draft], bool] | None = None
    among: Callable[[Sequence[Draft]], list[bool]] | None = None

    def __init__(self, numbers: Numbers) -> None:
        self.numbers = numbers

    @property
    def kind(self) -> Literal["fix", "drop"]:
        """What the rule does to a row."""
        return "fix" if self.fix else "drop"

    def finds(self, draft: Draft) -> bool:
        """Whether the draft has the defect; False for a rule that needs all drafts."""
        if self.fix:
            return self.fix(draft) != draft
        return self.drop is not None and self.drop(draft)


class Loader(Section):
    """The section ``prepare.loader``, which reads raw data. A subclass has the field ``kind: Literal["its-name"]``."""

    # Rules whose defects validate looks for in the rows of this loader, whatever prepare.rules names.
    defects: ClassVar[tuple[str, ...]] = ()

    kind: str

    @abstractmethod
    def load(self, folder: Path) -> list[Draft]:
        """All rows below ``folder``, in an order that is the same on every machine.

        Raises DataRefused when rows cannot be read.
        """

    def rules_before(self) -> tuple[Rule, ...]:
        """Rules of its own that apply before those of prepare.rules."""
        return ()

    def rules_after(self, seed: int) -> tuple[Rule, ...]:
        """Rules of its own that apply after those of prepare.rules. ``seed``: prepare.seed."""
        del seed
        return ()


def apply(rule: Rule, drafts: Sequence[Draft]) -> tuple[list[Draft], list[Draft]]:
    """(Drafts that stay, drafts that the rule fixed or dropped, as they were)."""
    if rule.fix:
        fixed = [rule.fix(draft) for draft in drafts]
        return fixed, [old for old, new in zip(drafts, fixed, strict=True) if old != new]
    goes = rule.among(drafts) if rule.among else [rule.finds(draft) for draft in drafts]
    kept = [draft for draft, gone in zip(drafts, goes, strict=True) if not gone]
    return kept, [draft for draft, gone in zip(drafts, goes, strict=True) if gone]


def draft_of(row: Row) -> Draft:
    """A finished row as a draft, so that rules can be asked whether they still find a defect."""
    last = max((i for i, m in enumerate(row.messages) if m.role == "user"), default=len(row.messages) - 1)
    return Draft(
        row.messages[:last], row.messages[last].content, row.reference, row.reference, row.slice, row.source,
        extra=row.extra,
    )  # fmt: skip
