"""A small HTTP proxy before a registry that breaks what it is told to break."""

import http.client
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import parse_qs, urlencode, urlsplit

from tests.http_standin import Handler, StandIn

_PIECE = 1 << 16

Kind = Literal[
    "status",  # answered here, the body read and dropped
    "early status",  # answered here, the body not read
    "lost reply",  # done by the registry, answered with ``status``
    "reset request",  # after ``at`` bytes of the body, both ways
    "reset reply",  # after ``at`` bytes of the reply's body
    "short request",  # ``at`` bytes of the body are passed on as if that were all
    "short reply",  # ``at`` bytes of the reply's body, and a clean end
    "flipped request",  # a bit of the body
    "flipped reply",  # a bit of the reply's body
    "slow request",  # a pause between pieces that are read
    "slow reply",  # a pause between pieces that are sent
    "headers",  # of the reply, replaced
    "other status",  # done by the registry, and answered as it does but with ``status``
]


@dataclass
class Fault:
    """Breaks the first ``times`` requests, after ``after`` others, whose ``METHOD path`` matches ``where``."""

    where: str
    kind: Kind
    status: int = 503
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b'{"errors":[{"code":"TESTED","message":"broken by the test"}]}'
    at: int = 0
    times: int = 1
    after: int = 0
    pause: float = 0.0


class FaultyProxy(StandIn):
    """Stands before ``upstream`` (HOST:PORT). ``asked``: every request; ``received``: bytes of bodies by method.

    ``keeps_uploads``: docker-registry 2.8 signs an upload's offset into its Location, and so forgets an upload whose
    reply was lost. With this a Location is good for as long as the upload, as with other registries.
    """

    def __init__(self, upstream: str, *faults: Fault) -> None:
        super().__init__(_Handler)
        self.upstream = upstream
        self.faults = list(faults)
        self.asked: list[str] = []
        self.seen_headers: list[dict[str, str]] = []
        self.received: dict[str, int] = {}
        self.keeps_uploads = False
        self.drops: set[str] = set()  # headers of requests that are not passed on
        self._newest: dict[str, str] = {}
        self._lock = threading.Lock()

    def fault(self, asked: str, headers: dict[str, str]) -> Fault | None:
        """Count the request, and find what is to break it."""
        with self._lock:
            self.asked.append(asked)
            self.seen_headers.append(headers)
            for fault in self.faults:
                if re.search(fault.where, asked) and fault.times:
                    if fault.after:
                        fault.after -= 1
                    else:
                        fault.times -= 1
                        return fault
        return None

    def learn(self, location: str | None) -> None:
        """Remember the newest Location of an upload."""
        parts = urlsplit(location or "")
        if "/blobs/uploads/" in parts.path:
            self._newest[parts.path] = parse_qs(parts.query).get("_state", [""])[0]

    def newest(self, path: str) -> str:
        """An upload's address with its newest state."""
        parts = urlsplit(path)
        if not self.keeps_uploads or parts.path not in self._newest:
            return path
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        return f"{parts.path}?{urlencode(query | {'_state': self._newest[parts.path]})}"

    def count(self, method: str, size: int) -> None:
        with self._lock:
            self.received[method] = self.received.get(method, 0) + size


class _Handler(Handler):
    server: FaultyProxy
    protocol_version = "HTTP/1.1"

    def _handle(self) -> None:
        proxy = self.server
        self.left = int(self.headers.get("Content-Length") or 0)
        fault = proxy.fault(f"{self.command} {self.path}", dict(self.headers.items()))
        kind = fault.kind if fault else ""
        if fault and kind in ("status", "early status"):
            if kind == "status":
                for _ in self._body(self.left, fault):
                    pass
            self._reply(fault.status, fault.headers, fault.body)
            return
        upstream = http.client.HTTPConnection(proxy.upstream, timeout=60)
        try:
            if not self._pass_on(upstream, fault):
                self._reset()
                return
            answer = upstream.getresponse()
            proxy.learn(answer.getheader("Location"))
            if fault and kind == "lost reply":
                answer.read()
                self._reply(fault.status, fault.headers, fault.body)
            else:
                self._pass_back(answer, fault)
        except (http.client.HTTPException, OSError):
            self._reset()
        finally:
            upstream.close()

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _handle

    def _pass_on(self, upstream: http.client.HTTPConnection, fault: Fault | None) -> bool:
        """Send the request; False when both sides are to be cut."""
        proxy, kind, size = self.server, (fault.kind if fault else ""), self.left
        cut = fault is not None and kind in ("reset request", "short request")
        passed = min(size, fault.at) if fault and cut else size
        upstream.putrequest(self.command, proxy.newest(self.path), skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in {"content-length", "connection", *(["content-range"] if cut else []), *proxy.drops}:
                upstream.putheader(name, value)
        upstream.putheader("Content-Length", str(size if kind == "reset request" else passed))
        upstream.endheaders()
        for number, piece in enumerate(self._body(passed, fault)):
            flip = kind == "flipped request" and number == 0
            upstream.send(bytes([piece[0] ^ 1]) + piece[1:] if flip else piece)
        if kind == "short request":
            for _ in self._body(self.left, None):
                pass
        return kind != "reset request"

    def _body(self, size: int, fault: Fault | None) -> Iterator[bytes]:
        while size:
            piece = self.rfile.read(min(size, _PIECE))
            if not piece:
                raise OSError("the client has gone")
            if fault and fault.kind == "slow request":
                time.sleep(fault.pause)
            size -= len(piece)
            self.left -= len(piece)
            self.server.count(self.command, len(piece))
            yield piece

    def _pass_back(self, answer: http.client.HTTPResponse, fault: Fault | None) -> None:
        kind = fault.kind if fault else ""
        replaced = {name.lower(): value for name, value in fault.headers.items()} if fault and kind == "headers" else {}
        self.send_response_only(fault.status if fault and kind == "other status" else answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("connection", *replaced):
                self.send_header(name, value)
        for name, value in replaced.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        sent = 0
        while self.command != "HEAD" and (piece := answer.read(_PIECE)):
            if fault and kind in ("reset reply", "short reply") and sent + len(piece) > fault.at:
                self.wfile.write(piece[: fault.at - sent])
                if kind == "reset reply":
                    self._reset()
                self.close_connection = True
                return
            if fault and kind == "slow reply":
                time.sleep(fault.pause)
            flip = kind == "flipped reply" and sent == 0
            self.wfile.write(bytes([piece[0] ^ 1]) + piece[1:] if flip else piece)
            sent += len(piece)

    def _reply(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.reply(status, body, headers | ({"Connection": "close"} if self.left else {}))

    def _reset(self) -> None:
        """Close so that the other side sees a reset, and not an end."""
        self.close_connection = True
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.shutdown(socket.SHUT_RD)
        self.connection.close()
