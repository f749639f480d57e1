"""An HTTP client for servers under test: everything has a time limit, and replies are not trusted."""

import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from types import MappingProxyType
from typing import Any, NamedTuple

import requests
from urllib3.exceptions import HTTPError

from checks.process.text import escape
from release.adapters.http import reason

# Seconds for a whole reply: sixteen may wait for one another on a small machine.
ANSWER_SECONDS = 300.0
CONNECT_SECONDS = 10.0
LARGEST = 8 << 20  # bytes of one reply
PASSING = (408, 425, 429)  # refusals of now, not of the request
_BLOCK = 1 << 16


class NoAnswer(Exception):  # noqa: N818 - an observation about the server, which a check turns into its reason
    """The server gave no usable reply. ``lost``: it will give none any more; ``status``: of HTTP."""

    def __init__(self, reason: str, lost: bool = False, status: int | None = None) -> None:
        super().__init__(reason)
        self.lost = lost
        self.status = status


class Reply(NamedTuple):
    """A complete reply; ``seconds`` from sending the request to its last byte."""

    status: int
    body: bytes
    seconds: float
    headers: Mapping[str, str] = MappingProxyType({})

    def json(self) -> Any:
        """The body as JSON. Raises NoAnswer if it is not JSON."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError) as error:
            raise NoAnswer(f"replied with {shown(self.body)}, which is not JSON") from error

    def good(self) -> "Reply":
        """The reply itself, if its status is 200. Raises NoAnswer otherwise."""
        if self.status != 200:
            raise NoAnswer(f"HTTP {self.status}: {shown(self.body)}", status=self.status)
        return self


class Client:
    """One server. Every thread has a connection of its own. ``deadline``: seconds for one reply.

    A server may close a kept connection whenever it likes (RFC 9112, section 9.3), even while a request is on its way.
    So a request on a kept connection that gets nothing at all is sent once more, on a new one.

    ``direct``: ignore proxies, netrc and the like, for a server that was started here. ``headers``: of every request.
    """

    def __init__(
        self,
        url: str,
        deadline: float = ANSWER_SECONDS,
        direct: bool = True,
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.url, self.deadline, self.direct, self._headers = url, deadline, direct, headers
        self._local = threading.local()
        self._sessions: list[requests.Session] = []
        self._kept: set[requests.Session] = set()  # those that may hold a connection
        self._lock = threading.Lock()

    def get(self, path: str) -> Reply:
        """GET ``path``. Raises NoAnswer if no complete reply comes in time."""
        return self._whole("GET", path, None)

    def post(self, path: str, body: Any) -> Reply:
        """POST ``body`` as JSON. Raises as ``get``."""
        return self.post_bytes(path, json.dumps(body).encode())

    def post_bytes(self, path: str, data: bytes) -> Reply:
        """POST bytes with the content type JSON, even if they are not. Raises as ``get``."""
        return self._whole("POST", path, data)

    def events(self, path: str, body: Any) -> Iterator[bytes]:
        """POST ``body`` and yield the data of each server-sent event.

        Lines are split as in the HTML standard's section on server-sent events; only ``data`` fields are used. Raises
        NoAnswer as ``get``, and for a status other than 200.
        """
        with self._exchange("POST", path, json.dumps(body).encode()) as (response, blocks):
            if response.status_code != 200:
                Reply(response.status_code, b"".join(blocks), 0.0).good()
            rest = b""
            for block in blocks:
                *lines, rest = (rest + block).replace(b"\r\n", b"\n").split(b"\n")
                for line in lines:
                    if line.startswith(b"data:"):
                        yield line[5:].strip()

    def close(self) -> None:
        """Close every connection. Later requests open new ones."""
        with self._lock:
            self._kept.clear()
            for session in self._sessions:
                session.close()

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = requests.Session()
            session.trust_env = not self.direct
            session.headers.update({"Accept-Encoding": "identity", **self._headers})
            with self._lock:
                self._sessions.append(session)
        return session

    def _whole(self, method: str, path: str, data: bytes | None) -> Reply:
        began = time.monotonic()
        with self._exchange(method, path, data) as (response, blocks):
            body = b"".join(blocks)
            return Reply(response.status_code, body, time.monotonic() - began, response.headers)

    @contextmanager
    def _exchange(
        self, method: str, path: str, data: bytes | None
    ) -> Iterator[tuple[requests.Response, Iterator[bytes]]]:
        until = time.monotonic() + self.deadline
        times = (min(CONNECT_SECONDS, self.deadline), self.deadline)
        try:
            with closing(self._response(method, path, data, times)) as response:
                yield response, _blocks(response, until, self.deadline)
        except requests.Timeout as error:
            raise NoAnswer(f"no reply within {self.deadline:g} s", lost=True) from error
        except (requests.RequestException, HTTPError, OSError) as error:
            raise NoAnswer(f"the connection was lost: {reason(error, times)}", lost=True) from error

    def _response(
        self, method: str, path: str, data: bytes | None, times: tuple[float, float]
    ) -> requests.Response:
        """The status and the headers of the reply. Raises requests.RequestException."""
        session = self._session()
        headers = {"Content-Type": "application/json"} if data is not None else {}

        def send() -> requests.Response:
            return session.request(
                method,
                self.url + path,
                data=data,
                headers=headers,
                stream=True,
                allow_redirects=False,
                timeout=times,
            )

        with self._lock:
            kept = session in self._kept
            self._kept.add(session)
        try:
            return send()
        except requests.ConnectionError:
            if not kept:
                raise
            session.close()
            return send()


def _blocks(response: requests.Response, until: float, deadline: float) -> Iterator[bytes]:
    """The body in blocks, limited in time and size."""
    total = 0
    while block := response.raw.read1(_BLOCK, decode_content=False):
        total += len(block)
        if total > LARGEST:
            raise NoAnswer(f"a reply of more than {LARGEST >> 20} MiB")
        if time.monotonic() > until:
            raise NoAnswer(f"no complete reply within {deadline:g} s", lost=True)
        yield block


def shown(text: bytes | str, longest: int = 80) -> str:
    """Text of the server for a message: printable, shortened, in quotes."""
    plain = text.decode(errors="replace") if isinstance(text, bytes) else text
    cut = plain[: longest + 1]
    return f"“{escape(cut[:longest])}{'…' if len(cut) > longest else ''}”"
