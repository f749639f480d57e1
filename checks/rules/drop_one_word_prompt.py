"""Drops prompts of one word: mostly the name of an operation of the API, and no request."""

from checks.data.drafts import Draft
from checks.kinds.rule import Rule


class DropOneWordPrompt(Rule):
    """Drops prompts of one word: mostly the name of an operation of the API, and no request."""

    does = "one word, mostly the name of an operation of the API, is not a request"

    def drop(self, draft: Draft) -> bool:
        """Whether the draft has the defect."""
        return len(draft.prompt.split()) == 1
