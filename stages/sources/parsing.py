"""Parses URIs of sources: the kind of source is chosen by the URI's scheme.

A URI without a scheme is a path, as with ``file://``. A scheme without a kind of its own is read by the kind ``url``,
which opens every URL that fsspec supports.
"""

import functools
from pathlib import Path

from checks.kinds.registry import Registry, Unfit, refuse_broken
from checks.process import distribution
from checks.process.errors import MachineRefused
from checks.storage import layout
from stages.sources import uris
from stages.sources.location import Location, refused

_PATH, _ANY = "file", "url"
# Schemes of the package lockstep-lake, each an extra of Lockstep.
_OF_LAKE = ("delta", "iceberg", "sql")


@functools.cache
def kinds() -> Registry[Location]:
    """All kinds of source: the files of ``stages/sources/schemes``, and those of users' packages."""
    return Registry("lockstep.sources", Location, _kind)


def parse(uri: str, field: str, root: Path) -> Location:
    """Parse a URI strictly; ``field`` (``base.uri``) names it in refusals.

    Raises SourceRefused. Raises MachineRefused if a kind of source from outside cannot be used, or is not installed.
    """
    known = kinds().kinds
    refuse_broken()
    if uris.is_broken(uri):
        raise refused(uri, field, "holds a control character", "write the URI without it")
    if uris.is_chain(uri):
        raise refused(uri, field, "chains file systems", "name the file or folder itself")
    scheme, rest = uris.split(uri)
    if scheme is None:
        return known[_PATH].parse(uri, uri, field, root)
    if scheme in _OF_LAKE and scheme not in known:
        raise MachineRefused(
            f"{layout.PARAMS}: {field}: {scheme}:// needs the package lockstep-lake",
            distribution.install(scheme),
        )
    return known.get(scheme, known[_ANY]).parse(uri, rest, field, root)


def _kind(location: type[Location]) -> str:
    if not isinstance(kind := getattr(location, "kind", None), str) or kind != kind.lower():
        raise Unfit("does not set kind to a scheme in lower case")
    return kind
