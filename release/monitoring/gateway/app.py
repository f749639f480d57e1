"""Passes requests to a server and its answers back: byte for byte, within limits, each with an id and a release.

Only chat, completions and the list of models are passed on. Errors of the gateway have the shape of OpenAI's. An answer
that breaks off on its way is broken for the client too, and never looks complete.
"""

import asyncio
import hashlib
import hmac
import time
from collections.abc import Callable
from datetime import UTC, datetime

import aiohttp
from aiohttp import web

from release.monitoring.gateway import forward
from release.monitoring.gateway.answers import Events, whole
from release.monitoring.gateway.connections import Connection
from release.monitoring.gateway.forward import (
    Forwarder,
    Refused,
    Rejected,
    Sent,
    headers_of,
    id_of,
    named_adapter,
    new_id,
)
from release.monitoring.gateway.metrics import Metrics
from release.monitoring.gateway.options import GatewaySettings
from release.monitoring.gateway.outcomes import GONE, outcome_of
from release.monitoring.gateway.rows import Exchange, sampled
from release.monitoring.gateway.store import CaptureWriter
from release.monitoring.gateway.upstreams import Upstreams

CHAT, COMPLETIONS, MODELS = "/v1/chat/completions", "/v1/completions", "/v1/models"
_METHODS = {CHAT: "POST", COMPLETIONS: "POST", MODELS: "GET"}
_BODY = 60.0  # seconds for a whole body
_LOGGED = ("upstream_error", "timeout")  # outcomes of which each request has a line in the log


