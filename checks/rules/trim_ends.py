"""Trims white space around prompts and references, and keeps it inside."""

from checks.data.drafts import Draft
from checks.kinds.rule import Rule


class TrimEnds(Rule):
    """Trims white space around prompts and references, and keeps it inside."""

    does = "trim white space around prompts and references, keep it inside"
    of_documents = True

    def fix(self, draft: Draft) -> Draft:
        """Return the draft without the defect."""
        return draft.turns_rewritten(user=str.strip, assistant=str.strip)
