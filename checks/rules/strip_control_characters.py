"""Removes control and invisible characters from prompts and references."""

import re

from checks.data.drafts import Draft
from checks.kinds.rule import Rule

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u2060\ufeff]")


def _stripped(text: str) -> str:
    return _CONTROL.sub("", text)


class StripControlCharacters(Rule):
    """Removes control and invisible characters from prompts and references."""

    does = "remove control and invisible characters"
    of_documents = True

    def fix(self, draft: Draft) -> Draft:
        """Return the draft without the defect."""
        return draft.turns_rewritten(
            **dict.fromkeys(("system", "user", "assistant", "tool", "call"), _stripped)
        )
