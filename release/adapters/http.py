"""Shared by clients of REST APIs: a token in one header, answers of bounded size, failures in few words."""

import ssl
from typing import Annotated, Any, TypeVar
from urllib.parse import urlsplit

import requests
import urllib3.exceptions
from pydantic import BaseModel, BeforeValidator, ValidationError

from checks.process.text import redact
from release.adapters.registry import addresses

_LONGEST = 200  # characters of the system's words
M = TypeVar("M", bound=BaseModel)
# Of an answer: what is null is empty, and some servers give numbers.
Text = Annotated[str, BeforeValidator(lambda value: "" if value is None else str(value))]


class Bearer(requests.auth.AuthBase):
    """A token as a login. Set last: a login of ~/.netrc does not take its place."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class TooLarge(ValueError):  # noqa: N818 - the caller has a word of its own for it
    """An answer without end."""


def takes_token(address: str) -> bool:
    """Whether a token may be sent there: https, or http on this machine; without a login and a query."""
    return addresses.is_private_way(address) and not urlsplit(address).query


def body(response: requests.Response, largest: int) -> bytes:
    """All of a streamed answer. Raises TooLarge when it has more than ``largest`` bytes."""
    data = bytearray()
    for block in response.iter_content(1 << 16):
        data += block
        if len(data) > largest:
            raise TooLarge(f"answers with more than {largest:,} bytes")
    return bytes(data)


def parsed(kind: type[M], data: bytes) -> M | None:
    """An answer as a ``kind``; None when it is no such JSON."""
    try:
        return kind.model_validate_json(data)
    except ValidationError:
        return None


def links(error: BaseException) -> list[BaseException]:
    """The error and all that it holds: requests and urllib3 wrap the system's error in several layers."""
    causes: list[BaseException] = []
    queue: list[Any] = [error]
    while queue:
        link = queue.pop(0)
        if isinstance(link, BaseException) and link not in causes:
            causes.append(link)
            queue += [link.__cause__, link.__context__, getattr(link, "reason", None), *link.args]
    return causes


def reason(error: Exception, times: tuple[float, float]) -> str:
    """Why a request failed, for a person; ``times`` are the seconds to connect, and between two reads.

    Only the kind of the error and the system's words: its own text may hold an address with a login, or what was sent.
    """
    causes = links(error)
    for link in reversed(causes):
        if isinstance(link, ssl.SSLCertVerificationError):
            return f"its TLS certificate is not trusted: {redact(link.verify_message or 'it does not fit', _LONGEST)}"
        if isinstance(link, ssl.SSLError):
            return f"no TLS connection: {redact(link.reason or 'it broke off', _LONGEST).lower().replace('_', ' ')}"
        # This stands before timeouts, because urllib3 calls a refused connection one.
        if isinstance(link, OSError) and link.strerror:
            return redact(link.strerror, _LONGEST)
    if isinstance(error, ValueError):
        return f"cannot be asked: {type(error).__name__}"
    if any(
        isinstance(link, requests.ConnectTimeout | urllib3.exceptions.ConnectTimeoutError)
        for link in causes
    ):
        return f"does not answer within {times[0]:g} s"
    if isinstance(error, requests.Timeout):
        return f"does not answer within {times[1]:g} s"
    if any(isinstance(link, TimeoutError | urllib3.exceptions.TimeoutError) for link in causes):
        return "stops answering"
    return f"the connection broke off ({type(causes[-1]).__name__})"
