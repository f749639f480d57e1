"""Drops prompts with more words than ``prepare.max_prompt_words``: a manual, and no request."""

from checks.data.drafts import Draft
from checks.kinds.rule import Rule


class DropLongPrompt(Rule):
    """Drops prompts with more words than ``prepare.max_prompt_words``: a manual, and no request."""

    does = "more words than prepare.max_prompt_words are a manual, not a request"

    def drop(self, draft: Draft) -> bool:
        """Whether the draft has the defect."""
        return len(draft.prompt.split()) > self.numbers.max_prompt_words
