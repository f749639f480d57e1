"""Git remotes for tests: git's own smart HTTP service on loopback, and one that fails where a test says."""

import base64
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal

# What goes wrong, from the moment it is set. "hang": no answer; "fail": 500; "cut": a push is not taken and not
# answered; "lost": it is taken and not answered; "lie": it is called done and not done; "slow": it is done, late.
Fault = Literal["", "hang", "fail", "cut", "lost", "lie", "slow"]


class Service(ThreadingHTTPServer):
    """Serves the bare repositories below ``folder`` by ``git http-backend``; ``secret``: NAME:PASSWORD is asked for."""

    daemon_threads = True

    def __init__(self, folder: Path, secret: str = "") -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder, self.secret = folder, secret
        self.fault: Fault = ""
        self.then: Fault | None = None  # what goes wrong after the first push that is not answered; None: the same
        self.slow = 1.0  # seconds
        self.pushes = 0
        self.ending = threading.Event()

    def url(self, name: str, login: str = "") -> str:
        return f"http://{login + '@' if login else ''}127.0.0.1:{self.server_address[1]}/{name}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Service

    def do_GET(self) -> None:
        self._serve(b"")

    def do_POST(self) -> None:
        self._serve(self._body())

    def log_message(self, *args: object) -> None:
        pass

    def _serve(self, body: bytes) -> None:
        service, path = self.server, self.path.partition("?")[0]
        push = self.command == "POST" and path.endswith("/git-receive-pack")
        service.pushes += push
        if service.fault == "hang":
            service.ending.wait(60)
            self.close_connection = True
            return
        wanted = f"Basic {base64.b64encode(service.secret.encode()).decode()}"
        if service.secret and self.headers["Authorization"] != wanted:
            self._answer(401, [("WWW-Authenticate", 'Basic realm="git"')], b"who are you?")
            return
        if service.fault == "fail":
            self._answer(500, [], b"out of order")
            return
        if push and service.fault == "cut":
            self._vanish()
            return
        if push and service.fault == "slow":
            service.ending.wait(service.slow)
        folder = service.folder
        if push and service.fault == "lie":
            folder = folder.parent / "scratch"
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(service.folder, folder)
        answer = self._backend(folder, path, body)
        if push and service.fault == "lost":
            self._vanish()
        else:
            self._relay(answer)

    def _vanish(self) -> None:
        if self.server.then is not None:
            self.server.fault = self.server.then
        self.connection.close()
        self.close_connection = True

    def _backend(self, folder: Path, path: str, body: bytes) -> bytes:
        env = {
            "PATH": os.environ["PATH"], "GIT_PROJECT_ROOT": str(folder), "GIT_HTTP_EXPORT_ALL": "1", "PATH_INFO": path,
            "QUERY_STRING": self.path.partition("?")[2], "REQUEST_METHOD": self.command, "REMOTE_USER": "ada",
            "CONTENT_TYPE": self.headers.get("Content-Type", ""), "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""), "GIT_CONFIG_NOSYSTEM": "1", "HOME": str(folder),
        }  # fmt: skip
        return subprocess.run(["git", "http-backend"], env=env, input=body, capture_output=True, check=True).stdout

    def _relay(self, answer: bytes) -> None:
        head, _, body = answer.partition(b"\r\n\r\n")
        fields = [tuple(line.split(": ", 1)) for line in head.decode().split("\r\n")]
        status = next((value for name, value in fields if name == "Status"), "200 OK")
        self._answer(int(status.split()[0]), [(name, value) for name, value in fields if name != "Status"], body)

    def _answer(self, code: int, fields: list[tuple[str, str]], body: bytes) -> None:
        try:
            self.send_response(code)
            for name, value in fields:
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        except OSError:
            self.close_connection = True  # the client gave up

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)


@contextmanager
def serving(folder: Path, secret: str = "") -> Iterator[Service]:
    """A service of the repositories in ``folder``, which take pushes from whoever may ask."""
    for repository in folder.iterdir():
        subprocess.run(["git", "-C", str(repository), "config", "http.receivepack", "true"], check=True)
    service = Service(folder, secret)
    thread = threading.Thread(target=service.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield service
    finally:
        service.ending.set()
        service.shutdown()
        service.server_close()


def hook(repository: Path, name: str, script: str) -> None:
    """A hook of a bare repository: a shell script."""
    path = repository / "hooks" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
