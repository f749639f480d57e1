"""A STAND-IN for GitLab's REST API: notes of merge requests in pages, commit statuses, the user. It keeps state.

It is not GitLab: it shows what was sent, and refuses what GitLab's documentation says that GitLab refuses: another token
(401), what the role may not do (403), an unknown project, merge request or commit (404), a note without text or with
more than a million characters and a state that there is not (400). ``faults`` make it misbehave.
"""

import json
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.http_standin import Handler
from tests.http_standin import StandIn as Base

TOKEN, GUEST = "glpat-token-of-a-test-0123456789", "glpat-token-of-a-guest-0123456789"
PROJECT, NUMBER, BOT = 42, 7, "project_42_bot_ab12"
LONGEST = 1_000_000  # characters of a note
_STATES = ("pending", "running", "success", "failed", "canceled", "skipped")
Answer = tuple[int, Any]


@dataclass
class Faults:
    """``fail``: statuses to answer the next requests with, by "METHOD kind"; ``after``: the same, once it is done.

    ``longest``: bytes that a server in front takes; ``echo``: an error repeats the token.
    """

    fail: dict[str, list[int]] = field(default_factory=dict)
    after: dict[str, list[int]] = field(default_factory=dict)
    longest: int | None = None
    echo: bool = False
    reply: bytes | None = None
    redirect: str = ""


class StandIn(Base):
    """``asked`` are the requests as (method, path with its query). ``commits``: those that the project has."""

    def __init__(self) -> None:
        super().__init__(_Handler)
        self.notes: list[dict[str, Any]] = []
        self.statuses: list[dict[str, Any]] = []
        self.commits: set[str] = set()
        self.asked: list[tuple[str, str]] = []
        self.faults = Faults()

    def say(self, author: str, body: str) -> dict[str, Any]:
        """Somebody comments on the merge request."""
        made = {"id": 300 + len(self.notes), "author": {"id": 1, "username": author}, "body": body, "system": False}
        self.notes.append(made)
        return made


class _Handler(Handler):
    server: StandIn

    def serve(self) -> None:
        body, faults = self.body(), self.server.faults
        path = urlsplit(self.path).path.removeprefix("/api/v4")
        self.server.asked.append((self.command, self.path))
        kind = f"{self.command} {next((name for name in ('notes', 'statuses') if f'/{name}' in path), 'user')}"
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if faults.redirect:
            self.reply(302, b"", {"Location": faults.redirect})
        elif faults.reply is not None:
            self.reply(200, faults.reply)
        elif faults.longest is not None and len(body) > faults.longest:
            self.reply(413, b"<html>413 Request Entity Too Large")
        elif token not in (TOKEN, GUEST):
            self.reply(401, {"message": "401 Unauthorized"})
        elif waiting := faults.fail.get(kind):
            self.reply(waiting.pop(0), {"message": f"it went wrong {token if faults.echo else ''}"})
        else:
            status, value = self._answer(path, token, json.loads(body) if body else None)
            if later := faults.after.get(kind):
                status, value = later.pop(0), {"message": "the gateway gave up"}
            self.reply(status, value)

    do_GET = do_POST = do_PUT = serve

    def _answer(self, path: str, token: str, sent: dict[str, Any] | None) -> Answer:
        if (self.command, path) == ("GET", "/user"):
            return 200, {"id": 1, "username": BOT if token == TOKEN else "guest"}
        found = re.fullmatch(r"/projects/([^/]+)/(merge_requests|statuses)/([^/]+)(?:/notes(?:/(\d+))?)?", path)
        if found is None or found[1] != str(PROJECT):
            return 404, {"message": "404 Project Not Found"}
        if found[2] == "statuses":
            return self._status(found[3], token, sent or {})
        if found[3] != str(NUMBER):
            return 404, {"message": "404 Not found"}
        return self._note(found[4], sent)

    def _note(self, identity: str | None, sent: dict[str, Any] | None) -> Answer:
        if sent is None:
            query = parse_qs(urlsplit(self.path).query)
            size, page = int(query["per_page"][0]), int(query["page"][0])
            assert query["sort"] == ["asc"]
            return 200, self.server.notes[size * (page - 1) : size * page]
        if not (text := sent.get("body")):
            return 400, {"error": "body is missing"}
        if len(text) > LONGEST:
            return 400, {"message": {"note": [f"is too long (maximum is {LONGEST} characters)"]}}
        if identity is None:
            return 201, self.server.say(BOT, text)
        held = next((each for each in self.server.notes if str(each["id"]) == identity), None)
        return (404, {"message": "404 Note Not Found"}) if held is None else (200, held.update(body=text) or held)

    def _status(self, commit: str, token: str, sent: dict[str, Any]) -> Answer:
        if token == GUEST:
            return 403, {"message": "403 Forbidden"}
        if commit not in self.server.commits:
            return 404, {"message": "404 Commit Not Found"}
        if sent.get("state") not in _STATES or len(sent.get("description", "")) > 255:
            return 400, {"error": "state does not have a valid value"}
        self.server.statuses.append(sent | {"sha": commit})
        return 201, {"id": len(self.server.statuses), "sha": commit, "status": sent["state"]}