class Gateway:
    """The handlers. ``ending``: SIGTERM came; requests that have been sent are answered still. ``say`` gets a line for
    each request that a server broke off or did not answer in time.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        session: aiohttp.ClientSession,
        upstreams: Upstreams,
        metrics: Metrics,
        store: CaptureWriter | None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._settings, self._say = settings, say
        self._upstreams = upstreams
        self._metrics, self._store = metrics, store
        unread = frozenset({"authorization"} if settings.keys else ())
        self._forwarder = Forwarder(
            session, upstreams, metrics, unread, settings.sticky, settings.canaries
        )
        # Whole requests that are being answered.
        self._running: dict[asyncio.Task[object], Exchange] = {}
        self._listing = 0  # questions for the list of models
        self.ending = False
        self.read_keys()

    def read_keys(self) -> int:
        """Read the API keys again; return how many there are. Raises ServingRefused; then the former ones stay."""
        self._keys = self._settings.keys() if self._settings.keys else None
        return len(self._keys or ())

    async def public(self, request: web.BaseRequest) -> web.StreamResponse:
        """Return what clients reach."""
        path, request_id = request.rel_url.raw_path, id_of(request)
        try:
            if path not in _METHODS:
                raise Rejected(
                    404,
                    "not_found",
                    f"the gateway passes on {CHAT}, {COMPLETIONS} and {MODELS} alone",
                )
            if request.method != _METHODS[path]:
                raise Rejected(
                    405, "method_not_allowed", f"{path} takes another method", Allow=_METHODS[path]
                )
            self._check_key(request)
            response = await (self._models if path == MODELS else self._complete)(
                request, request_id
            )
        except Refused as refused:
            if isinstance(refused, Rejected):
                self._metrics.rejected(refused.status)
            response = forward.refusal(refused, request_id)
        if self.ending and not response.prepared:
            response.force_close()
        return response

    async def private(self, request: web.BaseRequest) -> web.StreamResponse:
        """Return what a cluster's probes and Prometheus reach, on a port of its own."""
        match request.rel_url.raw_path if request.method in ("GET", "HEAD") else "":
            case "/health":
                return web.Response(text="alive\n")
            case "/ready" if self.ending:
                return web.Response(status=503, text="ending\n")
            case "/ready" if not any(server.ready for server in self._upstreams.servers.values()):
                return web.Response(status=503, text="no server generates\n")
            case "/ready":
                return web.Response(text="ready\n")
            case "/metrics":
                kind = {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
                return web.Response(
                    body=self._metrics.text(self._upstreams.servers.values()), headers=kind
                )
        return web.Response(status=404, text="GET /health, /ready or /metrics\n")

    def failed(self, status: int) -> web.Response:
        """Answer what is no HTTP, or what broke here."""
        if status >= 500:
            return forward.refusal(Refused(500, "internal_error", "the gateway broke"), new_id())
        self._metrics.rejected(status)
        return forward.refusal(
            Rejected(status, "bad_request", "this is no valid request of HTTP"), new_id()
        )

    async def drain(self, seconds: float) -> None:
        """Wait until the requests that are running have their answers, for at most ``seconds``; cut the others."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while self._running and (left := until - loop.time()) > 0:
            await asyncio.wait(self._running, timeout=left)
        for task, exchange in list(self._running.items()):
            exchange.error = "shutdown"
            task.cancel()

    async def _models(self, request: web.BaseRequest, request_id: str) -> web.StreamResponse:
        _connection(request).whole()
        self._listing += 1
        try:
            if self._is_full(1):
                raise _too_many()
            async with (
                asyncio.timeout(self._settings.deadline),
                self._forwarder.sent(request, b"", request_id) as sent,
            ):
                body = await sent.reply.read()
                return web.Response(
                    status=sent.reply.status, body=body, headers=headers_of(sent, request_id)
                )
        except TimeoutError:
            raise self._late() from None
        except aiohttp.ClientError:
            raise Refused(502, "upstream_error", "the server broke off") from None
        finally:
            self._listing -= 1

    async def _complete(self, request: web.BaseRequest, request_id: str) -> web.StreamResponse:
        is_chat = request.rel_url.raw_path == CHAT
        exchange = Exchange(
            datetime.now(UTC),
            request_id,
            "chat" if is_chat else "text_completion",
            provider=self._settings.provider,
        )
        if self._settings.user_header:
            exchange.user = request.headers.get(self._settings.user_header)
        began = asyncio.get_running_loop().time()
        if not self._is_full():
            exchange.body = await self._body(request)
            exchange.adapter = named_adapter(self._upstreams.releases, exchange.body)
            exchange.asked = self._upstreams.releases.get(exchange.adapter or "")
        task = asyncio.current_task()
        assert task is not None
        try:
            if self._is_full():
                raise _too_many()
            self._running[task] = exchange
            self._metrics.began(exchange)
            async with asyncio.timeout(self._settings.deadline):
                return await self._passed(request, exchange, began)
        except Refused as refused:
            exchange.status, exchange.error = refused.status, refused.error
            exchange.cause = type(refused.__cause__).__name__ if refused.__cause__ else None
            return forward.refusal(refused, exchange.request_id, exchange.release)
        except TimeoutError:
            exchange.error, exchange.cause = "timeout", exchange.cause or "the deadline"
            if (response := _connection(request).response) is not None:
                return _broken(request, response)
            exchange.status = 504
            return forward.refusal(self._late(), exchange.request_id, exchange.release)
        except (asyncio.CancelledError, ConnectionResetError):
            if exchange.error != "shutdown":
                exchange.status, exchange.error = GONE, "client_closed"
                raise
            task.uncancel()
            exchange.status = 503  # the gateway cut it, and not the client
            if (response := _connection(request).response) is not None:
                return _broken(request, response)
            ending = Refused(503, "shutdown", "the gateway is ending", **{"Retry-After": "1"})
            return forward.refusal(ending, exchange.request_id, exchange.release)
        finally:
            self._running.pop(task, None)
            exchange.seconds = asyncio.get_running_loop().time() - began
            if not exchange.status:
                exchange.status, exchange.error = 500, "internal_error"
            self._ended(exchange)

    def _is_full(self, more: int = 0) -> bool:
        return len(self._running) + self._listing - more >= self._settings.max_concurrent

    def _late(self) -> Refused:
        return Refused(504, "timeout", f"no whole answer within {self._settings.deadline:g} s")

    def _ended(self, exchange: Exchange) -> None:
        """Count and store a request that ended; whatever fails here, the answer has been given."""
        try:
            self._metrics.ended(exchange)
            if (reason := outcome_of(exchange)) in _LOGGED:
                self._say(
                    f"gateway: {exchange.status} {reason}: request {exchange.request_id}, "
                    f"release {exchange.release or '-'}, server {exchange.upstream or '-'}, "
                    f"after {exchange.seconds:.3f} s, cause {exchange.cause or '-'}"
                )
            if self._store and sampled(exchange.request_id, self._settings.sample):
                self._store.offer(exchange)
        except Exception:  # noqa: BLE001 - nothing of it may reach the client
            self._metrics.count("captures_dropped", release=exchange.release)

    async def _passed(
        self, request: web.BaseRequest, exchange: Exchange, began: float
    ) -> web.StreamResponse:
        async with self._forwarder.sent(
            request, exchange.body, exchange.request_id, exchange
        ) as sent:
            headers = headers_of(sent, exchange.request_id)
            if sent.reply.content_type == "text/event-stream":
                return await self._streamed(request, exchange, sent, headers, began)
            try:
                data = await sent.reply.read()
                sent.server.heard = time.monotonic()
                self._metrics.spoke(exchange)
            except aiohttp.ClientError as error:
                raise Refused(502, "upstream_error", "the server broke off its answer") from error
        exchange.answer = whole(data)
        exchange.status = sent.reply.status
        exchange.error = None if exchange.status < 400 else str(exchange.status)
        response = web.Response(status=exchange.status, body=data, headers=headers)
        if self.ending:
            response.force_close()
        await response.prepare(request)
        await response.write_eof()
        return response

    async def _body(self, request: web.BaseRequest) -> bytes:
        """The whole body of a request that is within the limits."""
        most = self._settings.max_body
        large = Rejected(413, "request_too_large", f"a request has at most {most} bytes")
        if (request.content_length or 0) > most:
            raise large
        if request.headers.get("Expect", "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0
        connection, pieces, size = _connection(request), [], 0
        try:
            async with asyncio.timeout(_BODY):
                async for piece in request.content.iter_any():
                    size += len(piece)
                    if size > most:
                        raise large
                    pieces.append(piece)
                    connection.received(len(piece))
        except TimeoutError:
            raise Rejected(408, "request_timeout", f"no whole request within {_BODY:g} s") from None
        except web.RequestPayloadError:
            raise Rejected(400, "bad_request", "the body does not end as its headers say") from None
        connection.whole()
        return b"".join(pieces)

    def _check_key(self, request: web.BaseRequest) -> None:
        if self._keys is None:
            return
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        digest = hashlib.sha256(key.strip().encode(errors="surrogateescape")).hexdigest()
        if scheme.lower() != "bearer" or not sum(
            hmac.compare_digest(digest, known) for known in self._keys
        ):
            raise Rejected(
                401,
                "invalid_api_key",
                "an API key is needed: Authorization: Bearer KEY",
                **{"WWW-Authenticate": "Bearer"},
            )

    async def _streamed(
        self,
        request: web.BaseRequest,
        exchange: Exchange,
        sent: Sent,
        headers: list[tuple[str, str]],
        began: float,
    ) -> web.StreamResponse:
        """Pass a stream on as it comes, and read it beside."""
        reply = sent.reply
        response = _connection(request).response = web.StreamResponse(
            status=reply.status, headers=headers
        )
        if self.ending:
            response.force_close()
        await response.prepare(request)
        exchange.status = reply.status
        events, loop, latest = Events(exchange.answer), asyncio.get_running_loop(), None
        while True:
            try:
                reading = reply.content.readany()
                first = began + self._settings.first_token - loop.time()
                data = await (reading if latest is not None else asyncio.wait_for(reading, first))
            except TimeoutError:
                exchange.cause = "no first token"
                raise
            except aiohttp.ClientError as error:
                exchange.error, exchange.cause = "upstream_error", type(error).__name__
                return _broken(request, response)
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
                sent.server.heard = now
                self._metrics.spoke(exchange)
        await response.write_eof()
        if exchange.answer.failed or not exchange.answer.complete:
            exchange.error = "upstream_error"
            exchange.cause = (
                "an event says error" if exchange.answer.failed else "no end of the stream"
            )
        return response


def _too_many() -> Refused:
    return Refused(429, "too_many_requests", "too many requests at a time", **{"Retry-After": "1"})


def _connection(request: web.BaseRequest) -> Connection:
    connection = request.protocol
    assert isinstance(connection, Connection)
    return connection


def _broken(request: web.BaseRequest, response: web.StreamResponse) -> web.StreamResponse:
    """Close the connection without the end of the answer, so that the client sees that it is not whole."""
    if request.transport is not None:
        request.transport.close()
    return response
