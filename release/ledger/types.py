"""The ledger's types: where it is, its moves, changes, tags and people."""

import hashlib
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Literal, NamedTuple

from pydantic import Field

from checks.formats.pointer import Pointer
from checks.process.text import redact
from checks.records.rows import Record
from release.adapters.git import Git

# "other": not made by a verb of Lockstep, but by hand, by a merge that resolved a conflict, or by a commit that
# contradicts its message.
Kind = Literal["promote", "rollback", "other"]


class Place(NamedTuple):
    """``remote``: a name or address that git knows; None: the branch of this clone is the ledger."""

    git: Git
    branch: str
    remote: str | None
    prefix: str  # The root's place in the repository: "" or "folder/".

    @property
    def shown(self) -> str:
        """Its name in messages."""
        return f"{self.branch} of {redact(self.remote)}" if self.remote else self.branch

    @property
    def ref(self) -> str:
        """The full name of the branch, where it is."""
        return f"refs/heads/{self.branch}"

    @property
    def seen(self) -> str:
        """The ref that keeps the last known tip, so that git does not delete the commit."""
        name = hashlib.sha256(f"{self.remote or ''}\0{self.branch}".encode()).hexdigest()[:16]
        return f"refs/lockstep/{name}/tip"


class Move(Record):
    """One change of an environment's pointer.

    ``number``: the environment's first move is 1. ``at``: when the branch came to have it (UTC), as far as commits can
    be believed; never before an earlier one. ``until``: when its release ended; None while it runs, or if nobody asked
    (``release.ledger.moves.ran``). ``by``: the author as git has it, which whoever may push can write.
    """

    environment: str
    number: int
    kind: Kind
    at: datetime
    until: datetime | None = None
    by: str
    why: str
    before: Pointer | None
    # None if the pointer was taken away, or cannot be read (then ``problem`` says why).
    after: Pointer | None
    commit: str  # The commit that made the move.
    landed: str  # The commit that brought it onto the branch: the merge, or ``commit`` itself.
    problem: str = ""  # The part of its message or pointer that is not believed.
    doubt: str = ""  # The reason why the date of ``landed`` is not believed.
    # Whether the branch itself had ``after`` as of ``landed``: a side branch moves nothing.
    ran: bool = Field(default=True, exclude=True)

    @property
    def deployed(self) -> Pointer | None:
        """Return what the branch itself ran after the move. Versions and tags count no other pointer.

        Otherwise a proposal could reserve versions with a pointer that it takes back.
        """
        return self.after if self.ran else None


class Tag(NamedTuple):
    """An annotated tag. ``commit`` None: the commit that is being created. ``pointer``: what its message describes."""

    name: str
    subject: str
    pointer: Pointer | None
    commit: str | None

    @property
    def message(self) -> str:
        """The subject, and the fields of the pointer."""
        fields = [(name, value) for name, value in self.pointer or () if name != "version"]
        return "\n".join([self.subject, "", *(f"{name}: {value}" for name, value in fields)])


class Change(NamedTuple):
    """Files to write (None: delete), with the commit's message and tags. They are committed together.

    ``beside``: files and folders of other projects, below the git root, that it was decided on. ``elsewhere``: files of
    other projects that it writes too, by their path below the git root.
    """

    files: Mapping[Path, bytes | None]
    message: str
    tags: tuple[Tag, ...] = ()
    beside: tuple[Path, ...] = ()
    elsewhere: Mapping[Path, bytes | None] = MappingProxyType({})


class TagRef(NamedTuple):
    """An existing tag of the ledger. ``commit``: what it points to."""

    commit: str
    annotated: bool


Tags = Mapping[str, TagRef]


class LedgerState(NamedTuple):
    """The state of the ledger when it was read. ``tip`` None: there is no such branch."""

    tip: str | None
    tags: dict[str, TagRef]


class Wanted(NamedTuple):
    """A compare-and-swap: the branch from ``tip`` to ``made``, and new tags (full name to object).

    If ``made`` is ``tip``, only tags are created.
    """

    tip: str
    made: str
    tags: dict[str, str]

    @property
    def moves(self) -> bool:
        """Whether the branch moves."""
        return self.made != self.tip


class TagNames:
    """The names of existing tags. Git stores no tag ``a`` beside ``a/b``."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = dict.fromkeys(names)
        self._below = {folder: name for name in reversed(self._names) for folder in _folders(name)}

    def taken(self, tag: str) -> str | None:
        """Return the existing tag that prevents this name: the same, or one that git cannot store beside it."""
        return next(
            (name for name in (tag, *_folders(tag)) if name in self._names), self._below.get(tag)
        )


def _folders(name: str) -> list[str]:
    parts = name.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]
