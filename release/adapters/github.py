"""GitHub's REST API, as far as a pull request's comment and check need it: https://docs.github.com/rest.

Everything it needs comes from the environment of a workflow. The token is sent to the host that GITHUB_API_URL names
and to no other: links of an answer are not followed.
"""

import os
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple
from urllib.parse import quote, urlsplit

from pydantic import AliasChoices, AliasPath, BaseModel, Field, PositiveInt, ValidationError

from checks.process.errors import RemoteRefused
from checks.process.text import redact
from release.adapters import http
from release.adapters.rest import PATIENCE, Comment, Forge, shaped
from release.adapters.retries import TEMPORARY, Patience, RequestError, retry_after

_API = "https://api.github.com"
SERVER = "https://github.com"
_REPOSITORY = re.compile(
    r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,38})/(?!\.{1,2}$)[A-Za-z0-9._-]{1,100}", re.ASCII
)
_SCP = re.compile(r"^(?:[^/@]+@)?([^/:]+):(?!//)(.+)$")  # HOST:PATH, as git takes it
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}", re.ASCII)

Conclusion = Literal["success", "failure"]


class Place(NamedTuple):
    """Which pull request of which repository, and the commit that a check is put on; None where nothing says so."""

    api: str
    repository: str
    number: int | None
    commit: str | None
    run: str | None  # the address of this workflow run
    web: str | None = None  # the address of the repository's pages


class _Event(BaseModel):
    """Which pull request an event is about: its own, or the one that was commented on as an issue."""

    number: PositiveInt | None = Field(
        None,
        validation_alias=AliasChoices(
            AliasPath("pull_request", "number"), "number", AliasPath("issue", "number")
        ),
    )
    commit: str = Field("", validation_alias=AliasPath("pull_request", "head", "sha"))


class Pull(BaseModel, frozen=True):
    """A pull request. ``head`` is its branch, ``home`` the repository of that; empty when it is gone."""

    number: PositiveInt
    state: http.Text = ""
    author: http.Text = Field("", validation_alias=AliasPath("user", "login"))
    url: http.Text = Field("", validation_alias="html_url")
    head: http.Text = Field("", validation_alias=AliasPath("head", "ref"))
    home: http.Text = Field("", validation_alias=AliasPath("head", "repo", "full_name"))


class Forbidden(RequestError):  # noqa: N818 - GitHub calls it so
    """The token may not do this, and waiting does not help."""


def place(environment: Mapping[str, str] | None = None) -> Place:
    """Return what the environment of a workflow says.

    Raises RemoteRefused when it says no repository, or a bad address.
    """
    env = os.environ if environment is None else environment
    api = (env.get("GITHUB_API_URL") or _API).rstrip("/")
    if not http.takes_token(api):
        raise RemoteRefused(
            "GITHUB_API_URL: is no https address without a login", f"set it, as to {_API}"
        )
    repository = env.get("GITHUB_REPOSITORY", "")
    if not _REPOSITORY.fullmatch(repository):
        raise RemoteRefused(
            f"GITHUB_REPOSITORY: {redact(repository, 80)!r} is no OWNER/NAME", "set it"
        )
    event = _event(env.get("GITHUB_EVENT_PATH"))
    number, commit = event.number, event.commit or env.get("GITHUB_SHA", "")
    if number is None and (
        match := re.fullmatch(r"refs/pull/(\d{1,10})/(?:merge|head)", env.get("GITHUB_REF", ""))
    ):
        number = int(match[1])
    run = env.get("GITHUB_RUN_ID", "")
    server = (env.get("GITHUB_SERVER_URL") or SERVER).rstrip("/")
    return Place(
        api,
        repository,
        number,
        commit if _COMMIT.fullmatch(commit) else None,
        f"{server}/{repository}/actions/runs/{run}" if run.isascii() and run.isdigit() else None,
        f"{server}/{repository}",
    )


def repository_of(address: str, server: str) -> str | None:
    """OWNER/NAME of the address of a git remote; None where that is not on the host of ``server``."""
    match = _SCP.match(address) if "://" not in address else None
    host, path = (match[1].lower(), match[2]) if match else (host_of(address), None)
    if not host or host != host_of(server):
        return None
    return (urlsplit(address).path if path is None else path).strip("/").removesuffix(".git")


def repository_here(address: str) -> str | None:
    """OWNER/NAME: GITHUB_REPOSITORY, else what the address of a git remote names on the host of GITHUB_SERVER_URL."""
    server = os.environ.get("GITHUB_SERVER_URL") or SERVER
    return os.environ.get("GITHUB_REPOSITORY") or repository_of(address, server)


def host_of(address: str) -> str:
    """The host of a URL; empty where there is none."""
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        return ""


def is_commit(text: str) -> bool:
    """Whether ``text`` is a commit's whole hash."""
    return _COMMIT.fullmatch(text) is not None


