"""The chat templates that ``base.chat_template`` of params.yaml can name: one file each.

A package of a user adds one by an entry point of the group ``lockstep.chat_templates``.
"""

import sys

from checks import plugins
from checks.chat_template_kind import ChatTemplate


def _name(template: type[ChatTemplate]) -> str:
    missing = [
        attribute for attribute in ("name", "tokens", "text") if not hasattr(template, attribute)
    ]
    if missing:
        raise plugins.Unfit(f"does not set {', '.join(missing)}")
    return template.name


TEMPLATES = plugins.collect(
    "lockstep.chat_templates", sys.modules[__name__], plugins.subclass_of(ChatTemplate), _name
)
