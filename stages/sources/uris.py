"""The text of ``base.uri`` and ``data.uri``: its scheme, and how it is shown.

A URI can carry a password or a signature. Messages and reports show it through ``redact``. What a URI may say depends
on its scheme: ``stages.sources.parsing``.
"""

import re
from urllib.parse import parse_qsl, unquote, urlsplit

from checks.process.text import escape
from checks.storage import digest

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>)]+")
_BREAKS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")  # ends a line, or is not text
_HIDDEN = "***"
# Query parameters whose values tell bytes apart and open nothing; the value of any other is hidden.
_HARMLESS = frozenset({"versionid", "generation", "revision", "ref", "raw", "download"})


def split(uri: str) -> tuple[str | None, str]:
    """The scheme in lower case and what follows ``://``; (None, the whole) for a path."""
    match = _SCHEME.fullmatch(uri)
    return (None, uri) if match is None else (match[1].lower(), match[2])


def is_broken(uri: str) -> bool:
    """Whether it contains a line end or is not valid text."""
    return _BREAKS.search(uri) is not None


def is_chain(uri: str) -> bool:
    """Whether it chains file systems of fsspec. A query may hold two colons."""
    return "::" in uri and "://" in uri and not uri.lower().startswith("sql://")


def is_safe(name: str) -> bool:
    """Whether a relative POSIX path stays below the folder that it is joined to, and is one line of text."""
    return digest.is_name(name)


def redact(uri: str) -> str:
    """``uri`` without user, password, query values (except harmless ones) and, for HTTP, fragment."""
    if is_chain(uri):  # refused by ``parse``
        return "::".join(redact(part) for part in uri.split("::"))
    match = _SCHEME.fullmatch(uri)
    if match is not None and match[1].lower() == "join":  # several URIs
        return " ".join([f"{match[1]}://", *map(redact, match[2].split())])
    if match is None or match[1].lower() in ("pypi", "hf", "file"):
        return uri
    if match[1].lower() == "delta":  # before the URL of a table
        return f"{match[1]}://{redact(match[2])}"
    if match[1].lower() == "sql":  # before the name of a variable; an address does not belong there
        return f"{match[1]}://{_HIDDEN}" if "@" in match[2].partition(" ")[0] else uri
    scheme, rest = match[1], match[2]
    if scheme.lower() in ("http", "https"):
        rest = rest.partition("#")[0]
    place, mark, query = rest.partition("?")
    host, slash, path = place.partition("/")
    shown = "&".join(_shown(pair) for pair in query.split("&")) if mark else ""
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}{mark}{shown}"


def reason(error: BaseException, uri: str) -> str:
    """An error of a library on one line, without the secrets of ``uri``."""
    while isinstance(error, FileNotFoundError) and error.__cause__ is not None:
        error = error.__cause__  # fsspec calls every failure of HTTP "not found"
    text = _URL.sub(lambda url: redact(url[0]), " ".join(str(error).split()))
    for secret in sorted(_secrets(uri), key=len, reverse=True):
        text = text.replace(secret, _HIDDEN)
    text = escape(text if len(text) <= 300 else text[:300] + "…")
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
    values |= {
        pair.partition("=")[2]
        for pair in query.split("&")
        if pair.partition("=")[0].lower() not in _HARMLESS
    }
    values |= {user, *user.split(":"), *(unquote(part) for part in user.split(":"))}
    # Shorter values would garble the message, and guard nothing.
    return {value for value in values if len(value) > 3}
