"""The ledger's types: moves, changes, tags and people."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Literal, NamedTuple

from checks.formats.pointer import Pointer

# "other": not made by a verb of Lockstep, but by hand, by a merge that resolved a conflict, or by a commit that
# contradicts its message.
Kind = Literal["promote", "rollback", "other"]


class Move(NamedTuple):
    """One change of an environment's pointer."""

    number: int  # the environment's first move is 1
    environment: str
    kind: Kind
    at: datetime  # UTC; when the branch came to have it, as far as commits can be believed; never before an earlier one
    by: str  # the author as git has it: a name and an address, which whoever may push can write
    why: str
    commit: str  # that made it
    landed: str  # that brought it onto the branch: the merge, or ``commit`` itself
    before: Pointer | None
    after: Pointer | None  # None: the pointer was taken away, or cannot be read (then ``problem`` says why)
    problem: str = ""  # what its message or its pointer says that is not believed
    doubt: str = ""  # why the date of ``landed`` is not believed
    ran: bool = True  # whether the branch itself had ``after`` as of ``landed``: a side branch moves nothing


class Person(NamedTuple):
    """An author, if it is not git's configured one."""

    name: str
    email: str


class Tag(NamedTuple):
    """An annotated tag. ``commit`` None: the commit that is being created."""

    name: str
    message: str
    commit: str | None


class Change(NamedTuple):
    """Files to write (None: delete), with the commit's message and tags. They are committed together."""

    files: Mapping[Path, bytes | None]
    message: str
    tags: tuple[Tag, ...] = ()
    author: Person | None = None


class TagRef(NamedTuple):
    """An existing tag of the ledger. ``commit``: what it points to."""

    commit: str
    annotated: bool


Tags = Mapping[str, TagRef]


def taken(tag: str, names: Iterable[str]) -> str | None:
    """The existing tag that prevents this name: the same, or one that git cannot store beside it (``a``, ``a/b``)."""
    return next((each for each in names if f"{each}/".startswith(f"{tag}/") or tag.startswith(f"{each}/")), None)
