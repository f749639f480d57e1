"""The connections of clients: at most so many, each with a bounded time for the head of a request.

A connection waits until a whole request has come on it. When there are too many, the one that has waited longest is
closed. So whoever opens many and sends nothing, or half a request, closes these, and not those of others. What clients
send is in no log, malformed or not.
"""

import asyncio
import resource
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from checks.process.errors import MachineRefused

_HEAD = 10.0  # seconds from the first byte of a request to the end of its head
_IDLE = 75.0  # seconds of a connection between two requests
_LINGER = 2.0  # seconds in which the rest of a refused request is read, so that the client reads the answer
_MOST_FILES = 1 << 16
_OTHERS = 160  # files and connections of the process itself, and those of the private port

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
Failed = Callable[[int, BaseException | None], web.Response]


class Connection(web.RequestHandler):
    """One connection of a client.

    ``answering``: the head of a request has come. ``half``: bytes of a body that is not whole. ``response``: the answer
    if it has begun before it is whole.
    """

    __slots__ = ("_connections", "_late", "answering", "half", "response")

    def __init__(
        self, connections: "Connections", loop: asyncio.AbstractEventLoop, **options: Any
    ) -> None:
        super().__init__(connections, loop=loop, **options)
        self._connections = connections
        self._late: asyncio.TimerHandle | None = None
        self.answering = False
        self.half = 0
        self.response: web.StreamResponse | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._connections.opened(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._in_time()
        self._connections.closed(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._late is None and not self.answering:
            self._late = self._loop.call_later(_HEAD, self.force_close)
        super().data_received(data)

    def answers(self) -> None:
        """The head of a request has come."""
        self._in_time()
        self.answering, self.response = True, None

    def answered(self) -> None:
        """The answer has been made."""
        self.answering = False
        self._connections.waits(self)

    def received(self, size: int) -> None:
        """``size`` bytes of a body have come, and more are to come."""
        self._connections.half(self, size)

    def whole(self) -> None:
        """The request is whole: from now on the client waits, and not the gateway."""
        self._connections.whole(self)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what is no HTTP, and what broke here. ``message`` has what the client sent: it is not used."""
        del message
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun")
        response = self._connections.failed(status, exc)
        response.force_close()
        return response

    def log_exception(self, *_: Any, **kw: Any) -> None:
        """Say what broke, without any message: it may have what a client sent."""
        self._connections.failed(500, kw.get("exc_info"))

    def _in_time(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


class Connections(web.Server):
    """At most ``most`` connections, and ``most_half`` bytes of bodies that are not whole.

    ``failed`` answers what is no HTTP (a status of 4xx) and what broke here (500, with the exception).
    """

    def __init__(
        self, handler: Handler, failed: Failed, most: int, most_half: int = 1 << 20
    ) -> None:
        super().__init__(
            self._answer, handler_cancellation=True, access_log=None, auto_decompress=False,
            keepalive_timeout=_IDLE, lingering_time=_LINGER,
        )  # fmt: skip
        self._handler, self.failed = handler, failed
        self._most, self._most_half = most, most_half
        self._open: set[Connection] = set()
        self._waiting: dict[Connection, None] = {}  # the one that has waited longest comes first
        self._halves: dict[Connection, None] = {}  # Ordered by when their bodies began.
        self._half = 0

    def __call__(self) -> web.RequestHandler:
        return Connection(self, self._loop, **self._kwargs)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = request.protocol
        assert isinstance(connection, Connection)
        connection.answers()
        try:
            return await self._handler(request)
        finally:
            connection.answered()

    def opened(self, connection: Connection) -> None:
        """A client connected. Close the connection that has waited longest if there are too many."""
        self._open.add(connection)
        self.waits(connection)
        if len(self._open) > self._most:
            self._close(next(iter(self._waiting)))

    def closed(self, connection: Connection) -> None:
        """The connection is closed, or will be."""
        self.whole(connection)
        self._open.discard(connection)

    def waits(self, connection: Connection) -> None:
        """The connection waits from now on."""
        self.whole(connection)
        if connection in self._open:
            self._waiting[connection] = None

    def half(self, connection: Connection, size: int) -> None:
        """Bytes of a body came. Close the connection whose body began first if there are too many."""
        self._halves.setdefault(connection)
        connection.half += size
        self._half += size
        if self._half > self._most_half:
            self._close(next(iter(self._halves)))

    def whole(self, connection: Connection) -> None:
        """The connection waits no more."""
        self._waiting.pop(connection, None)
        self._halves.pop(connection, None)
        self._half -= connection.half
        connection.half = 0

    def close_idle(self) -> None:
        """Close the connections without a request; the others are closed after their answers."""
        for connection in list(self._waiting):
            if not connection.answering:
                self._close(connection)
        self.pre_shutdown()

    def _close(self, connection: Connection) -> None:
        self.closed(connection)
        connection.force_close()


def most_connections(at_once: int) -> int:
    """How many connections clients may have, by the files that this process may open.

    Each request that is answered takes another connection, to a server. Raises MachineRefused if there are too few.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft == resource.RLIM_INFINITY or soft >= files:
        files = _MOST_FILES if soft == resource.RLIM_INFINITY else soft
    else:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    most = min(4 * at_once + 64, files - at_once - _OTHERS)
    if most < 2 * at_once:
        raise MachineRefused(
            f"--max-concurrent: {at_once} requests at a time need {3 * at_once + _OTHERS} open files, and this process "
            f"may open {files}",
            f"ulimit -n {3 * at_once + _OTHERS}, or a smaller --max-concurrent",
        )
    return most
