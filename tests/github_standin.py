"""A stand-in for the part of GitHub's REST API that opens pull requests. It is not GitHub: it shows what was sent."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

TOKEN = "ghp_of_a_test"


class GitHub(ThreadingHTTPServer):
    """``opened``: pull requests by head branch. ``fault``: what every reply is instead, as status and body."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.opened: dict[str, dict[str, Any]] = {}
        self.asked: list[str] = []
        self.fault: tuple[int, bytes] | None = None
        self.ending = threading.Event()
        self.silent = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def github() -> Iterator[GitHub]:
    server = GitHub()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield server
    finally:
        server.ending.set()
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: GitHub

    def do_GET(self) -> None:
        head = parse_qs(urlsplit(self.path).query)["head"][0].partition(":")[2]
        self._reply(200, [self.server.opened[head]] if head in self.server.opened else [])

    def do_POST(self) -> None:
        sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            self._reply(401, {"message": "Bad credentials"})
        elif self.path != "/repos/team/router/pulls":
            self._reply(404, {"message": "Not Found"})
        elif sent["head"] in self.server.opened:
            self._reply(422, {"message": "Validation Failed", "errors": [{"message": "A pull request already exists"}]})
        else:
            number = len(self.server.opened) + 1
            self.server.opened[sent["head"]] = sent | {"html_url": f"https://github.com/team/router/pull/{number}"}
            self._reply(201, self.server.opened[sent["head"]])

    def _reply(self, status: int, value: object) -> None:
        self.server.asked.append(f"{self.command} {self.path}")
        if self.server.silent:
            self.server.ending.wait(60)
            return
        status, body = self.server.fault or (status, json.dumps(value).encode())
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if status == 302:
            self.send_header("Location", f"{self.server.url}/elsewhere")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""
