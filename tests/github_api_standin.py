"""A STAND-IN for GitHub's REST API: issue comments with paging, check runs, commit statuses, users. It keeps state.

Bodies and replies have the shape of https://docs.github.com/rest (2022-11-28): what a request may hold is written here
anew from that page, and anything else is answered with 422 as GitHub does. ``faults`` make it misbehave.
"""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError

TOKEN, REPOSITORY = "ghs_token-of-a-test-0123456789", "octo/router"
LARGEST = 65_536  # characters of a comment


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class CommentBody(_Body):
    body: str = Field(min_length=1, max_length=LARGEST)


class Output(_Body):
    title: str = Field(min_length=1)
    summary: str = Field(max_length=65_535)
    text: str | None = Field(None, max_length=65_535)


class CheckBody(_Body):
    """A check run that is created as completed."""

    name: str = Field(min_length=1)
    head_sha: str = Field(pattern=r"^[0-9a-f]{40}$")
    status: Literal["completed"]
    conclusion: Literal["action_required", "cancelled", "failure", "neutral", "success", "skipped", "timed_out"]
    details_url: str | None = None
    output: Output


class StatusBody(_Body):
    state: Literal["error", "failure", "pending", "success"]
    context: str = "default"
    description: str | None = Field(None, max_length=140)
    target_url: str | None = None


@dataclass
class Faults:
    """``fail``: statuses to answer the next requests with, by "METHOD kind". ``after``: the same, once it is done."""

    fail: dict[str, list[tuple[int, dict[str, str]]]] = field(default_factory=dict)
    after: dict[str, list[int]] = field(default_factory=dict)
    checks_are_for_apps: bool = False
    user: str | None = None  # None: a workflow's token, which may not ask who it is
    echo_token: bool = False
    garbage: bool = False
    redirect: str = ""


class StandIn(ThreadingHTTPServer):
    """``asked`` are the requests as (method, path). A comment is a dict as GitHub gives it."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.comments: list[dict[str, Any]] = []
        self.checks: list[dict[str, Any]] = []
        self.statuses: list[dict[str, Any]] = []
        self.asked: list[tuple[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self.faults = Faults()
        self.author = "github-actions[bot]"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def say(self, author: str, body: str) -> dict[str, Any]:
        """Somebody comments."""
        number = 1000 + len(self.comments)
        made = {
            "id": number,
            "user": {"login": author, "type": "Bot" if author.endswith("[bot]") else "User"},
            "body": body,
            "html_url": f"https://github.com/{REPOSITORY}/pull/7#issuecomment-{number}",
        }
        self.comments.append(made)
        return made

    def of(self, author: str) -> list[dict[str, Any]]:
        return [each for each in self.comments if each["user"]["login"] == author]


@contextmanager
def github() -> Iterator[StandIn]:
    """Run the stand-in."""
    server = StandIn()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: StandIn

    def do_GET(self) -> None:
        self._handle()

    def do_POST(self) -> None:
        self._handle()

    def do_PATCH(self) -> None:
        self._handle()

    def _handle(self) -> None:
        path = urlsplit(self.path).path
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.asked.append((self.command, self.path))
        self.server.headers.append(dict(self.headers))
        faults = self.server.faults
        kind = f"{self.command} {_kind(path)}"
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._reply(401, {"message": "Bad credentials"})
        elif faults.redirect:
            self._reply(301, {"message": "Moved Permanently"}, {"Location": faults.redirect})
        elif faults.garbage:
            self._reply(200, None, raw=b"<html>a proxy")
        elif waiting := faults.fail.get(kind):
            status, headers = waiting.pop(0)
            told = f"it went wrong {TOKEN if faults.echo_token else ''}"
            self._reply(status, {"message": told}, headers)
        else:
            status, value = self._answer(path, body)
            if later := faults.after.get(kind):
                status, value = later.pop(0), {"message": "the gateway gave up"}
            self._reply(status, value)

    def _answer(self, path: str, body: bytes) -> tuple[int, Any]:
        server, here = self.server, f"/repos/{REPOSITORY}"
        try:
            if (self.command, path) == ("GET", "/user"):
                if server.faults.user is None:
                    return 403, {"message": "Resource not accessible by integration"}
                return 200, {"login": server.faults.user, "id": 1, "type": "User"}
            if path == f"{here}/issues/7/comments" and self.command == "GET":
                query = parse_qs(urlsplit(self.path).query)
                size, page = min(100, int(query.get("per_page", ["30"])[0])), int(query.get("page", ["1"])[0])
                return 200, server.comments[size * (page - 1) : size * page]
            if path == f"{here}/issues/7/comments" and self.command == "POST":
                return 201, server.say(server.author, CommentBody.model_validate_json(body).body)
            if (found := re.fullmatch(rf"{here}/issues/comments/(\d+)", path)) and self.command == "PATCH":
                comment = next((each for each in server.comments if each["id"] == int(found[1])), None)
                if comment is None:
                    return 404, {"message": "Not Found"}
                comment["body"] = CommentBody.model_validate_json(body).body
                return 200, comment
            if (self.command, path) == ("POST", f"{here}/check-runs"):
                if server.faults.checks_are_for_apps:
                    return 403, {"message": "You must authenticate via a GitHub App."}
                server.checks.append(CheckBody.model_validate_json(body).model_dump())
                return 201, {"id": len(server.checks), "html_url": f"https://github.com/{REPOSITORY}/runs/1"}
            if (found := re.fullmatch(rf"{here}/statuses/([0-9a-f]{{40}})", path)) and self.command == "POST":
                server.statuses.append(StatusBody.model_validate_json(body).model_dump() | {"sha": found[1]})
                return 201, {"id": 1, "url": f"https://api.github.com{path}"}
        except ValidationError as error:
            return 422, {"message": "Validation Failed", "errors": [str(each["msg"]) for each in error.errors()]}
        return 404, {"message": "Not Found"}

    def _reply(self, status: int, value: Any, headers: dict[str, str] | None = None, raw: bytes | None = None) -> None:
        data = json.dumps(value).encode() if raw is None else raw
        self.send_response(status)
        for name, text in (headers or {}).items():
            self.send_header(name, text)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Quiet."""


def _kind(path: str) -> str:
    for name in ("comments", "check-runs", "statuses", "user"):
        if f"/{name}" in path:
            return name
    return path
