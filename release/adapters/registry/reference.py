"""References to images, as people write them: HOST[:PORT]/NAME[:TAG][@DIGEST], or oci:FOLDER[:TAG][@DIGEST].

Docker's short forms are read as Docker reads them: ``python:3.13`` is ``docker.io/library/python:3.13``, and what
stands before the first slash is a host where it has a dot, a colon or a capital letter, or is ``localhost``
(github.com/distribution/reference).
"""

import re
from typing import NamedTuple

from checks.process.errors import BuildRefused

_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?"
_HOST = re.compile(rf"({_LABEL}(\.{_LABEL})*|\[[0-9a-fA-F:]+\])(:(?P<port>[0-9]{{1,5}}))?")
_PART = r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*"
_NAME = re.compile(rf"{_PART}(/{_PART})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_LONGEST = 255  # characters of HOST/NAME
LAYOUT = "oci:"
DOCKER_HUB = "docker.io"
_ALIASES = {"index.docker.io": DOCKER_HUB}


class Reference(NamedTuple):
    """Where an image is. ``host`` is None for an OCI layout, whose folder is ``name``."""

    host: str | None
    name: str
    tag: str | None
    digest: str | None

    def __str__(self) -> str:
        name = f"{self.host}/{self.name}" if self.host else f"{LAYOUT}{self.name}"
        return (
            name + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")
        )


def parse(text: str) -> Reference:
    """Read a reference. Raises BuildRefused when it is none."""
    if not text.isprintable():
        raise BuildRefused(f"{text!r}: is no reference to an image", "write it as HOST/NAME:TAG")
    rest, at, digest = text.rpartition("@")
    if not at:
        rest, digest = text, ""
    elif not _DIGEST.fullmatch(digest):
        raise BuildRefused(
            f"{text!r}: {digest!r} is no digest", "write it as sha256: and 64 hex digits"
        )
    if rest.startswith(LAYOUT):
        folder, tag = _layout(rest.removeprefix(LAYOUT), text)
        return Reference(None, folder, tag, digest or None)
    host, name, tag = _registry(rest, text)
    return Reference(host, name, tag, digest or None)


def _layout(rest: str, text: str) -> tuple[str, str | None]:
    folder, colon, tag = rest.rpartition(":")
    if not colon or "/" in tag:
        folder, colon, tag = rest, "", ""
    if not folder or (colon and not _TAG.fullmatch(tag)):
        raise BuildRefused(
            f"{text!r}: names no folder of an OCI layout",
            "write it as oci:FOLDER or oci:FOLDER:TAG",
        )
    return folder, tag or None


def _registry(rest: str, text: str) -> tuple[str, str, str | None]:
    host, slash, name = rest.partition("/")
    if not slash or not (host == "localhost" or host != host.lower() or re.search(r"[.:]", host)):
        host, name = DOCKER_HUB, rest
    host = _ALIASES.get(host, host)
    last, colon, tag = name.rpartition(":")
    name, tag = (last, tag) if colon else (name, "")
    if host == DOCKER_HUB and "/" not in name:
        name = f"library/{name}"
    matched = _HOST.fullmatch(host)
    fits = matched and int(matched["port"] or 0) <= 65535 and len(host) + 1 + len(name) <= _LONGEST
    if not fits or not _NAME.fullmatch(name) or (colon and not _TAG.fullmatch(tag)):
        raise BuildRefused(
            f"{text!r}: is no reference to an image",
            "write it as HOST/NAME:TAG, without https://, names in lower case",
        )
    return host, name, tag or None
