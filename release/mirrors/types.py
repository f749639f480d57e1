"""The results of comparing git with its mirrors."""

from typing import Literal

from checks.records.rows import Record

Where = Literal["environments", "tags", "MLflow", "registry", "cluster"]


class MirrorFinding(Record):
    """One difference between a mirror and git, or a mirror that could not be reached.

    ``drift``: they differ. ``unreachable``: that is unknown. ``fix``: what `reconcile --fix` does about it; ``todo``:
    what a person does if it can do nothing; one of them is empty. ``fixed``: it was fixed, and a second reading
    confirmed it.
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
    """A mirror that does not answer, or whose answer cannot be read. The message can be shown to people."""
