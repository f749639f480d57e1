"""Makes each run of white space in a prompt one space, and trims references."""

from dataclasses import replace

from checks.drafts import Draft, Rule


class CollapseWhiteSpace(Rule):
    """Makes each run of white space in a prompt one space, and trims references."""

    name = "collapse-white-space"
    does = "make runs of white space in prompts one space, trim references"

    def fix(self, draft: Draft) -> Draft:
        """The draft without the defect."""
        return replace(draft, prompt=" ".join(draft.prompt.split()), reference=draft.reference.strip())
