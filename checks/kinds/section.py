"""The interface of a section of params.yaml that a package or a team adds: a subclass of ``AddedSection``.

Its verb, its kinds or its stage read it from the parameters: ``getattr(params, "NAME")`` is the section, or None where
params.yaml does not write it. It is policy as a whole (``checks.decision.policy``). A stage of dvc.yaml that reads it
names it in ``params``, so that DVC records its values.
"""

from typing import ClassVar

from checks.kinds.registry import Registry, Unfit
from checks.records.sections import Section


class AddedSection(Section):
    """The parameters of a section. ``section``: its name in params.yaml, lower-case letters, digits and _."""

    section: ClassVar[str]


def _name(section: type[AddedSection]) -> str:
    name = getattr(section, "section", None)
    if not isinstance(name, str) or not name.isidentifier():
        raise Unfit("does not set section to a name of lower-case letters, digits and _")
    return name


SECTIONS: Registry[AddedSection] = Registry("lockstep.sections", AddedSection, _name, own=False)
