"""Trims white space around prompts and references, and keeps it inside."""

from dataclasses import replace

from checks.drafts import Draft, Rule


class TrimEnds(Rule):
    """Trims white space around prompts and references, and keeps it inside."""

    name = "trim-ends"
    does = "trim white space around prompts and references, keep it inside"

    def fix(self, draft: Draft) -> Draft:
        """The draft without the defect."""
        return replace(draft, prompt=draft.prompt.strip(), reference=draft.reference.strip())
