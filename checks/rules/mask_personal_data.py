"""Puts ``[kind]`` in place of personal data and secrets, such as ``[email]``."""

from dataclasses import replace
from typing import ClassVar

from checks.data.drafts import Draft, each_string
from checks.kinds.rule import Rule


class MaskPersonalData(Rule):
    """Puts ``[kind]`` in place of what ``prepare.personal_data`` finds in a row."""

    does = "put [kind] in place of what prepare.personal_data finds"
    of_documents = True
    # validate looks by drop-personal-data, which shows no such text.
    in_rows: ClassVar[bool] = False

    def fix(self, draft: Draft) -> Draft:
        """Return the draft without the defect, in every text that training reads."""
        wanted = self.numbers.personal_data
        if wanted is None or not wanted.count(draft):
            return draft
        return replace(
            draft.turns_rewritten(
                **dict.fromkeys(("system", "user", "assistant", "tool", "call"), wanted.mask)
            ),
            extra={key: each_string(value, wanted.mask) for key, value in draft.extra.items()},
            tools=tuple(
                {key: each_string(value, wanted.mask) for key, value in tool.items()}
                for tool in draft.tools
            ),
        )
