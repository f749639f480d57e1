"""References to images, as people write them: HOST[:PORT]/NAME[:TAG][@DIGEST], or oci:FOLDER[:TAG][@DIGEST].

Docker's short forms are read as Docker reads them: ``python:3.13`` is ``docker.io/library/python:3.13``.
"""

import re
from typing import NamedTuple

from checks.errors import BuildRefused

_HOST = re.compile(r"(localhost|[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+|\[[0-9a-fA-F:]+\]|[A-Za-z0-9-]+(?=:))(:[0-9]{1,5})?")
_NAME = re.compile(r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
LAYOUT = "oci:"
DOCKER_HUB = "docker.io"


class Reference(NamedTuple):
    """Where an image is. ``host`` is None for an OCI layout, whose folder is ``name``."""

    host: str | None
    name: str
    tag: str | None
    digest: str | None

    def __str__(self) -> str:
        where = f"{self.host}/{self.name}" if self.host else f"{LAYOUT}{self.name}"
        return where + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")


def parse(text: str) -> Reference:
    """Read a reference. Raises BuildRefused when it is none."""
    rest, at, digest = text.partition("@")
    if at and not _DIGEST.fullmatch(digest):
        raise BuildRefused(f"{text!r}: {digest!r} is no digest", "write it as sha256: and 64 hex digits")
    found = digest or None
    if rest.startswith(LAYOUT):
        folder, colon, tag = rest.removeprefix(LAYOUT).rpartition(":")
        if not colon or "/" in tag:
            folder, tag = rest.removeprefix(LAYOUT), ""
        if not folder or (tag and not _TAG.fullmatch(tag)):
            raise BuildRefused(
                f"{text!r}: names no folder of an OCI layout", "write it as oci:FOLDER or oci:FOLDER:TAG"
            )
        return Reference(None, folder, tag or None, found)
    host, slash, name = rest.partition("/")
    if not slash or not _HOST.fullmatch(host):
        host, name = DOCKER_HUB, rest
    last, colon, tag = name.rpartition(":")
    name, tag = (last, tag) if colon else (name, "")
    if host == DOCKER_HUB and "/" not in name:
        name = f"library/{name}"
    if not _NAME.fullmatch(name) or (colon and not _TAG.fullmatch(tag)):
        raise BuildRefused(f"{text!r}: is no reference to an image", "write it as HOST/NAME:TAG, names in lower case")
    return Reference(host, name, tag or None, found)
