"""The servers behind the gateway: found by name, asked what they serve, and used once they have generated.

A name may have several addresses, as a headless Service of Kubernetes has one for each ready pod. Each is a server with
a release of its own, so while one release replaces another the header still says which of them answered.

The connection on which a server said what it serves stays open. While it is open the same process listens there. Once
it is closed another one may have taken the address, so the server is asked again before it gets a request.

A server that has stalled takes no more requests: no text came from it for ``stall`` seconds while requests waited, and
then it did not generate a token for the gateway in as many seconds. It is asked again and again, and comes back once it
generates.
"""

import asyncio
import hashlib
import math
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, urlsplit

import aiohttp

from checks.formats.captures import release_of
from release.monitoring.gateway.sessions import Reply

# Seconds between two looks at the addresses, and between two questions to a server. So long its connection stays open.
EVERY = 2.0
_KNOWN = 1.0  # seconds for which a server is known that keeps no connection open
_ANSWER = 10.0  # seconds to say what is served
_LOADING = 60.0  # seconds to generate the first token


@dataclass(eq=False)
class Server:
    """One server. ``url``: the upstream that it belongs to; ``base``: its URL without a path; ``host``: for the header.

    ``release``: of its model, or of its own adapter; ``releases``: of each adapter, by the name that requests have.
    ``ready``: it generates. ``witness``: the connection on which it said what it serves. ``heard``: when text last came
    from it, or its only request was sent, on the clock of ``time.monotonic``.
    """

    url: str
    base: str
    host: str
    release: str | None = None
    releases: Mapping[str, str] = field(default_factory=dict)
    ready: bool = False
    in_flight: int = 0
    asked: float = 0.0
    witness: asyncio.BaseTransport | None = None
    asking: asyncio.Task[None] | None = None
    heard: float = 0.0

    def forget(self) -> None:
        """It broke off, or took no connection: it is asked again before it gets another request."""
        self.ready = False
        if self.witness is not None:
            self.witness.close()

    def is_known(self, now: float) -> bool:
        """Whether the process that listens there is the one that said what it serves."""
        return now - self.asked < _KNOWN if self.witness is None else not self.witness.is_closing()


