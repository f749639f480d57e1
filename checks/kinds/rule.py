"""The interface of a data rule: a subclass of ``Rule``, in one file of ``checks/rules`` or of a user's package.

``prepare.rules`` of params.yaml says which rules apply, in which order; docs/reference/pipeline.md lists all. A rule
may import pydantic, the standard library and ``checks``, except ``checks.config.params``. It imports other packages
only inside functions, because the release tool reads params.yaml without them.
"""

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, ClassVar, Literal, Protocol

from checks.data.drafts import Draft, parted
from checks.formats.data_reports import RuleCount
from checks.kinds.registry import Named, Registry, Unfit


class Detects(Protocol):
    """``checks.data.personal_data.PersonalData``, which is not imported: a training does not depend on detectors."""

    def count(self, row: Draft, /) -> Counter[str]: ...
    def mask(self, text: str, /) -> str: ...


class Numbers(Protocol):
    """The numbers in the section ``prepare`` that rules read."""

    @property
    def max_prompt_words(self) -> int:
        """Return the most words of a prompt."""

    @property
    def personal_data(self) -> Detects | None:
        """Return what counts as personal data; None: nothing is looked for."""


class Rule(Named):
    """A rule. A subclass sets ``does``, and defines exactly one of ``fix``, ``drop`` and ``among``.

    ``fix`` returns the fixed draft. ``drop`` says whether to drop a draft. ``among`` decides for all drafts together. A
    rule is pure, and its result does not depend on the order of the drafts.
    """

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


def apply_rule(rule: Rule, drafts: Sequence[Draft]) -> tuple[list[Draft], list[Draft]]:
    """Return the remaining drafts, and the drafts that the rule fixed or dropped, as they were before."""
    if rule.fix:
        fixed = [rule.fix(draft) for draft in drafts]
        return fixed, [
            old for old, new in zip(drafts, fixed, strict=True) if old is not new and old != new
        ]
    return parted(
        drafts, rule.among(drafts) if rule.among else [rule.finds(draft) for draft in drafts]
    )


def _name(rule: type[Rule]) -> str:
    if not isinstance(getattr(rule, "does", None), str):
        raise Unfit("does not set does, which says what it does")
    if (rule.fix, rule.drop, rule.among).count(None) != 2:
        raise Unfit("does not define exactly one of fix, drop and among")
    return rule.name


RULES: Registry[Rule] = Registry("lockstep.rules", Rule, _name)
RuleName = Annotated[str, RULES]  # a file of checks/rules says what each does


class _Rules(Mapping[str, Rule]):
    """Rules by name, each made when it is looked up."""

    def __init__(self, numbers: Numbers) -> None:
        self._made = functools.cache(lambda name: RULES.kinds[name](numbers))

    def __getitem__(self, name: str) -> Rule:
        return self._made(name)

    def __iter__(self) -> Iterator[str]:
        return iter(RULES.kinds)

    def __len__(self) -> int:
        return len(RULES.kinds)


def all_rules(numbers: Numbers) -> Mapping[str, Rule]:
    """Every rule by its name, whether ``prepare.rules`` names it or not, with the numbers of the section prepare.

    Rules from outside are there once they are looked up.
    """
    return _Rules(numbers)


def rows_dropped(counts: Iterable[RuleCount]) -> str:
    """How many rows went, by which rules, the largest first: ``3 dropped: drop-duplicates 2, drop-long-prompt 1``."""
    by = sorted((c for c in counts if c.kind == "drop" and c.rows), key=lambda count: -count.rows)
    rules = ", ".join(f"{count.rule} {count.rows:,}" for count in by)
    return f"{sum(count.rows for count in by):,} dropped{': ' if by else ''}{rules}"
