"""A STAND-IN for GitHub's REST API: pull requests, their comments in pages, check runs, statuses, users. It keeps state.

It is not GitHub: it shows what was sent. Bodies are held to GitHub's own description (tests/github_schema.py); what is
no such body is answered with 422, and kept in ``refused``. ``faults`` make it misbehave.
"""

import json
import re
import threading
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests import github_schema
from tests.github_schema import LARGEST as LARGEST
from tests.http_standin import Handler
from tests.http_standin import StandIn as Base

TOKEN, REPOSITORY = "ghs_token-of-a-test-0123456789", "octo/router"
READ_ONLY = "ghs_token-of-a-fork-0123456789"  # as a fork's run has
ACTIONS = "github-actions[bot]"
FORCED = "state cannot be changed. The {} branch was force-pushed or recreated."
Answer = tuple[int, Any]


@dataclass
class Faults:
    """``fail``: statuses to answer the next requests with, by "METHOD kind". ``after``: the same, once it is done.

    ``reply``: what every reply is instead, as status and body. ``silent``: there is none.
    """

    fail: dict[str, list[tuple[int, dict[str, str]]]] = field(default_factory=dict)
    after: dict[str, list[int]] = field(default_factory=dict)
    checks_are_for_apps: bool = False
    user: str | None = None  # None: a workflow's token, which may not ask who it is
    echo_token: bool = False
    reply: tuple[int, bytes] | None = None
    redirect: str = ""
    silent: bool = False


