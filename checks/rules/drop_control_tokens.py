"""Drops rows with a text that tokenizers read as a control token, such as the end of a turn.

A rule reads no tokenizer. So it knows the form of such tokens, and names that have another form; ``validate`` holds the
rows to the tokens of the base itself.
"""

import json
import re

from checks.data.drafts import Draft
from checks.kinds.rule import Rule

_CONTROL = re.compile(
    r"<[|\uff5c][^<>|\uff5c\s]{1,64}[|\uff5c]>|</?s>|\[/?INST\]|<</?SYS>>|\[(?:CLS|SEP|PAD|UNK|MASK)\]"
    r"|<(?:bos|eos|pad|unk|mask|(?:start|end)_of_turn|start_of_image|repo_?name|filename|file_sep|gh_stars|issue_\w+"
    r"|jupyter_\w+|empty_output)>"
)


class DropControlTokens(Rule):
    """Drops rows with a text that tokenizers read as a control token."""

    does = "a text that tokenizers read as a control token, such as <|im_end|>"

    def drop(self, draft: Draft) -> bool:
        """Whether the draft has the defect."""
        texts = [*(message.text for message in draft.messages), draft.full_reference]
        more = (
            json.dumps([draft.tools, dict(draft.extra)], ensure_ascii=False)
            if draft.tools or draft.extra
            else ""
        )
        return any(map(_CONTROL.search, (*texts, more)))
