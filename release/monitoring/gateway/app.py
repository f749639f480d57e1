"""Passes requests to a server and its answers back: byte for byte, within limits, each with an id and a release.

Only chat, completions and the list of models are passed on. Errors of the gateway have the shape of OpenAI's. An answer
that breaks off on its way is broken for the client too, and never looks complete.
"""

import asyncio
import hashlib
import hmac
import json
import re
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any, NamedTuple

import aiohttp
from aiohttp import web
from yarl import URL

from release.monitoring.gateway.answers import Events, whole
from release.monitoring.gateway.metrics import Metrics
from release.monitoring.gateway.rows import Exchange, sampled
from release.monitoring.gateway.settings import Settings
from release.monitoring.gateway.store import Store
from release.monitoring.gateway.upstreams import Server, Upstreams

ID, RELEASE = "X-Request-Id", "Lockstep-Release"
CHAT, COMPLETIONS, MODELS = "/v1/chat/completions", "/v1/completions", "/v1/models"
GONE = 499  # as nginx calls it: the client went away
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
_BEGUN = "begun"  # of a request: its answer has begun
_CONNECT = 5.0  # seconds
# Headers of one connection (RFC 9110, 7.6.1), and those that the gateway sets.
_HOP = {
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer",
    "transfer-encoding", "upgrade", "host", "content-length", "expect", "accept-encoding",
}  # fmt: skip
_NOT_BACK = _HOP | {"server", "date", ID.lower(), RELEASE.lower()}
_OWN = {"Server": "lockstep"}  # in place of aiohttp's own, with its version
_KINDS = {401: "authentication_error", 429: "rate_limit_error", 413: "invalid_request_error"}


class _Sent(NamedTuple):
    """A request that was sent, and its reply as it begins. ``release``: the server's when it was sent."""

    server: Server
    release: str | None
    reply: aiohttp.ClientResponse


