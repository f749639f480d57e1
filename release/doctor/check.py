"""A finding of ``doctor``, and how a table of checks becomes a list of findings."""

from collections.abc import Callable, Iterable, Iterator
from typing import Generic, Literal, NamedTuple, TypeVar

from checks.process.errors import Refusal

About = TypeVar("About")
Fine = TypeVar("Fine")
Status = Literal["ok", "missing", "optional", "unknown"]


class Check(NamedTuple):
    """One finding. ``missing``: what needs it cannot run or is not safe; ``optional``: only some verbs need it.

    ``unknown``: it could not be read, which never counts as ``ok``. ``fix``: the command that fixes it.
    """

    name: str
    status: Status
    found: str
    needed_by: tuple[str, ...]
    fix: str = ""


class Finding(Exception):  # noqa: N818 - ends one question, and is no error
    """Something is ``missing``."""

    status: Status = "missing"

    def __init__(self, found: str, fix: str) -> None:
        super().__init__(found)
        self.found = found
        self.fix = fix


class Unseen(Finding):
    """Something is ``unknown``: GitHub hides it from this token or does not answer."""

    status = "unknown"


class Lesser(Finding):
    """Something is missing that only some verbs need."""

    status = "optional"


class Wanted(NamedTuple, Generic[About]):
    """One row of a table. ``look`` returns what is in order, and raises Finding or Refusal otherwise."""

    name: str
    needed_by: tuple[str, ...]
    look: Callable[[About], str]


def want(fine: Fine | None, found: str, fix: str) -> Fine:
    """Return ``fine``. Raises Finding if it is false, empty or None."""
    if not fine:
        raise Finding(found, fix)
    return fine


def walk(table: Iterable[Wanted[About]], about: About) -> Iterator[Check]:
    """One finding for each row of ``table``."""
    for name, needed_by, look in table:
        try:
            yield Check(name, "ok", look(about), needed_by)
        except Finding as finding:
            yield Check(name, finding.status, finding.found, needed_by, finding.fix)
        except Refusal as refusal:
            yield Check(name, "missing", refusal.what, needed_by, refusal.todo)
