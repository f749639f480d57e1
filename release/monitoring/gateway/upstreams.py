"""The servers behind the gateway: found by name, asked what they serve, and used once they have generated.

A name may have several addresses, as a headless Service of Kubernetes has one for each ready pod. Each is a server with
a release of its own, so while one release replaces another the header still says which of them answered.
"""

import asyncio
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit

from checks.formats.captures import release_of

if TYPE_CHECKING:
    from aiohttp import ClientSession

EVERY = 5.0  # seconds between two looks at the addresses, and between two tries of a server that does not answer
_AGAIN = 15.0  # seconds after which a server is asked again what it serves
_PATIENCE = {"GET": 10.0, "POST": 60.0}  # seconds to say what is served, and to generate one token


@dataclass(eq=False)
class Server:
    """One server. ``base``: its URL without a path; ``host``: for the Host header; ``ready``: it has generated."""

    base: str
    host: str
    release: str | None = None
    ready: bool = False
    in_flight: int = 0
    asked: float = 0.0


class Upstreams:
    """The servers at ``urls``; ``release`` is that of a server which does not say what it serves."""

    def __init__(self, session: "ClientSession", urls: Iterable[str], release: str | None) -> None:
        self._session, self._urls, self._default = session, [urlsplit(url) for url in urls], release
        self.servers: dict[str, Server] = {}
        self.generated = False  # some server has, at some time

    def pick(self, without: Server | None = None) -> Server | None:
        """The ready server with the fewest requests in flight; another one than ``without``, if there is another."""
        ready = [each for each in self.servers.values() if each.ready]
        others = [each for each in ready if each is not without] or ready
        return min(others, key=lambda each: each.in_flight, default=None)

    async def watch(self) -> None:
        """Look for servers, for ever."""
        while True:
            await self.look()
            await asyncio.sleep(EVERY if self.pick() else EVERY / 10)

    async def look(self) -> None:
        """Look once: find addresses, forget those that are gone, ask those that are new or were not asked lately."""
        found: dict[str, Server] = {}
        for url in self._urls:
            try:
                bases = await _bases(url)
            except OSError:  # a name server that does not answer takes no server away
                bases = [base for base, server in self.servers.items() if server.host == url.netloc]
            found |= {base: self.servers.get(base) or Server(base, url.netloc) for base in bases}
        self.servers = found
        now = asyncio.get_running_loop().time()
        due = [each for each in self.servers.values() if not each.ready or now - each.asked > _AGAIN]
        await asyncio.gather(*(self._ask(server) for server in due))

    async def _ask(self, server: Server) -> None:
        """Ask what a server serves, and have it generate a token if it has not yet."""
        import aiohttp

        server.asked = asyncio.get_running_loop().time()
        try:
            model, server.release = await self._identity(server)
            server.ready = server.ready or await self._generates(server, model)
            self.generated = self.generated or server.ready
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            server.ready = server.ready and server.in_flight > 0  # a busy server may be slow to say who it is

    async def _identity(self, server: Server) -> tuple[str | None, str | None]:
        """The server's name of the model, and the release: the end of the folder that it serves."""
        models = await self._json(server, "GET", "/v1/models")
        listed = models.get("data")
        first = listed[0] if isinstance(listed, list) and listed and isinstance(listed[0], dict) else {}
        model = first.get("id")
        words = [first.get("root"), model]
        if not any(release_of(word) for word in words):
            words.append((await self._json(server, "GET", "/info")).get("model_id"))  # TGI
        release = next((found for word in words if (found := release_of(word))), self._default)
        return (model if isinstance(model, str) else None), release

    async def _generates(self, server: Server, model: str | None) -> bool:
        named = {} if model is None else {"model": model}
        chat = named | {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 1}
        return bool(
            (await self._json(server, "POST", "/v1/chat/completions", chat)).get("choices")
            or (await self._json(server, "POST", "/v1/completions", named | {"prompt": "a", "max_tokens": 1})).get(
                "choices"  # a model without a chat template
            )
        )

    async def _json(self, server: Server, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """The answer as a mapping; empty if the server refuses."""
        import aiohttp

        headers = {"Host": server.host} | ({} if body is None else {"Content-Type": "application/json"})
        patience = aiohttp.ClientTimeout(total=_PATIENCE[method])
        url = server.base + path
        async with self._session.request(method, url, json=body, headers=headers, timeout=patience) as reply:
            value = await reply.json(content_type=None) if reply.status == 200 else None
            return value if isinstance(value, dict) else {}


async def _bases(url: SplitResult) -> list[str]:
    """The URL with each address that its name has. Raises OSError."""
    path = url.path.rstrip("/")
    if url.scheme == "https":  # its certificate is for the name
        return [f"https://{url.netloc}{path}"]
    port = url.port or 80
    found = await asyncio.get_running_loop().getaddrinfo(url.hostname, port, type=socket.SOCK_STREAM)
    hosts = dict.fromkeys(f"[{each[4][0]}]" if each[0] == socket.AF_INET6 else str(each[4][0]) for each in found)
    return [f"http://{host}:{port}{path}" for host in hosts]
