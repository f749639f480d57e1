"""Passes requests to a server and its answers back: byte for byte, within limits, each with an id and a release.

Only chat, completions and the list of models are passed on. Errors of the gateway have the shape of OpenAI's. An answer
that breaks off on its way is broken for the client too, and never looks complete.
"""

import asyncio
import hashlib
import hmac
from datetime import UTC, datetime

import aiohttp
from aiohttp import web

from release.monitoring.gateway.answers import Events, whole
from release.monitoring.gateway.forward import ID, OWN, RELEASE, Forwarder, Refused, headers_of, id_of
from release.monitoring.gateway.metrics import Metrics
from release.monitoring.gateway.rows import Exchange, sampled
from release.monitoring.gateway.settings import Settings
from release.monitoring.gateway.store import Store
from release.monitoring.gateway.upstreams import Upstreams

CHAT, COMPLETIONS, MODELS = "/v1/chat/completions", "/v1/completions", "/v1/models"
GONE = 499  # as nginx calls it: the client went away
_BEGUN = "begun"  # of a request: its answer has begun
_KINDS = {401: "authentication_error", 429: "rate_limit_error", 413: "invalid_request_error"}


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
        self._settings, self._upstreams, self._metrics, self._store = settings, upstreams, metrics, store
        unread = frozenset({"authorization"} if settings.keys is not None else ())
        self._forwarder = Forwarder(session, upstreams, metrics, unread)
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
        refused = Refused(404, "not_found", f"the gateway passes on {CHAT}, {COMPLETIONS} and {MODELS} alone")
        if request.path in (CHAT, COMPLETIONS, MODELS):
            refused = Refused(405, "method_not_allowed", f"{request.path} takes another method")
        return _error(refused, id_of(request), None)

    async def _models(self, request: web.Request) -> web.StreamResponse:
        request_id = id_of(request)
        try:
            self._check_key(request)
            async with asyncio.timeout(self._settings.deadline), self._forwarder.sent(request, b"", request_id) as sent:
                body = await sent.reply.read()
                return web.Response(status=sent.reply.status, body=body, headers=headers_of(sent, request_id))
        except Refused as refused:
            return _error(refused, request_id, None)
        except TimeoutError:
            return _error(self._late(), request_id, None)
        except aiohttp.ClientError:
            return _error(Refused(502, "upstream_error", "the server broke off"), request_id, None)

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        exchange = Exchange(datetime.now(UTC), id_of(request), "chat" if request.path == CHAT else "text_completion")
        began = asyncio.get_running_loop().time()
        self._in_flight += 1
        try:
            async with asyncio.timeout(self._settings.deadline):
                return await self._passed(request, exchange, began)
        except Refused as refused:
            exchange.status, exchange.error = refused.status, refused.error
            return _error(refused, exchange.request_id, exchange.release)
        except TimeoutError:
            exchange.error = "timeout"
            if _BEGUN in request:
                return _broken(request)
            exchange.status = 504
            return _error(self._late(), exchange.request_id, exchange.release)
        except (asyncio.CancelledError, ConnectionResetError):
            exchange.status, exchange.error = GONE, "shutdown" if self.ending else "client_closed"
            raise
        finally:
            self._in_flight -= 1
            exchange.seconds = asyncio.get_running_loop().time() - began
            self._ended(exchange)

    def _late(self) -> Refused:
        return Refused(504, "timeout", f"no whole answer within {self._settings.deadline:g} s")

    def _ended(self, exchange: Exchange) -> None:
        """Count and store a request that ended; whatever fails here, the answer has been given."""
        try:
            self._metrics.ended(exchange)
            if self._store and sampled(exchange.request_id, self._settings.sample):
                self._store.offer(exchange)
        except Exception:  # noqa: BLE001 - nothing of it may reach the client
            self._metrics.dropped(1)

    async def _passed(self, request: web.Request, exchange: Exchange, began: float) -> web.StreamResponse:
        body = await self._admitted(request)
        exchange.body = body
        async with self._forwarder.sent(request, body, exchange.request_id, exchange) as sent:
            headers = headers_of(sent, exchange.request_id)
            if sent.reply.content_type == "text/event-stream":
                return await self._streamed(request, exchange, sent.reply, headers, began)
            try:
                data = await sent.reply.read()
            except aiohttp.ClientError as error:
                raise Refused(502, "upstream_error", "the server broke off its answer") from error
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
            raise Refused(429, "too_many_requests", "too many requests at a time", **{"Retry-After": "1"})
        large = Refused(413, "request_too_large", f"a request has at most {settings.max_body} bytes")
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
            raise Refused(401, "invalid_api_key", "an API key is needed: Authorization: Bearer KEY")

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


def _error(refused: Refused, request_id: str, release: str | None) -> web.Response:
    kind = _KINDS.get(refused.status, "invalid_request_error" if refused.status < 500 else "server_error")
    error = {"message": refused.message, "type": kind, "param": None, "code": refused.error}
    headers = OWN | {ID: request_id, **({RELEASE: release} if release else {}), **refused.headers}
    return web.json_response({"error": error}, status=refused.status, headers=headers)


def _broken(request: web.Request) -> web.StreamResponse:
    """Close the connection without the end of the answer, so that the client sees that it is not whole."""
    if request.transport is not None:
        request.transport.close()
    response: web.StreamResponse = request[_BEGUN]
    return response
