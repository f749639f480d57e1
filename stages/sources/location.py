"""What a kind of source is: where the bytes of ``base.uri`` or ``data.uri`` lie, and how they come here.

A kind is one file of ``stages/sources/schemes``, or of a package of a user (entry points ``lockstep.sources``). It
defines one class below ``Location``. A kind is called by the scheme of its URIs: ``pypi`` for ``pypi://…``.
"""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, Self

from checks import layout
from checks.errors import SourceRefused
from stages.sources import uris


class Location(ABC):
    """A file or a folder that a URI names."""

    kind: ClassVar[str]  # the scheme of its URIs, in lower case

    @classmethod
    @abstractmethod
    def parse(cls, uri: str, rest: str, field: str, root: Path) -> Self:
        """Read a URI strictly. ``rest`` is what follows ``scheme://``, ``root`` the repository.

        ``field`` (``base.uri``) is what a refusal calls the URI; ``refused`` makes one. Raises SourceRefused.
        """

    @property
    @abstractmethod
    def name(self) -> str:
        """What the file or folder is called."""

    @abstractmethod
    def download(self, work: Path, field: str) -> tuple[Path, bool]:
        """Bring the bytes below the folder ``work``; return their path, and whether an earlier download was continued.

        Raises SourceRefused when they cannot be read, MachineRefused when this machine lacks what that takes.
        """

    @property
    def inside(self) -> str | None:
        """The part of the archive at the downloaded path that is meant; None: all of it."""
        return None

    @property
    def local(self) -> Path | None:
        """Where the bytes lie on this machine, to be used there; None: they are downloaded."""
        return None


def refused(uri: str, field: str, what: str, todo: str) -> SourceRefused:
    """The refusal of a URI, shown without its secrets."""
    return SourceRefused(f"{layout.PARAMS}: {field}: {uris.redact(uri)!r} {what}", todo)
