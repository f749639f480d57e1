"""Drops answers that run no ``az`` command."""

from checks.data.drafts import Draft
from checks.kinds.rule import Rule
from lockstep_azure_cli.commands import commands_in


class DropWithoutCommand(Rule):
    """Drops answers that run no ``az`` command."""

    name = "drop-without-command"
    does = "the answer runs no az command"
    in_rows = False

    def drop(self, draft: Draft) -> bool:
        """Whether the draft has the defect."""
        return not commands_in(draft.answer)
