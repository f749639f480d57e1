"""Drops rows that ask nothing."""

from checks.data.drafts import Draft
from checks.kinds.rule import Rule


class DropEmptyPrompt(Rule):
    """Drops rows that ask nothing."""

    does = "the prompt is empty"

    def drop(self, draft: Draft) -> bool:
        """Whether the draft has the defect."""
        return draft.has_blank("user")
