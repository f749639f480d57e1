"""Drops rows that answer nothing."""

from checks.data.drafts import Draft
from checks.kinds.rule import Rule


class DropEmptyReference(Rule):
    """Drops rows that answer nothing."""

    does = "the reference is empty"
    of_documents = True

    def drop(self, draft: Draft) -> bool:
        """Whether the draft has the defect."""
        return draft.has_blank("assistant")
