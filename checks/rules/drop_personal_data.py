"""Drops rows with personal data or secrets."""

from checks.data.drafts import Draft
from checks.kinds.rule import Rule


class DropPersonalData(Rule):
    """Drops rows in which ``prepare.personal_data`` finds something."""

    does = "the row has what prepare.personal_data looks for"
    of_documents = True

    def drop(self, draft: Draft) -> bool:
        """Whether the draft has the defect."""
        wanted = self.numbers.personal_data
        return wanted is not None and bool(wanted.count(draft))

    def shown(self, draft: Draft) -> str:
        """Return what was found and how often, and no word of it: reports are kept in git and published."""
        wanted = self.numbers.personal_data
        return (
            ", ".join(f"{kind} {count}" for kind, count in wanted.count(draft).items())
            if wanted
            else ""
        )