class _Refused(Exception):  # noqa: N818 - an answer, not a malfunction
    """The gateway answers itself. ``error``: error.type of the captured row."""

    def __init__(self, status: int, error: str, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status, self.error, self.message, self.headers = status, error, message, headers


class Gateway:
    """The handlers. ``ending``: SIGTERM came; requests that have been sent are answered still."""

    def __init__(
        self,
        settings: Settings,
        session: aiohttp.ClientSession,
        upstreams: Upstreams,
        metrics: Metrics,
        store: Store | None,
    ) -> None:
        self._settings, self._session, self._upstreams = settings, session, upstreams
        self._metrics, self._store = metrics, store
        self._in_flight = 0
        self.ending = False

    def public(self) -> web.Application:
        """What clients reach."""
        app = web.Application(client_max_size=self._settings.max_body)
        app.router.add_post(CHAT, self._complete)
        app.router.add_post(COMPLETIONS, self._complete)
        app.router.add_get(MODELS, self._models, allow_head=False)
        app.router.add_route("*", "/{rest:.*}", self._elsewhere)
        return app

    def private(self) -> web.Application:
        """What a cluster's probes and Prometheus reach, on a port of its own."""

        async def health(_: web.Request) -> web.Response:
            return web.Response(text="alive\n")

        async def ready(_: web.Request) -> web.Response:
            if self.ending or not self._upstreams.generated:
                return web.Response(status=503, text="ending\n" if self.ending else "no server has generated yet\n")
            return web.Response(text="ready\n")

        async def metrics(_: web.Request) -> web.Response:
            kind = {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
            return web.Response(body=self._metrics.text(), headers=kind)

        app = web.Application()
        app.add_routes([web.get("/health", health), web.get("/ready", ready), web.get("/metrics", metrics)])
        return app

    async def _elsewhere(self, request: web.Request) -> web.Response:
        refused = _Refused(404, "not_found", f"the gateway passes on {CHAT}, {COMPLETIONS} and {MODELS} alone")
        if request.path in (CHAT, COMPLETIONS, MODELS):
            refused = _Refused(405, "method_not_allowed", f"{request.path} takes another method")
        return _error(refused, _id(request), None)

    async def _models(self, request: web.Request) -> web.StreamResponse:
        request_id = _id(request)
        try:
            self._check_key(request)
            async with asyncio.timeout(self._settings.deadline), self._sent(request, b"", request_id) as sent:
                body = await sent.reply.read()
                return web.Response(status=sent.reply.status, body=body, headers=_back(sent, request_id))
        except _Refused as refused:
            return _error(refused, request_id, None)
        except (TimeoutError, aiohttp.ClientError):
            return _error(_Refused(502, "upstream_error", "the server broke off"), request_id, None)

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        exchange = Exchange(datetime.now(UTC), _id(request), "chat" if request.path == CHAT else "text_completion")
        began = asyncio.get_running_loop().time()
        self._in_flight += 1
        try:
            async with asyncio.timeout(self._settings.deadline):
                return await self._passed(request, exchange, began)
        except _Refused as refused:
            exchange.status, exchange.error = refused.status, refused.error
            return _error(refused, exchange.request_id, exchange.release)
        except TimeoutError:
            exchange.error = "timeout"
            if _BEGUN in request:
                return _broken(request)
            exchange.status = 504
            late = _Refused(504, "timeout", f"no whole answer within {self._settings.deadline:g} s")
            return _error(late, exchange.request_id, exchange.release)
        except (asyncio.CancelledError, ConnectionResetError):
            exchange.status, exchange.error = GONE, "shutdown" if self.ending else "client_closed"
            raise
        finally:
            self._in_flight -= 1
            exchange.seconds = asyncio.get_running_loop().time() - began
            self._ended(exchange)

    def _ended(self, exchange: Exchange) -> None:
        """Count and store a request that ended; whatever fails here, the answer has been given."""
        try:
            self._metrics.ended(exchange)
            if self._store and sampled(exchange.request_id, self._settings.sample):
                self._store.offer(exchange)
        except Exception:  # noqa: BLE001
            self._metrics.dropped(1)

    async def _passed(self, request: web.Request, exchange: Exchange, began: float) -> web.StreamResponse:
        body = await self._admitted(request)
        exchange.size = len(body)
        with suppress(ValueError, RecursionError):  # the server says what it thinks of another body
            exchange.body = json.loads(body)
        async with self._sent(request, body, exchange.request_id, exchange) as sent:
            headers = _back(sent, exchange.request_id)
            if sent.reply.content_type == "text/event-stream":
                return await self._streamed(request, exchange, sent.reply, headers, began)
            try:
                data = await sent.reply.read()
            except aiohttp.ClientError as error:
                raise _Refused(502, "upstream_error", "the server broke off its answer") from error
        exchange.answer = whole(data)
        exchange.status = sent.reply.status
        exchange.error = None if exchange.status < 400 else str(exchange.status)
        response = web.Response(status=exchange.status, body=data, headers=headers)
        await response.prepare(request)
        await response.write_eof()
        return response

    async def _admitted(self, request: web.Request) -> bytes:
        """The body of a request that is within the limits."""
        settings = self._settings
        self._check_key(request)
        if self._in_flight > settings.max_concurrent:
            raise _Refused(429, "too_many_requests", "too many requests at a time", **{"Retry-After": "1"})
        large = _Refused(413, "request_too_large", f"a request has at most {settings.max_body} bytes")
        if (request.content_length or 0) > settings.max_body:
            raise large
        try:
            return await request.read()
        except web.HTTPRequestEntityTooLarge as error:
            raise large from error

    def _check_key(self, request: web.Request) -> None:
        keys = self._settings.keys
        if keys is None:
            return
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        found = hashlib.sha256(key.strip().encode()).hexdigest()
        if scheme.lower() != "bearer" or not sum(hmac.compare_digest(found, each) for each in keys):
            raise _Refused(401, "invalid_api_key", "an API key is needed: Authorization: Bearer KEY")

    @asynccontextmanager
    async def _sent(
        self, request: web.Request, body: bytes, request_id: str, exchange: Exchange | None = None
    ) -> AsyncIterator[_Sent]:
        """The server that took the request, and its reply as it begins."""
        sent = await self._send(request, body, request_id, exchange)
        try:
            async with sent.reply:
                yield sent
        finally:
            self._count(sent.server, sent.release, -1)

    async def _send(self, request: web.Request, body: bytes, request_id: str, exchange: Exchange | None) -> _Sent:
        """Send a request. It is sent again only where no server can have begun to answer it.

        That is so where none took the connection, or where one that lay open had been closed meanwhile.
        """
        dropped = _HOP | {ID.lower()} | ({"authorization"} if self._settings.keys is not None else set())
        headers = [(name, value) for name, value in request.headers.items() if name.lower() not in dropped]
        headers += [(ID, request_id), ("Accept-Encoding", "identity")]
        server = None
        for last in (False, False, True):
            server = self._upstreams.pick(without=server)
            if server is None:
                raise _Refused(503, "no_server", "no server is ready", **{"Retry-After": "5"})
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
                unreached = isinstance(error, aiohttp.ClientConnectorError)
                if unreached:
                    server.ready, server.asked = False, 0.0
                if not isinstance(error, aiohttp.ClientError):
                    raise
                if last or not (unreached or connection["reused"]):
                    raise _Refused(502, "upstream_error", "the server broke off before its answer") from error
            else:
                return _Sent(server, release, reply)
        raise AssertionError  # the last round returns or raises

    def _count(self, server: Server, release: str | None, number: int) -> None:
        server.in_flight += number
        self._metrics.entered(release, number)

    async def _streamed(
        self,
        request: web.Request,
        exchange: Exchange,
        reply: aiohttp.ClientResponse,
        headers: list[tuple[str, str]],
        began: float,
    ) -> web.StreamResponse:
        """Pass a stream on as it comes, and read it beside."""
        response = request[_BEGUN] = web.StreamResponse(status=reply.status, headers=headers)
        await response.prepare(request)
        exchange.status = reply.status
        events, loop, latest = Events(exchange.answer), asyncio.get_running_loop(), None
        while True:
            try:
                data = await reply.content.readany()
            except aiohttp.ClientError:
                exchange.error = "upstream_error"
                return _broken(request)
            if not data:
                break
            await response.write(data)
            if events.feed(data):
                now = loop.time()
                if latest is None:
                    exchange.first = now - began
                else:
                    self._metrics.between(exchange.release, now - latest)
                latest = now
        await response.write_eof()
        if exchange.answer.failed or not exchange.answer.complete:
            exchange.error = "upstream_error"
        return response


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


def _id(request: web.Request) -> str:
    """The client's id of the request if it is one, else a new one."""
    said = request.headers.get(ID, "")
    return said if _ID.fullmatch(said) else uuid.uuid4().hex


def _back(sent: _Sent, request_id: str) -> list[tuple[str, str]]:
    """The headers of the answer."""
    headers = [(name, value) for name, value in sent.reply.headers.items() if name.lower() not in _NOT_BACK]
    return [*headers, *_OWN.items(), (ID, request_id), *([(RELEASE, sent.release)] if sent.release else [])]


def _error(refused: _Refused, request_id: str, release: str | None) -> web.Response:
    kind = _KINDS.get(refused.status, "invalid_request_error" if refused.status < 500 else "server_error")
    error = {"message": refused.message, "type": kind, "param": None, "code": refused.error}
    headers = _OWN | {ID: request_id, **({RELEASE: release} if release else {}), **refused.headers}
    return web.json_response({"error": error}, status=refused.status, headers=headers)


def _broken(request: web.Request) -> web.StreamResponse:
    """Close the connection without the end of the answer, so that the client sees that it is not whole."""
    if request.transport is not None:
        request.transport.close()
    response: web.StreamResponse = request[_BEGUN]
    return response
