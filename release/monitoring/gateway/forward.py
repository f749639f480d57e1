"""Sends a request to a server: which one, with which headers, and how often."""

import re
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import aiohttp
from aiohttp import web
from yarl import URL

from checks.formats.captures import ID_HEADER, RELEASE_HEADER
from release.monitoring.gateway.metrics import Metrics
from release.monitoring.gateway.rows import Exchange
from release.monitoring.gateway.upstreams import Server, Upstreams

ID, RELEASE = ID_HEADER, RELEASE_HEADER
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
_CONNECT = 5.0  # seconds
# Headers of one connection (RFC 9110, 7.6.1), and those that the gateway sets.
_HOP = {
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer",
    "transfer-encoding", "upgrade", "host", "content-length", "expect", "accept-encoding",
}  # fmt: skip
_NOT_BACK = _HOP | {"server", "date", ID.lower(), RELEASE.lower()}
OWN = {"Server": "lockstep"}  # in place of aiohttp's own, with its version


class Sent(NamedTuple):
    """A request that was sent, and its reply as it begins. ``release``: the server's when it was sent."""

    server: Server
    release: str | None
    reply: aiohttp.ClientResponse


class Refused(Exception):  # noqa: N818 - an answer, not a malfunction
    """The gateway answers itself. ``error``: error.type of the captured row."""

    def __init__(self, status: int, error: str, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status, self.error, self.message, self.headers = status, error, message, headers


class Forwarder:
    """Sends requests to servers. ``unread``: headers that are not sent on, in lower case."""

    def __init__(
        self, session: aiohttp.ClientSession, upstreams: Upstreams, metrics: Metrics, unread: frozenset[str]
    ) -> None:
        self._session, self._upstreams, self._metrics = session, upstreams, metrics
        self._unread = _HOP | {ID.lower()} | unread

    @asynccontextmanager
    async def sent(
        self, request: web.Request, body: bytes, request_id: str, exchange: Exchange | None = None
    ) -> AsyncIterator[Sent]:
        """The server that took the request, and its reply as it begins."""
        sent = await self._send(request, body, request_id, exchange)
        try:
            async with sent.reply:
                yield sent
        finally:
            self._count(sent.server, sent.release, -1)

    async def _send(self, request: web.Request, body: bytes, request_id: str, exchange: Exchange | None) -> Sent:
        """Send a request. It is sent again, at most twice, only before the client got anything.

        That is where no server took the connection, or where one that had been used before broke off: as a rule the
        server had closed it while it lay open.
        """
        headers = [(name, value) for name, value in request.headers.items() if name.lower() not in self._unread]
        headers += [(ID, request_id), ("Accept-Encoding", "identity")]
        server = None
        for last in (False, False, True):
            server = self._upstreams.pick(without=server)
            if server is None:
                raise Refused(503, "no_server", "no server is ready", **{"Retry-After": "5"})
            release, connection = server.release, {"reused": False}
            if exchange:
                exchange.release = release
            self._count(server, release, 1)
            try:
                reply = await self._session.request(
                    request.method, URL(server.base + request.path_qs, encoded=True), data=body or None,
                    headers=[*headers, ("Host", server.host)], allow_redirects=False, trace_request_ctx=connection,
                )  # fmt: skip
            except BaseException as error:
                self._count(server, release, -1)
                unreached = isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError)
                if unreached:
                    server.ready, server.asked = False, 0.0
                if not isinstance(error, aiohttp.ClientError):
                    raise
                if last or not (unreached or connection["reused"]):
                    raise Refused(502, "upstream_error", "the server broke off before its answer") from error
            else:
                return Sent(server, release, reply)
        raise AssertionError  # the last round returns or raises

    def _count(self, server: Server, release: str | None, number: int) -> None:
        server.in_flight += number
        self._metrics.entered(release, number)


def session() -> aiohttp.ClientSession:
    """The client of the servers. It lets an idle connection go before a server does (uvicorn: after 5 s)."""
    trace = aiohttp.TraceConfig()

    async def reused(_: Any, context: Any, __: Any) -> None:
        if context.trace_request_ctx is not None:
            context.trace_request_ctx["reused"] = True

    trace.on_connection_reuseconn.append(reused)
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=2),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT),
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=("User-Agent", "Content-Type", "Accept"),
        trace_configs=[trace],
        max_line_size=1 << 16,
        max_field_size=1 << 16,
    )


def id_of(request: web.Request) -> str:
    """The client's id of the request if it is one, else a new one."""
    said = request.headers.get(ID, "")
    return said if _ID.fullmatch(said) else uuid.uuid4().hex


def headers_of(sent: Sent, request_id: str) -> list[tuple[str, str]]:
    """The headers of the answer."""
    headers = [(name, value) for name, value in sent.reply.headers.items() if name.lower() not in _NOT_BACK]
    return [*headers, *OWN.items(), (ID, request_id), *([(RELEASE, sent.release)] if sent.release else [])]
