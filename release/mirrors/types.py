"""What comparing git with what mirrors it gives."""

from typing import Literal

from checks.rows import Record

Where = Literal["environments", "tags", "MLflow", "registry", "cluster"]


class Finding(Record):
    """One thing that a mirror does not say as git says it, or that could not be asked.

    ``drift``: it says something else. ``unreachable``: whether it does is not known. ``fix`` is what `reconcile --fix`
    does about it, ``todo`` what a person does where it can do nothing; one of them is empty. ``fixed``: that was done,
    and the mirror was seen to agree afterwards.
    """

    where: Where
    what: str
    git: str
    mirror: str
    severity: Literal["drift", "unreachable"]
    fix: str = ""
    todo: str = ""
    fixed: bool = False


class MirrorUnavailable(Exception):  # noqa: N818 - whether it is an error is for whoever asked
    """A mirror that does not answer, or answers nothing that can be read. Its text is fit for a person."""
