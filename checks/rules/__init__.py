"""The rules that ``prepare.rules`` of params.yaml can name: one file each, which defines one class below ``Rule``.

``prepare.rules`` says which rules apply, in which order; docs/reference/pipeline.md lists all. A package of
a user adds one by an entry point of the group ``lockstep.rules``. A module whose name begins with ``_`` is no rule.
"""

import sys
from collections.abc import Iterable

from checks import plugins
from checks.data.drafts import Numbers, Rule
from checks.formats.data_reports import RuleCount


def _name(rule: type[Rule]) -> str:
    if not isinstance(name := getattr(rule, "name", None), str) or not isinstance(
        getattr(rule, "does", None), str
    ):
        raise plugins.Unfit("does not set name and does")
    if (rule.fix, rule.drop, rule.among).count(None) != 2:
        raise plugins.Unfit("does not define exactly one of fix, drop and among")
    return name


RULES = plugins.collect("lockstep.rules", sys.modules[__name__], plugins.subclass_of(Rule), _name)


def of(numbers: Numbers) -> dict[str, Rule]:
    """Every rule by its name, whether ``prepare.rules`` names it or not, with the numbers of the section prepare."""
    return {name: rule(numbers) for name, rule in RULES.kinds.items()}


def dropped(counts: Iterable[RuleCount]) -> str:
    """How many rows went, by which rules, the largest first: ``3 dropped: drop-duplicates 2, drop-long-prompt 1``."""
    by = sorted((c for c in counts if c.kind == "drop" and c.rows), key=lambda count: -count.rows)
    rules = ", ".join(f"{count.rule} {count.rows:,}" for count in by)
    return f"{sum(count.rows for count in by):,} dropped{': ' if by else ''}{rules}"