class GitHub(Forge):
    """One repository."""

    name = "GitHub"
    variable = "GITHUB_TOKEN"
    unset_fix = "give the step that posts a token, by its env"
    headers = MappingProxyType(
        {"Accept": "application/vnd.github+json", "X-GitHub-Api-Version": "2022-11-28"}
    )

    def __init__(
        self, where: Place, token: str | None = None, patience: Patience = PATIENCE
    ) -> None:
        super().__init__(where.api, token, patience)
        self.where = where
        self._base = f"repos/{where.repository}"

    def login(self) -> str | None:
        """Whose token it is; None for the token of an app or a workflow, which may not ask."""
        try:
            return _text(self.ask("GET", "user"), "login")
        except Forbidden:
            return None

    def comments(self, number: int) -> Iterator[Comment]:
        """Every comment of a pull request, from all pages, the oldest first."""
        for comment in self.pages(f"{self._base}/issues/{number}/comments?", "comments"):
            yield shaped(Comment, comment, "comment")

    def pulls(
        self, state: Literal["open", "closed"], base: str, head: str | None = None
    ) -> Iterator[Pull]:
        """The pull requests into ``base`` from branches of this repository, or from its branch ``head`` alone."""
        owner = self.where.repository.partition("/")[0]
        of_branch = f"&head={quote(owner)}:{quote(head)}" if head else ""
        query = f"state={state}{of_branch}&base={quote(base)}"
        for value in self.pages(f"{self._base}/pulls?{query}", "pull requests"):
            pull = shaped(Pull, value, "pull request")
            if pull.home.lower() == self.where.repository.lower():
                yield pull

    def pull(self, number: int) -> Pull:
        """Return a pull request."""
        return shaped(Pull, self.ask("GET", f"{self._base}/pulls/{number}"), "pull request")

    def set_state(self, number: int, state: Literal["open", "closed"]) -> None:
        """Close a pull request, or open it again."""
        self.ask("PATCH", f"{self._base}/pulls/{number}", {"state": state})

    def create(self, number: int, body: str) -> Comment:
        """A new comment. It is not tried twice: whether the first try went through, the caller looks up."""
        made = self.once("POST", f"{self._base}/issues/{number}/comments", {"body": body})
        return shaped(Comment, made, "comment")

    def update(self, comment: Comment, body: str) -> Comment:
        """Replace the text of a comment."""
        path = f"{self._base}/issues/comments/{comment.id}"
        return shaped(Comment, self.ask("PATCH", path, {"body": body}), "comment")

    def open(self, title: str, head: str, base: str, body: str) -> str:
        """Open a pull request of the branch ``head`` into ``base``; its address. One that is open already is taken."""
        asked = {"title": title, "head": head, "base": base, "body": body}
        try:
            address = _text(self.once("POST", f"{self._base}/pulls", asked), "html_url")
        except RequestError as trouble:
            pull = next(self.pulls("open", base, head), None) if trouble.status == 422 else None
            if pull is None:  # None is open, so that it cannot be opened.
                raise
            address = pull.url
        if not address.startswith(("https://", "http://")):
            raise RequestError("says nothing of the pull request that it took")
        return redact(address, 500)

    def edit(self, pull: int, title: str, body: str) -> None:
        """Replace title and text of a pull request."""
        self.ask("PATCH", f"{self._base}/pulls/{pull}", {"title": title, "body": body})

    def check(
        self, name: str, commit: str, conclusion: Conclusion, title: str, summary: str
    ) -> str:
        """Put a finished check on a commit; return its address. Raises Forbidden for a token that is no app's."""
        asked: dict[str, Any] = {
            "name": name,
            "head_sha": commit,
            "status": "completed",
            "conclusion": conclusion,
            "output": {"title": title, "summary": summary},
        }
        if self.where.run:
            asked["details_url"] = self.where.run
        return _text(self.ask("POST", f"{self._base}/check-runs", asked), "html_url")

    def status(self, name: str, commit: str, conclusion: Conclusion, description: str) -> str:
        """Put a commit status in a check's place."""
        asked: dict[str, Any] = {
            "state": conclusion,
            "context": name,
            "description": description[:140],
        }
        if self.where.run:
            asked["target_url"] = self.where.run
        return _text(self.ask("POST", f"{self._base}/statuses/{commit}", asked), "url")

    def said(self, answer: Any) -> str:
        """Return what GitHub says of an error, and of each part of it."""
        if not isinstance(answer, dict):
            return ""
        errors = answer.get("errors")
        parts = errors if isinstance(errors, list) else []
        more = (str(one.get("message") or "") for one in parts if isinstance(one, dict))
        return " ".join([str(answer.get("message") or ""), *more]).strip()

    def failed(self, what: str, status: int, headers: Mapping[str, str]) -> RequestError:
        wait = _wait(headers, status)
        if status == 429 or (status == 403 and wait is not None):
            return RequestError(f"{what}: rate limit", temporary=True, status=status, wait=wait)
        if status in (401, 403):
            return Forbidden(
                what,
                status=status,
                todo="give the token what docs/reference/comment.md says it needs",
            )
        return RequestError(what, temporary=status in TEMPORARY, status=status, wait=wait)


def _event(path: str | None) -> _Event:
    """The event that started the workflow; an empty one where no file is named. Raises RemoteRefused for no event."""
    try:
        return _Event.model_validate_json(Path(path).read_bytes() if path else b"{}")
    except (OSError, ValidationError) as error:
        raise RemoteRefused(
            "GITHUB_EVENT_PATH: names no event", "unset it, or name the event's file"
        ) from error


def _wait(headers: Mapping[str, str], status: int) -> float | None:
    """Seconds until the rate limit is over; None where there is none."""
    asked = retry_after(headers.get("Retry-After"))
    if asked is not None:
        return asked
    reset = headers.get("X-RateLimit-Reset", "")
    if (
        status in (403, 429)
        and headers.get("X-RateLimit-Remaining") == "0"
        and reset.isascii()
        and reset.isdigit()
    ):
        return max(0.0, float(reset[:12]) - time.time())
    return None


def _text(value: Mapping[str, Any], key: str) -> str:
    text = value.get(key)
    return text if isinstance(text, str) else ""
