"""The clients of the servers: one that sends requests, and one that asks what a server serves."""

import asyncio
from typing import Any

import aiohttp

_CONNECT = 5.0  # seconds
_KEPT = 4.5  # seconds that a connection lies open: shorter than a server leaves it (uvicorn: 5 s)


class Reply(aiohttp.ClientResponse):
    """A reply that says on which connection it came. ``transport``: None if the server closes it after each reply."""

    transport: asyncio.BaseTransport | None = None

    async def start(self, connection: Any) -> aiohttp.ClientResponse:
        """Read the head of the reply."""
        transport = connection.transport
        await super().start(connection)
        if (
            self.version == aiohttp.HttpVersion11
            and self.headers.get("Connection", "").lower() != "close"
        ):
            self.transport = transport
        return self


def sending() -> aiohttp.ClientSession:
    """The client that sends requests: each has a connection of its own.

    On a connection that was used before, a server that had closed it while it lay open could not be told from one that
    the request killed.
    """
    return _session(force_close=True)


def asking() -> aiohttp.ClientSession:
    """The client that asks servers what they serve, on connections that stay open."""
    return _session(keepalive_timeout=_KEPT)


def _session(**options: Any) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, **options),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT),
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        response_class=Reply,
        skip_auto_headers=("User-Agent", "Content-Type", "Accept"),
        max_line_size=1 << 16,
        max_field_size=1 << 16,
    )
