"""Reads replies: whole small ones, streamed bodies, and failures in words without secrets."""

import ssl
import time
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import requests
import urllib3.exceptions

from release.adapters import http
from release.adapters.registry import addresses
from release.adapters.registry.documents import LARGEST
from release.adapters.retries import RequestError

# Seconds to connect, between two reads, and for a small reply in all.
CONNECT, READ, REPLY = 10.0, 60.0, 300.0
FAILURES = (requests.RequestException, urllib3.exceptions.HTTPError, OSError, UnicodeError)


class Answer(NamedTuple):
    """A whole small reply, and the URL that gave it."""

    status: int
    headers: Mapping[str, str]
    data: bytes
    url: str


class NoTLS(RequestError):  # noqa: N818 - it says what is missing
    """Something answered, and not in TLS."""


def failed(error: Exception, netloc: str, proxy: str | None, read: float = READ) -> RequestError:
    """Return the trouble that an exception of requests or urllib3 stands for. ``read``: seconds between two reads."""
    links = http.links(error)
    place = f"{netloc} through the proxy of the environment" if proxy else netloc
    what = f"{place}: {http.reason(error, (CONNECT, read))}"
    for link in links:
        if isinstance(link, ssl.SSLCertVerificationError):
            return RequestError(
                what,
                todo=f"put its authority's certificate at /etc/docker/certs.d/{netloc}/ca.crt, or set SSL_CERT_FILE",
            )
        # The other side speaks TLS and refuses us.
        if isinstance(link, ssl.SSLError) and "ALERT" in (link.reason or ""):
            return RequestError(
                what,
                todo=f"check its TLS settings; a certificate of our own belongs in /etc/docker/certs.d/{netloc}",
            )
    if isinstance(error, ValueError):
        return RequestError(what, todo="check the address and the proxy settings")
    if any(isinstance(link, ssl.SSLError | ConnectionResetError) for link in links) and isinstance(
        error, requests.ConnectionError
    ):
        return NoTLS(what, temporary=True)
    return RequestError(what, temporary=True)


def blocks(response: requests.Response, size: int, *, eager: bool = False) -> Iterator[bytes]:
    """Yield the rest of a body in blocks of at most ``size`` bytes, as they were sent; ``eager``: as they come in.

    Raises RequestError when it breaks off.
    """
    read = response.raw.read1 if eager else response.raw.read
    while True:
        try:
            block: bytes = read(size, decode_content=False)
        except FAILURES as error:
            failure = failed(error, host_of(response), None)
        else:
            if not block:
                return
            yield block
            continue
        raise failure


def whole(response: requests.Response) -> Answer:
    """A small reply. Raises RequestError when it breaks off, takes too long or is larger than any manifest may be."""
    parts, length, until = [], 0, time.monotonic() + REPLY
    for block in blocks(response, 1 << 16, eager=True):
        parts.append(block)
        length += len(block)
        if length > LARGEST:
            raise RequestError(f"{host_of(response)}: replies with more than {LARGEST:,} bytes")
        if time.monotonic() > until:
            raise RequestError(
                f"{host_of(response)}: takes more than {REPLY:g} s for a small reply",
                temporary=True,
            )
    return Answer(response.status_code, response.headers, b"".join(parts), response.url or "")


def host_of(response: requests.Response) -> str:
    """HOST[:PORT] that replied."""
    parts = addresses.split(response.url or "")
    return parts.netloc if parts else "the registry"