class Upstreams:
    """The servers at ``urls``; ``release`` is that of a server which does not say what it serves.

    ``weights``: the share of the requests that each URL gets, drawn by a hash; empty: each request goes to the server
    with the fewest in flight. ``say`` gets a line when a server begins or ceases to take requests.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        urls: Sequence[str],
        release: str | None,
        weights: Sequence[float] = (),
        stall: float = math.inf,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._session, self._default = session, release
        self._urls = {url: urlsplit(url) for url in urls}
        self._weights = dict(zip(urls, weights, strict=True)) if weights else {}
        self._stall, self._say = stall, say
        self.servers: dict[str, Server] = {}
        # The release of each adapter, by the names that requests have, also while no server is ready.
        self.releases: dict[str, str] = {}

    async def pick(self, drawn_by: str) -> Server | None:
        """The ready server for a request, of which the release is known; None if no server is ready."""
        while server := self._drawn(drawn_by):
            if server.is_known(asyncio.get_running_loop().time()):
                break
            await asyncio.wait([self._asking(server)], timeout=EVERY)
            if server.ready:
                break
        return server

    def _drawn(self, drawn_by: str) -> Server | None:
        """A ready server: of the URL that is drawn, the one with the fewest requests in flight."""
        ready = [server for server in self.servers.values() if server.ready]
        if self._weights:
            url = min(
                {server.url for server in ready if self._weights[server.url] > 0},
                key=lambda url: -math.log(draw(url, drawn_by)) / self._weights[url],
                default=None,
            )
            ready = [server for server in ready if server.url == url]
        return min(
            ready, key=lambda server: (server.in_flight, draw(server.base, drawn_by)), default=None
        )

    async def watch(self) -> None:
        """Look for servers, for ever."""
        while True:
            await self.look()
            await asyncio.sleep(
                EVERY if any(server.ready for server in self.servers.values()) else EVERY / 4
            )

    async def look(self) -> None:
        """Look once: find addresses, forget those that are gone, and ask all of them what they serve."""
        servers: dict[str, Server] = {}
        for url, parts in self._urls.items():
            try:
                bases = await _bases(parts)
            except OSError:  # a name server that does not answer takes no server away
                bases = [base for base, server in self.servers.items() if server.url == url]
            servers |= {
                base: self.servers.get(base) or Server(url, base, parts.netloc) for base in bases
            }
        self.servers = servers
        if servers:
            await asyncio.wait([self._asking(server) for server in servers.values()], timeout=EVERY)

    def _asking(self, server: Server) -> asyncio.Task[None]:
        """The question that is under way; it begins if there is none."""
        if server.asking is None or server.asking.done():
            server.asking = asyncio.create_task(self._ask(server))
        return server.asking

    async def _ask(self, server: Server) -> None:
        """Ask what a server serves. It must generate a token if it has not yet, serves something else, or is silent."""
        server.asked = asyncio.get_running_loop().time()
        before = server.ready
        silent = server.in_flight > 0 and time.monotonic() - server.heard > self._stall
        try:
            model, release, server.releases = await self._identity(server)
            self.releases |= server.releases
            server.ready = server.ready and release == server.release
            server.release = release
            if silent or not server.ready:
                if not await self._generates(
                    server, model, self._stall if server.ready else _LOADING
                ):
                    raise TimeoutError("no token")
                server.ready, server.heard = True, time.monotonic()
        except TimeoutError:
            # A busy server may be slow to say who it is; one from which nothing at all came has stalled.
            stalled = silent and server.heard < server.asked
            server.ready = server.ready and server.in_flight > 0 and not stalled
        except (aiohttp.ClientError, OSError, ValueError, RecursionError):
            server.forget()
        if server.ready != before:
            state = (
                "takes requests" if server.ready else "takes no more requests: it does not generate"
            )
            self._say(f"gateway: server {server.base}, release {server.release or '-'}: {state}")

    async def _identity(self, server: Server) -> tuple[str | None, str | None, dict[str, str]]:
        """The server's name of the model, the release (the end of the folder that it serves), and those of adapters."""
        models = await self._json(server, "GET", "/v1/models")
        data = models.get("data")
        listed = (
            [entry for entry in data if isinstance(entry, dict)] if isinstance(data, list) else []
        )
        # vLLM lists its base before the adapter, which has a parent: requests for the base get no adapter.
        adapters = [entry for entry in listed if entry.get("parent")]
        served = next(iter([*adapters, *listed]), {})
        model = served.get("id")
        words = [served.get("root"), model]
        if not any(release_of(word) for word in words):
            words.append((await self._json(server, "GET", "/info")).get("model_id"))  # TGI
        release = next(
            (release_named for word in words if (release_named := release_of(word))), self._default
        )
        releases = {
            str(entry.get("id")): release_named
            for entry in adapters
            if (release_named := release_of(entry.get("root")))
        }
        return (model if isinstance(model, str) else None), release, releases

    async def _generates(self, server: Server, model: str | None, patience: float) -> bool:
        named = {} if model is None else {"model": model}
        chat = named | {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 1}
        return bool(
            (await self._json(server, "POST", "/v1/chat/completions", patience, chat)).get(
                "choices"
            )
            or (
                await self._json(
                    server,
                    "POST",
                    "/v1/completions",
                    patience,
                    named | {"prompt": "a", "max_tokens": 1},
                )
            ).get("choices")  # a model without a chat template
        )

    async def _json(
        self, server: Server, method: str, path: str, patience: float = _ANSWER, body: Any = None
    ) -> dict[str, Any]:
        """The answer as a mapping; empty if the server refuses."""
        headers = {"Host": server.host} | (
            {} if body is None else {"Content-Type": "application/json"}
        )
        timeout = aiohttp.ClientTimeout(total=patience)
        url = server.base + path
        async with self._session.request(
            method, url, json=body, headers=headers, timeout=timeout
        ) as reply:
            server.witness = reply.transport if isinstance(reply, Reply) else None
            value = await reply.json(content_type=None) if reply.status == 200 else None
            return value if isinstance(value, dict) else {}


async def _bases(url: SplitResult) -> list[str]:
    """The URL with each address that its name has. Raises OSError."""
    path = url.path.rstrip("/")
    if url.scheme == "https":  # its certificate is for the name
        return [f"https://{url.netloc}{path}"]
    port = url.port or 80
    addresses = await asyncio.get_running_loop().getaddrinfo(
        url.hostname, port, type=socket.SOCK_STREAM
    )
    hosts = dict.fromkeys(
        f"[{address[4][0]}]" if address[0] == socket.AF_INET6 else str(address[4][0])
        for address in addresses
    )
    return [f"http://{host}:{port}{path}" for host in hosts]


def draw(name: str, drawn_by: str) -> float:
    """A number in (0, 1] by chance, the same for the same words. Sampling draws another one from the same id."""
    digest = hashlib.sha256(f"upstream {name} {drawn_by}".encode(errors="surrogateescape")).digest()
    return (int.from_bytes(digest[:8], "big") + 1) / 2**64
