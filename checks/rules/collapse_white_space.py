"""Makes each run of white space in a prompt one space, and trims references."""

from checks.drafts import Draft, Rule


class CollapseWhiteSpace(Rule):
    """Makes each run of white space in a prompt one space, and trims references."""

    name = "collapse-white-space"
    does = "make runs of white space in prompts one space, trim references"

    def fix(self, draft: Draft) -> Draft:
        """The draft without the defect."""
        return draft.rewritten(" ".join(draft.prompt.split()), draft.reference.strip())
