"""Removes control and invisible characters from prompts and references."""

import functools
import re

from checks.data.drafts import Draft
from checks.kinds.rule import Rule

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u2060\ufeff]")


class StripControlCharacters(Rule):
    """Removes control and invisible characters from prompts and references."""

    does = "remove control and invisible characters"
    of_documents = True

    def fix(self, draft: Draft) -> Draft:
        """Return the draft without the defect."""
        roles = ("system", "user", "assistant", "tool", "call")
        return draft.turns_rewritten(**dict.fromkeys(roles, functools.partial(_CONTROL.sub, "")))
