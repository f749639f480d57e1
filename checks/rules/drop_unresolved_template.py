"""Drops rows with a ``{placeholder}`` in the prompt, or in place of the service."""

import re

from checks.data.drafts import Draft
from checks.kinds.rule import Rule

_PLACEHOLDER = re.compile(r"\{[A-Za-z_][\w.]*\}")


class DropUnresolvedTemplate(Rule):
    """Drops rows with a ``{placeholder}`` in the prompt, or in place of the service."""

    does = "the prompt or the service is a {placeholder}"

    def drop(self, draft: Draft) -> bool:
        """Whether the draft has the defect."""
        words = draft.reference.removeprefix("az ").split()
        return bool(
            _PLACEHOLDER.search(draft.prompt) or (words and _PLACEHOLDER.fullmatch(words[0]))
        )
