"""The base of every HTTP stand-in: a server in threads on a free port of loopback, and a handler with bodies and replies.

    with StandIn(MyHandler) as server:
        client(server.url)

A stand-in keeps its state and its faults in a subclass of ``StandIn``. Its handler says which methods it has
(``do_GET = do_POST = serve``); any other method is answered with 501.
"""

import json
import sys
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


class StandIn(ThreadingHTTPServer):
    """It serves from ``start`` to ``stop``, or in a ``with``. ``ending`` is set as it stops, for handlers that hang."""

    daemon_threads = True
    request_queue_size = 128

    port = 0  # a free one

    def __init__(self, handler: "type[Handler]") -> None:
        super().__init__(("127.0.0.1", self.port), handler)
        self.host = f"127.0.0.1:{self.server_port}"
        self.url = f"http://{self.host}"
        self.ending = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        self.ending.set()
        self.shutdown()
        self.server_close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed or gave up is no error here."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """One connection. ``protocol_version = "HTTP/1.1"`` in a subclass keeps it open between requests."""

    def body(self) -> bytes:
        """What was sent with the request, in one piece or in chunks."""
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def reply(self, status: int, value: Any = b"", headers: Mapping[str, str] | None = None) -> None:
        """Answer with bytes as they are, with words as plain text, or with anything else as JSON."""
        match value:
            case bytes():
                data, kind = value, {}
            case str():
                data, kind = value.encode(), {"Content-Type": "text/plain; charset=utf-8"}
            case _:
                data, kind = json.dumps(value).encode(), {"Content-Type": "application/json; charset=utf-8"}
        self.send_response(status)
        for name, text in ({"Content-Length": str(len(data))} | kind | dict(headers or {})).items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Quiet: pytest shows what matters."""
