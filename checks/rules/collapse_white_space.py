"""Makes each run of white space in a user's turn one space, and trims answers."""

from checks.data.drafts import Draft
from checks.kinds.rule import Rule


class CollapseWhiteSpace(Rule):
    """Makes each run of white space in a user's turn one space, and trims answers."""

    does = "make runs of white space in prompts one space, trim references"
    of_documents = True

    def fix(self, draft: Draft) -> Draft:
        """Return the draft without the defect."""
        return draft.turns_rewritten(user=lambda text: " ".join(text.split()), assistant=str.strip)
