"""A small HTTP server for the tests of transfers: ranges, cut connections, stalls, and a model hub's API."""

import hashlib
import json
import threading
from urllib.parse import unquote, urlsplit

from tests.http_standin import Handler, StandIn

COMMIT = "c0ffee" * 6 + "c0ff"


class Web(StandIn):
    """Serves ``content`` (path to bytes); what it was asked for is in ``asked`` as (path, Range or None)."""

    def __init__(self) -> None:
        super().__init__(_Handler)
        self.content: dict[str, bytes] = {}
        self.repositories: dict[str, dict[str, bytes]] = {}  # "models/org/name" to its files
        self.unlisted: set[str] = set()  # files that a repository names and does not list
        self.asked: list[tuple[str, str | None]] = []
        self.sent = 0
        self.cut_after: int | None = None  # bytes of bodies, all together; then each connection is cut
        self.stall_after: int | None = None  # likewise; then each connection waits until ``heal``
        self.ranges = "yes"  # "no": told in a header; "ignored": not told
        self.announce_size = True
        self.healed = threading.Event()

    def stop(self) -> None:
        self.heal()
        super().stop()

    def heal(self) -> None:
        self.cut_after = self.stall_after = None
        self.healed.set()

    def find(self, path: str) -> bytes | None:
        """The body for a path: a file, or an answer of the hub."""
        if path in self.content:
            return self.content[path]
        for name, files in self.repositories.items():
            kind, _, repository = name.partition("/")
            place = repository if kind == "models" else name
            if path == f"/api/{name}/revision/v1":
                return json.dumps(
                    {"id": repository, "sha": COMMIT, "siblings": [{"rfilename": f} for f in files]}
                ).encode()
            if path == f"/api/{name}/tree/{COMMIT}":
                return json.dumps(
                    [
                        {"type": "file", "path": f, "size": len(b), "oid": _etag(b)}
                        for f, b in files.items()
                        if f not in self.unlisted
                    ]
                ).encode()
            if path.startswith(f"/{place}/resolve/{COMMIT}/"):
                return files.get(path.removeprefix(f"/{place}/resolve/{COMMIT}/"))
        return None


def _etag(body: bytes) -> str:
    return hashlib.sha1(body).hexdigest()


class _Handler(Handler):
    server: Web
    protocol_version = "HTTP/1.1"

    def serve(self) -> None:
        web, wanted, body_too = self.server, self.headers.get("Range"), self.command == "GET"
        path = unquote(urlsplit(self.path).path)
        body = web.find(path)
        if body_too:
            web.asked.append((path, wanted))
        if body is None:
            self.reply(404)
            return
        total, start, end = len(body), 0, len(body)
        if wanted and web.ranges == "yes":
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, end = int(first), min(int(last) + 1 if last else total, total)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{total}")
        else:
            self.send_response(200)
        if web.ranges == "no":
            self.send_header("Accept-Ranges", "none")
        self.send_header("ETag", f'"{_etag(body)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        if web.announce_size:
            self.send_header("Content-Length", str(end - start))
        else:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        if body_too:
            self._send(body[start:end])

    do_HEAD = do_GET = serve

    def _send(self, body: bytes) -> None:
        web = self.server
        for at in range(0, len(body), 1 << 16):
            if web.cut_after is not None and web.sent >= web.cut_after:
                self.close_connection = True
                return
            if web.stall_after is not None and web.sent >= web.stall_after:
                web.healed.wait(60)
            piece = body[at : at + (1 << 16)]
            self.wfile.write(piece)
            web.sent += len(piece)
