"""Sends a request to a server: which one, with which headers, and how often.

What the gateway answers itself has the shape of OpenAI's errors.
"""

import json
import re
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Set
from contextlib import asynccontextmanager
from typing import NamedTuple

import aiohttp
from aiohttp import web
from pydantic import BaseModel, ValidationError
from yarl import URL

from checks.formats.captures import ID_HEADER, RELEASE_HEADER
from release.monitoring.gateway.metrics import Metrics
from release.monitoring.gateway.rows import Exchange
from release.monitoring.gateway.upstreams import Server, Upstreams, draw
from release.overlay.adapter_component import CANARY

ID, RELEASE = ID_HEADER, RELEASE_HEADER
# A digest names a request in reviews of harvested rows, so no client may choose one as its id.
_ID = re.compile(r"(?!sha256:)[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
_TRIES = 3
# Headers of one connection (RFC 9110, 7.6.1), and those that the gateway sets.
_HOP = {
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer",
    "transfer-encoding", "upgrade", "host", "content-length", "expect", "accept-encoding",
}  # fmt: skip
_NOT_BACK = _HOP | {"server", "date", ID.lower(), RELEASE.lower()}
_VIA = ("Via", "1.1 lockstep")

OWN = {"Server": "lockstep"}  # Takes the place of aiohttp's own, which shows its version.
_KINDS = {401: "authentication_error", 429: "rate_limit_error"}


class Refused(Exception):  # noqa: N818 - an answer, not a malfunction
    """The gateway answers itself. ``error``: error.type of the captured row."""

    def __init__(self, status: int, error: str, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status, self.error, self.message, self.headers = status, error, message, headers


class Rejected(Refused):
    """No valid request: it counts for no release and no objective, and is never captured."""


class _Named(BaseModel):
    """Reads the model that a request names. Python makes no objects of the rest: of a long list that takes seconds."""

    model: str | None = None


class Sent(NamedTuple):
    """A request that was sent, and its reply as it begins. ``release``: the one that was asked, when it was sent."""

    server: Server
    release: str | None
    reply: aiohttp.ClientResponse


class Forwarder:
    """Sends requests to servers. ``unread``: headers that are not sent on, in lower case.

    ``sticky``: the header by which an upstream or an adapter is drawn; None: by the request's id. ``canaries``: the
    share of an adapter's requests that its canary gets, by the adapter's name.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        upstreams: Upstreams,
        metrics: Metrics,
        unread: frozenset[str],
        sticky: str | None,
        canaries: Mapping[str, float],
    ) -> None:
        self._session, self._sticky, self._canaries = session, sticky, canaries
        self._upstreams, self._metrics = upstreams, metrics
        self._unread = _HOP | {ID.lower()} | unread

    @asynccontextmanager
    async def sent(
        self,
        request: web.BaseRequest,
        body: bytes,
        request_id: str,
        exchange: Exchange | None = None,
    ) -> AsyncIterator[Sent]:
        """The server that took the request, and its reply as it begins."""
        sent = await self._send(request, body, request_id, exchange)
        try:
            async with sent.reply:
                yield sent
        finally:
            self._count(sent.server, sent.release, -1)

    async def _send(
        self, request: web.BaseRequest, body: bytes, request_id: str, exchange: Exchange | None
    ) -> Sent:
        """Send a request on a connection of its own.

        It is sent to another server only where no connection was made, so nothing of it can have been processed. After
        that no server gets it again: it may be the request that made the first one break.
        """
        headers = [
            *_passed(request.headers, self._unread),
            (ID, request_id),
            ("Accept-Encoding", "identity"),
            _VIA,
        ]
        named = exchange.adapter if exchange else None
        canary = f"{named}{CANARY}"
        to_canary = renamed(body, str(named), canary) if named in self._canaries else None
        drawn_by = (self._sticky and request.headers.get(self._sticky)) or request_id
        for number in range(_TRIES):
            server = await self._upstreams.pick(drawn_by)
            if server is None:
                break
            if number:
                self._metrics.count("retries", release=exchange.asked if exchange else None)
            adapter, data = named, body
            can_draw = named in self._canaries and _is_canary(server.releases, canary)
            if can_draw and to_canary and draw(canary, drawn_by) <= self._canaries[str(named)]:
                adapter, data = canary, to_canary
            release = server.releases.get(adapter or "", server.release)
            if exchange:
                exchange.answered_by, exchange.release = adapter, release
                exchange.is_chosen = adapter == named and (
                    _is_canary(server.releases, named) or (can_draw and to_canary is None)
                )
                exchange.upstream, exchange.heard = server.base, time.monotonic()
            self._count(server, release, 1)
            try:
                reply = await self._session.request(
                    request.method, URL(server.base + request.path_qs, encoded=True), data=data or None,
                    headers=[*headers, ("Host", server.host)], allow_redirects=False,
                )  # fmt: skip
            except BaseException as error:
                self._count(server, release, -1)
                if not isinstance(error, aiohttp.ClientError):
                    raise
                if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
                    server.forget()
                    if exchange:
                        # A request that no server took counts for no release.
                        exchange.release = None
                else:
                    raise Refused(
                        502, "upstream_error", "the server broke off before its answer"
                    ) from error
            else:
                return Sent(server, release, reply)
        raise Refused(503, "no_server", "no server is ready", **{"Retry-After": "5"})

    def _count(self, server: Server, release: str | None, number: int) -> None:
        if server.in_flight == 0:
            server.heard = time.monotonic()
        server.in_flight += number
        self._metrics.entered(release, number)


def named_adapter(releases: Mapping[str, str], body: bytes) -> str | None:
    """Return the adapter that a request names; None: no other is there, or the request names none of ``releases``.

    Raises Rejected for a body of which a server may read another name, such as JSON in UTF-16.
    """
    if len(releases) < 2:
        return None
    try:
        model = _Named.model_validate_json(body).model
    except ValidationError as error:
        if error.errors(include_input=False)[0]["type"] != "json_invalid":
            return None
        raise Rejected(400, "bad_request", "the body cannot be read as JSON in UTF-8") from None
    return model if model in releases else None


def _is_canary(releases: Mapping[str, str], name: str | None) -> bool:
    """Return whether a server calls a canary ``name``, and no project's own adapter: that has a second name."""
    if name is None or not name.endswith(CANARY) or name not in releases:
        return False
    return f"{name}-{releases[name]}" not in releases


def renamed(body: bytes, named: str, model: str) -> bytes | None:
    """Return the request with ``model`` in place of ``named``; None unless it names a model in one place alone.

    Of two fields with one name, one server reads the first and another one the last.
    """
    field = re.compile(rb'"model"\s*:\s*%b' % re.escape(json.dumps(named).encode()))
    other, count = field.subn(b'"model":%b' % json.dumps(model).encode(), body)
    try:
        without = _Named.model_validate_json(field.sub(b'"":0', body))
    except ValidationError:
        return None
    return other if count == 1 and not without.model_fields_set else None


def id_of(request: web.BaseRequest) -> str:
    """The client's id of the request if it is one, else a new one."""
    sent = request.headers.get(ID, "")
    return sent if _ID.fullmatch(sent) else new_id()


def new_id() -> str:
    """An id for a request without one."""
    return uuid.uuid4().hex


def headers_of(sent: Sent, request_id: str) -> list[tuple[str, str]]:
    """The headers of the answer."""
    return [
        *_passed(sent.reply.headers, _NOT_BACK),
        *OWN.items(),
        (ID, request_id),
        *([(RELEASE, sent.release)] if sent.release else []),
    ]


def _passed(headers: Mapping[str, str], dropped: Set[str]) -> list[tuple[str, str]]:
    """The headers without ``dropped`` and without those that ``Connection`` names: they are for the next hop alone."""
    connection = ",".join(value for name, value in headers.items() if name.lower() == "connection")
    dropped = dropped | {name.strip().lower() for name in connection.split(",")}
    return [(name, value) for name, value in headers.items() if name.lower() not in dropped]


def refusal(refused: Refused, request_id: str, release: str | None = None) -> web.Response:
    """The answer to a request that is refused."""
    kind = _KINDS.get(
        refused.status, "invalid_request_error" if refused.status < 500 else "server_error"
    )
    error = {"message": refused.message, "type": kind, "param": None, "code": refused.error}
    headers = OWN | {
        ID_HEADER: request_id,
        **({RELEASE_HEADER: release} if release else {}),
        **refused.headers,
    }
    return web.json_response({"error": error}, status=refused.status, headers=headers)
