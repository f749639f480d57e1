"""The interface of a named chat template: ``base.chat_template`` of params.yaml gives it to a model that has none.

A template is one file of ``checks/chat_templates``, or of a user's package (entry points ``lockstep.chat_templates``).
It defines one subclass of ``ChatTemplate``.
"""

from typing import ClassVar

from checks.kinds.registry import Named, Registry, Unfit


class ChatTemplate(Named):
    """A chat template in Jinja. Servers render it too, some with another Jinja: use tags that every Jinja has.

    It must render a prompt alike with and without its answer, and end an answer in one token. A line end right after a
    tag ``{% … %}`` is dropped: write ``{{ '\\n' }}`` there.
    """

    tokens: ClassVar[tuple[str, ...]]  # each must be one token of the model's tokenizer
    text: ClassVar[str]


def _name(template: type[ChatTemplate]) -> str:
    missing = [attribute for attribute in ("tokens", "text") if not hasattr(template, attribute)]
    if missing:
        raise Unfit(f"does not set {', '.join(missing)}")
    return template.name


TEMPLATES: Registry[ChatTemplate] = Registry("lockstep.chat_templates", ChatTemplate, _name)