class StandIn(Base):
    """``asked`` are the requests as (method, path). Comments and pull requests are dicts as GitHub gives them.

    ``resources``: more that GET answers with, by path: settings, rulesets, environments.
    """

    def __init__(self, repository: str = REPOSITORY) -> None:
        super().__init__(_Handler)
        self.repository = repository
        self.pulls: dict[int, dict[str, Any]] = {}
        self.comments: list[dict[str, Any]] = []
        self.checks: list[dict[str, Any]] = []
        self.statuses: list[dict[str, Any]] = []
        self.resources: dict[str, Any] = {}
        self.asked: list[tuple[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self.refused: list[tuple[str, list[str]]] = []
        self.faults = Faults()
        self.author = ACTIONS
        self.prefix = ""  # of every path: a server of a company's own has /api/v3
        self.changing = threading.Lock()

    def pull(
        self, head: str, base: str = "main", sha: str = "", number: int | None = None, fork: str = "", title: str = "A"
    ) -> dict[str, Any]:
        """Somebody opens a pull request of the branch ``head``; ``fork``: of that repository."""
        number = number or max(self.pulls, default=0) + 1
        home = fork or self.repository
        self.pulls[number] = {
            "number": number,
            "state": "open",
            "title": title,
            "html_url": f"https://github.com/{self.repository}/pull/{number}",
            "head": {"ref": head, "sha": sha, "repo": {"full_name": home, "fork": bool(fork)}},
            "base": {"ref": base, "repo": {"full_name": self.repository, "fork": False}},
            "labels": [],
            "user": {"login": "ada", "type": "User"},
        }
        return self.pulls[number]

    def say(self, author: str, body: str, number: int = 7) -> dict[str, Any]:
        """Somebody comments on a pull request."""
        identity = 1000 + len(self.comments)
        made = {
            "id": identity,
            "user": {"login": author, "type": "Bot" if author.endswith("[bot]") else "User"},
            "body": body,
            "html_url": f"https://github.com/{self.repository}/pull/{number}#issuecomment-{identity}",
            "issue_url": f"https://api.github.com/repos/{self.repository}/issues/{number}",
        }
        self.comments.append(made)
        return made

    def on(self, number: int) -> list[dict[str, Any]]:
        """The comments of a pull request."""
        return [each for each in self.comments if each["issue_url"].endswith(f"/issues/{number}")]

    def of(self, author: str) -> list[dict[str, Any]]:
        return [each for each in self.comments if each["user"]["login"] == author]

    def checked(self, sha: str) -> list[dict[str, Any]]:
        """The checks of a commit, in the order they were set."""
        return [each for each in self.checks if each["head_sha"] == sha]


class _Handler(Handler):
    server: StandIn

    def serve(self) -> None:
        path = urlsplit(self.path).path.removeprefix(self.server.prefix)
        body = self.body()
        self.server.asked.append((self.command, self.path))
        self.server.headers.append(dict(self.headers))
        faults = self.server.faults
        kind = f"{self.command} {_kind(path)}"
        token = (self.headers.get("Authorization") or "").rpartition(" ")[2]  # of "Bearer", or of "token"
        if faults.silent:
            self.server.ending.wait(60)
        elif faults.redirect:
            self.reply(301, {"message": "Moved Permanently"}, {"Location": faults.redirect})
        elif faults.reply is not None:
            elsewhere = {"Location": f"{self.server.url}/elsewhere"} if faults.reply[0] == 302 else None
            self.reply(*faults.reply, elsewhere)
        elif token not in (TOKEN, READ_ONLY):
            self.reply(401, {"message": "Bad credentials"})
        elif token == READ_ONLY and self.command != "GET":
            self.reply(403, {"message": "Resource not accessible by integration"})
        elif waiting := faults.fail.get(kind):
            status, headers = waiting.pop(0)
            told = f"it went wrong {TOKEN if faults.echo_token else ''}"
            self.reply(status, {"message": told}, headers)
        else:
            with self.server.changing:
                status, value = self._answer(path, kind, body)
            if later := faults.after.get(kind):
                status, value = later.pop(0), {"message": "the gateway gave up"}
            self.reply(status, value)

    do_GET = do_POST = do_PATCH = serve

    def _answer(self, path: str, kind: str, body: bytes) -> Answer:
        server, here = self.server, f"/repos/{self.server.repository}"
        if (self.command, path) == ("GET", "/user"):
            if server.faults.user is None:
                return 403, {"message": "Resource not accessible by integration"}
            return 200, {"login": server.faults.user, "id": 1, "type": "User"}
        if self.command == "GET" and path in server.resources:
            return 200, server.resources[path]
        for pattern, do in (
            (r"/issues/(\d+)/comments", self._comments),
            (r"/issues/comments/(\d+)", self._comment),
            (r"/check-runs", self._check),
            (r"/statuses/([0-9a-f]{40})", self._status),
            (r"/pulls", self._pulls),
            (r"/pulls/(\d+)", self._pull),
        ):
            if found := re.fullmatch(re.escape(here) + pattern, path):
                if self.command == "GET":
                    return do(found.groups(), None)
                try:
                    wrong = github_schema.problems(kind, body)
                except KeyError:  # no such operation here
                    break
                if wrong:
                    server.refused.append((kind, wrong))
                    return 422, {"message": "Validation Failed", "errors": [{"message": each} for each in wrong]}
                return do(found.groups(), json.loads(body))
        return 404, {"message": "Not Found"}

    def _comments(self, at: tuple[str, ...], sent: dict[str, Any] | None) -> Answer:
        number = int(at[0])
        if number not in self.server.pulls:
            return 404, {"message": "Not Found"}
        if sent is None:
            return 200, self._page(self.server.on(number))
        return 201, self.server.say(self.server.author, sent["body"], number)

    def _comment(self, at: tuple[str, ...], sent: dict[str, Any] | None) -> Answer:
        found = next((each for each in self.server.comments if each["id"] == int(at[0])), None)
        if found is None:
            return 404, {"message": "Not Found"}
        return 200, found if sent is None else found.update(sent) or found

    def _check(self, _: tuple[str, ...], sent: dict[str, Any] | None) -> Answer:
        if sent is None:
            return 404, {"message": "Not Found"}
        if self.server.faults.checks_are_for_apps:
            return 403, {"message": "You must authenticate via a GitHub App."}
        self.server.checks.append(sent)
        number = len(self.server.checks)
        return 201, {"id": number, "html_url": f"https://github.com/{self.server.repository}/runs/{number}"}

    def _status(self, at: tuple[str, ...], sent: dict[str, Any] | None) -> Answer:
        if sent is None:
            return 404, {"message": "Not Found"}
        self.server.statuses.append(sent | {"sha": at[0]})
        return 201, {"id": len(self.server.statuses), "url": f"https://api.github.com{urlsplit(self.path).path}"}

    def _pulls(self, _: tuple[str, ...], sent: dict[str, Any] | None) -> Answer:
        query = parse_qs(urlsplit(self.path).query)
        head = sent["head"] if sent else query.get("head", [":"])[0].partition(":")[2]
        state, base = query.get("state", ["open"])[0], sent["base"] if sent else query.get("base", [""])[0]
        there = [
            each for each in self.server.pulls.values()
            if each["state"] == state and head in ("", _head(each)) and base in ("", each["base"]["ref"])
        ]  # fmt: skip
        if sent is None:
            return 200, self._page(there)
        if there:
            return 422, {"message": "Validation Failed", "errors": [{"message": "A pull request already exists"}]}
        made = self.server.pull(head, sent["base"], title=sent["title"])
        made["body"] = sent.get("body")
        return 201, made

    def _pull(self, at: tuple[str, ...], sent: dict[str, Any] | None) -> Answer:
        pull = self.server.pulls.get(int(at[0]))
        if pull is None:
            return 404, {"message": "Not Found"}
        wanted = (sent or {}).get("state", pull["state"])
        if pull.get("merged") and wanted == "open":
            return 422, {
                "message": "Validation Failed",
                "errors": [{"message": "state cannot be changed. It is merged."}],
            }
        if (pull["state"], wanted) == ("closed", "open") and pull.get("closed_at_commit") != pull["head"]["sha"]:
            return 422, {"message": "Validation Failed", "errors": [{"message": FORCED.format(_head(pull))}]}
        pull.update(sent or {})
        if sent and wanted == "closed":
            pull["closed_at_commit"] = pull["head"]["sha"]
        return 200, pull

    def _page(self, many: list[dict[str, Any]]) -> list[dict[str, Any]]:
        query = parse_qs(urlsplit(self.path).query)
        size, page = min(100, int(query.get("per_page", ["30"])[0])), int(query.get("page", ["1"])[0])
        return many[size * (page - 1) : size * page]


def _head(pull: dict[str, Any]) -> str:
    return str(pull["head"]["ref"])


def _kind(path: str) -> str:
    for name in ("comments", "check-runs", "statuses", "pulls", "user"):
        if f"/{name}" in path:
            return name
    return path
