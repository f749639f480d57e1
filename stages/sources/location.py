"""The interface of a kind of source: where the bytes of ``base.uri`` or ``data.uri`` are, and how they are fetched.

A kind is one file of ``stages/sources/schemes``, or of a user's package (entry points ``lockstep.sources``). It defines
one subclass of ``Location``. Its name is the scheme of its URIs: ``pypi`` for ``pypi://…``.
"""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, Self

from checks.process.errors import SourceRefused
from checks.storage import layout
from stages.sources import uris


class Location(ABC):
    """A file or a folder that a URI names."""

    kind: ClassVar[str]  # the scheme of its URIs, in lower case

    @classmethod
    @abstractmethod
    def parse(cls, uri: str, rest: str, field: str, root: Path) -> Self:
        """Parse a URI strictly. ``rest`` follows ``scheme://``; ``root`` is the repository.

        ``field`` (``base.uri``) names the URI in refusals, which ``refused`` creates. Raises SourceRefused.
        """

    @property
    @abstractmethod
    def name(self) -> str:
        """The name of the file or folder."""

    @abstractmethod
    def download(self, work: Path, field: str) -> tuple[Path, bool]:
        """Download the bytes below the folder ``work``; return their path, and whether an earlier download was resumed.

        Raises SourceRefused if they cannot be read, MachineRefused if this machine lacks what is needed.
        """

    @property
    def inside(self) -> str | None:
        """The requested part of the downloaded archive; None: all of it."""
        return None

    @property
    def local(self) -> Path | None:
        """The path on this machine, where the bytes are used; None: they are downloaded."""
        return None


def refused(uri: str, field: str, what: str, todo: str) -> SourceRefused:
    """The refusal of a URI, shown without its secrets."""
    return SourceRefused(f"{layout.PARAMS}: {field}: {uris.redact(uri)!r} {what}", todo)
