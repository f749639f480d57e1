"""Git remotes for tests: git's own smart HTTP service on loopback, and one that fails where a test says."""

import base64
import os
import shutil
import subprocess
from pathlib import Path
from typing import Literal

from tests.http_standin import Handler, StandIn

# What goes wrong, from the moment it is set. "hang": no answer; "fail": 500; "cut": a push is not taken and not
# answered; "lost": it is taken and not answered; "lie": it is called done and not done; "slow": it is done, late.
Fault = Literal["", "hang", "fail", "cut", "lost", "lie", "slow"]


class Service(StandIn):
    """Serves the bare repositories below ``folder`` by ``git http-backend``; ``secret``: NAME:PASSWORD is asked for."""

    def __init__(self, folder: Path, secret: str = "") -> None:
        super().__init__(_Handler)
        self.folder, self.secret = folder, secret
        self.fault: Fault = ""
        self.then: Fault | None = None  # what goes wrong after the first push that is not answered; None: the same
        self.slow = 1.0  # seconds
        self.pushes = 0

    def address(self, name: str, login: str = "") -> str:
        return f"http://{login + '@' if login else ''}{self.host}/{name}"


class _Handler(Handler):
    protocol_version = "HTTP/1.1"
    server: Service

    def serve(self) -> None:
        service, path, body = self.server, self.path.partition("?")[0], self.body()
        push = self.command == "POST" and path.endswith("/git-receive-pack")
        service.pushes += push
        if service.fault == "hang":
            service.ending.wait(60)
            self.close_connection = True
            return
        wanted = f"Basic {base64.b64encode(service.secret.encode()).decode()}"
        if service.secret and self.headers["Authorization"] != wanted:
            self.reply(401, b"who are you?", {"WWW-Authenticate": 'Basic realm="git"'})
            return
        if service.fault == "fail":
            self.reply(500, b"out of order")
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

    do_GET = do_POST = serve

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
        fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        self.reply(int(fields.pop("Status", "200 OK").split()[0]), body, fields)


def hook(repository: Path, name: str, script: str) -> None:
    """A hook of a bare repository: a shell script."""
    path = repository / "hooks" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
