"""Drops answers that run more than one ``az`` command."""

from checks.data.drafts import Draft
from checks.kinds.rule import Rule
from lockstep_azure_cli.commands import commands_in


class DropSeveralCommands(Rule):
    """Drops answers that run more than one ``az`` command."""

    name = "drop-several-commands"
    does = "the answer runs more than one az command"
    in_rows = False

    def drop(self, draft: Draft) -> bool:
        """Whether the draft has the defect."""
        return len(commands_in(draft.answer)) > 1
