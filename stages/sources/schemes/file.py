"""``file:///path``, or a path relative to the repository's root: a file or folder on this machine."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import unquote

from stages.sources.location import Location, refused


@dataclass(frozen=True)
class Local(Location):
    """A file or folder on this machine."""

    kind = "file"
    path: Path

    @classmethod
    def parse(cls, uri: str, rest: str, field: str, root: Path) -> Self:
        """Read a path, or a URI with this machine as its host."""
        if uri == rest:
            return cls(root / uri)
        host, slash, path = rest.partition("/")
        if host not in ("", "localhost") or not slash:
            raise refused(
                uri, field, "names another host", "write file:///path, or a path without file://"
            )
        return cls(Path("/" + unquote(path)))

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.name

    @property
    def local(self) -> Path:
        """The path itself."""
        return self.path

    def download(self, work: Path, field: str) -> tuple[Path, bool]:
        """Never called: the bytes are used where they are."""
        raise NotImplementedError(f"{field}: {self.path} is not copied to {work}")
