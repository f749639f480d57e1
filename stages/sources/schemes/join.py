"""``join:// URI URI …``: a file that was cut into parts, each in a source of its own. The order is that of the file.

Package indexes limit the size of a wheel, so large files come in several. The pin is that of the joined file, which
needs room twice while it is made. In params.yaml, a folded text (``uri: >-``) has one URI on each line.
"""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from checks.process.errors import SourceRefused
from checks.storage import layout
from stages.sources import archive, parsing
from stages.sources.location import Location, refused

_NUMBER = re.compile(r"[._-]part[._-]?[0-9]+$")


@dataclass(frozen=True)
class Joined(Location):
    """A file in parts."""

    kind = "join"
    parts: tuple[Location, ...]

    @classmethod
    def parse(cls, uri: str, rest: str, field: str, root: Path) -> Self:
        """Read the URIs of the parts, at least two, each of which is downloaded."""
        parts = tuple(parsing.parse(part, field, root) for part in rest.split())
        if len(parts) < 2 or any(isinstance(part, Joined) for part in parts):
            raise refused(
                uri,
                field,
                "is not join:// with the URIs of a file's parts",
                "write at least two URIs with spaces between, in the order of the file",
            )
        if local := next((part.local for part in parts if part.local is not None), None):
            raise refused(
                uri,
                field,
                f"names the local {local.name}",
                "join local files with cat, and name the result",
            )
        return cls(parts)

    @property
    def name(self) -> str:
        """The name of the first part, without its number."""
        return _NUMBER.sub("", self.parts[0].name)

    def download(self, work: Path, field: str) -> tuple[Path, bool]:
        """The joined file. Parts that an earlier run brought whole are used again."""
        parts, joined = work / "parts", work / "whole" / self.name
        for folder in (parts, joined.parent):
            folder.mkdir(exist_ok=True)
        brought = [parts / str(number) for number in range(1, len(self.parts) + 1)]
        resumed = False
        for place, part in zip(brought, self.parts, strict=True):
            resumed |= place.exists() or _bring(part, place, field)
        with joined.open("wb") as whole:
            for place in brought:
                with place.open("rb") as stream:
                    shutil.copyfileobj(stream, whole, 1 << 20)
        return joined, resumed


def _bring(part: Location, place: Path, field: str) -> bool:
    """Download a part to ``place``, all of it or nothing; return whether an earlier download was resumed."""
    folder, unpacked = place.with_suffix(".download"), place.with_suffix(".unpacked")
    folder.mkdir(exist_ok=True)
    path, resumed = part.download(folder, field)
    if part.inside is not None:
        shutil.rmtree(unpacked, ignore_errors=True)
        unpacked.mkdir()
        path = archive.extract(path, part.inside, unpacked)
    if not path.is_file():
        raise SourceRefused(
            f"{layout.PARAMS}: {field}: the part {part.name} is a folder",
            "name a file in each part",
        )
    path.rename(place)
    for left in (folder, unpacked):
        shutil.rmtree(left, ignore_errors=True)
    return resumed
