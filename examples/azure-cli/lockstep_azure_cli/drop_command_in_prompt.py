"""Drops prompts that spell out the ``az`` command that is asked for."""

import re

from checks.data.drafts import Draft
from checks.kinds.rule import Rule
from lockstep_azure_cli.commands import service_of


class DropCommandInPrompt(Rule):
    """Drops prompts that spell out the ``az`` command that is asked for."""

    name = "drop-command-in-prompt"
    does = "the prompt contains the requested command"

    def drop(self, draft: Draft) -> bool:
        """Whether the draft has the defect."""
        service = service_of(draft.reference) or draft.reference
        words = " ".join(re.findall(r"[\w-]+", draft.prompt))
        return bool(service) and f" az {service} " in f" {words} "
