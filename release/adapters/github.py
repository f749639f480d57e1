"""GitHub's REST API, as far as a pull request's comment and check need it: https://docs.github.com/rest.

Everything it needs comes from the environment of a workflow. The token goes into one header and nowhere else; it is
sent to the host that GITHUB_API_URL names and to no other: redirects are not followed, links are not either.
"""

import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import quote, urlsplit

import requests
from pydantic import AliasChoices, AliasPath, BaseModel, Field, PositiveInt, ValidationError

from checks import files
from checks.errors import RemoteRefused
from checks.text import redact
from release.adapters import http
from release.adapters.retries import TEMPORARY, Patience, RequestError, Tries, retry_after

_API = "https://api.github.com"
_TIMES = (10, 60)  # seconds to connect, and between two reads
_LARGEST = 64 << 20  # bytes of one answer
_PAGE, _PAGES = 100, 100
_REPOSITORY = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,38})/(?!\.{1,2}$)[A-Za-z0-9._-]{1,100}", re.ASCII)
_SCP = re.compile(r"^(?:[^/@]+@)?([^/:]+):(?!//)(.+)$")  # HOST:PATH, as git takes it
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}", re.ASCII)
PATIENCE = Patience(tries=5, first=1.0, longest=20.0, on_request=90.0)

Conclusion = Literal["success", "failure"]


class Place(NamedTuple):
    """Which pull request of which repository, and the commit that a check is put on; None where nothing says so."""

    api: str
    repository: str
    number: int | None
    commit: str | None
    run: str | None  # the address of this workflow run


class _Event(BaseModel):
    """Which pull request an event is about: its own, or the one that was commented on as an issue."""

    number: PositiveInt | None = Field(
        None,
        validation_alias=AliasChoices(AliasPath("pull_request", "number"), "number", AliasPath("issue", "number")),
    )
    commit: str = Field("", validation_alias=AliasPath("pull_request", "head", "sha"))


class Comment(BaseModel, frozen=True):
    """``author`` is empty when the account is gone. ``place``: from 1, in the order that GitHub lists them."""

    id: int
    author: http.Text = Field("", validation_alias=AliasPath("user", "login"))
    body: http.Text = ""
    url: http.Text = Field("", validation_alias="html_url")
    place: int = 0


class Pull(BaseModel, frozen=True):
    """A pull request. ``head`` is its branch, ``home`` the repository of that; empty when it is gone."""

    number: PositiveInt
    url: http.Text = Field("", validation_alias="html_url")
    head: http.Text = Field("", validation_alias=AliasPath("head", "ref"))
    home: http.Text = Field("", validation_alias=AliasPath("head", "repo", "full_name"))


class Forbidden(RequestError):  # noqa: N818 - GitHub calls it so
    """The token may not do this, and waiting does not help."""


def place(environment: Mapping[str, str] | None = None) -> Place:
    """What the environment of a workflow says. Raises RemoteRefused when it says no repository, or a bad address."""
    env = os.environ if environment is None else environment
    api = (env.get("GITHUB_API_URL") or _API).rstrip("/")
    if not http.takes_token(api):
        raise RemoteRefused("GITHUB_API_URL: is no https address without a login", f"set it, as to {_API}")
    repository = env.get("GITHUB_REPOSITORY", "")
    if not _REPOSITORY.fullmatch(repository):
        raise RemoteRefused(f"GITHUB_REPOSITORY: {redact(repository, 80)!r} is no OWNER/NAME", "set it")
    event = _event(env.get("GITHUB_EVENT_PATH"))
    number, commit = event.number, event.commit or env.get("GITHUB_SHA", "")
    if number is None and (found := re.fullmatch(r"refs/pull/(\d{1,10})/(?:merge|head)", env.get("GITHUB_REF", ""))):
        number = int(found[1])
    run, server = env.get("GITHUB_RUN_ID", ""), (env.get("GITHUB_SERVER_URL") or "https://github.com").rstrip("/")
    return Place(
        api,
        repository,
        number,
        commit if _COMMIT.fullmatch(commit) else None,
        f"{server}/{repository}/actions/runs/{run}" if run.isascii() and run.isdigit() else None,
    )


def repository_of(address: str, server: str) -> str | None:
    """OWNER/NAME of the address of a git remote; None where that is not on the host of ``server``."""
    found = _SCP.match(address) if "://" not in address else None
    host, path = (found[1].lower(), found[2]) if found else (host_of(address), None)
    if not host or host != host_of(server):
        return None
    return (urlsplit(address).path if path is None else path).strip("/").removesuffix(".git")


def host_of(address: str) -> str:
    """The host of a URL; empty where there is none."""
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        return ""


def is_commit(text: str) -> bool:
    """Whether ``text`` is a commit's whole hash."""
    return _COMMIT.fullmatch(text) is not None


class GitHub:
    """One repository. ``token`` None: GITHUB_TOKEN's. What fails raises RequestError; ``refused`` makes it final."""

    def __init__(self, where: Place, token: str | None = None, patience: Patience = PATIENCE) -> None:
        self._token = token if token is not None else os.environ.get("GITHUB_TOKEN", "")
        if not self._token or not self._token.isascii() or not self._token.isprintable() or " " in self._token:
            raise RemoteRefused("GITHUB_TOKEN: is not set, or no token", "give the step that posts a token, by its env")
        self.where = where
        self._base = f"{where.api}/repos/{where.repository}"
        self._patience = patience
        self._session = requests.Session()
        self._session.auth = http.Bearer(self._token)

    def login(self) -> str | None:
        """Whose token it is; None for the token of an app or a workflow, which may not ask."""
        try:
            return _text(self._ask("GET", f"{self.where.api}/user"), "login")
        except Forbidden:
            return None

    def read(self, path: str, *, many: bool = False) -> Any:
        """What lies at ``path`` below the API's address: an object, or a list where there are ``many``."""
        return self._ask("GET", f"{self.where.api}/{path}", many=many)

    def comments(self, number: int) -> Iterator[Comment]:
        """Every comment of a pull request, from all pages."""
        for at, each in enumerate(self._pages(f"issues/{number}/comments?", "comments"), 1):
            yield _comment(each, at)

    def pulls(self, state: Literal["open", "closed"], base: str, head: str | None = None) -> Iterator[Pull]:
        """The pull requests into ``base`` from branches of this repository, or from its branch ``head`` alone."""
        owner = self.where.repository.partition("/")[0]
        query = f"state={state}&base={quote(base)}" + (f"&head={quote(owner)}:{quote(head)}" if head else "")
        for each in self._pages(f"pulls?{query}&", "pull requests"):
            try:
                found = Pull.model_validate(each)
            except ValidationError as error:
                raise RequestError(f"answers with a pull request of another shape: {files.first(error)}") from None
            if found.home.lower() == self.where.repository.lower():
                yield found

    def _pages(self, path: str, called: str) -> Iterator[Any]:
        for page in range(1, _PAGES + 1):
            found = self._ask("GET", f"{self._base}/{path}per_page={_PAGE}&page={page}", many=True)
            yield from found
            if len(found) < _PAGE:
                return
        raise RequestError(f"lists more than {_PAGE * _PAGES:,} {called}")

    def create(self, number: int, body: str) -> Comment:
        """A new comment. It is not tried twice: whether the first try went through, the caller looks up."""
        made = self._once("POST", f"{self._base}/issues/{number}/comments", {"body": body})
        return _comment(made, 0)

    def update(self, comment: int, body: str) -> Comment:
        return _comment(self._ask("PATCH", f"{self._base}/issues/comments/{comment}", {"body": body}), 0)

    def open(self, title: str, head: str, base: str, body: str) -> str:
        """Open a pull request of the branch ``head`` into ``base``; its address. One that is open already is taken."""
        asked = {"title": title, "head": head, "base": base, "body": body}
        try:
            made = self._once("POST", f"{self._base}/pulls", asked)
        except RequestError as trouble:
            if trouble.status != 422:  # one is open, or it cannot be
                raise
            owner = self.where.repository.partition("/")[0]
            query = f"?state=open&head={quote(owner)}:{quote(head)}&base={quote(base)}"
            found = self._ask("GET", f"{self._base}/pulls{query}", many=True)
            if not found or not isinstance(found[0], dict):
                raise
            made = found[0]
        address = _text(made, "html_url")
        if not address.startswith(("https://", "http://")):
            raise RequestError("says nothing of the pull request that it took")
        return redact(address, 500)

    def edit(self, pull: int, title: str, body: str) -> None:
        """Replace title and text of a pull request."""
        self._ask("PATCH", f"{self._base}/pulls/{pull}", {"title": title, "body": body})

    def check(self, name: str, commit: str, conclusion: Conclusion, title: str, summary: str) -> str:
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
        return _text(self._ask("POST", f"{self._base}/check-runs", asked), "html_url")

    def status(self, name: str, commit: str, conclusion: Conclusion, description: str) -> str:
        """Put a commit status in a check's place."""
        asked: dict[str, Any] = {"state": conclusion, "context": name, "description": description[:140]}
        if self.where.run:
            asked["target_url"] = self.where.run
        return _text(self._ask("POST", f"{self._base}/statuses/{commit}", asked), "url")

    def tries(self) -> Tries:
        return Tries(self._patience)

    def _ask(self, method: str, url: str, value: Mapping[str, Any] | None = None, many: bool = False) -> Any:
        """The answer, tried again while that makes sense: what is asked here may be asked twice."""
        return self.tries().until_answered(lambda: self._once(method, url, value, many))

    def _once(self, method: str, url: str, value: Mapping[str, Any] | None = None, many: bool = False) -> Any:
        headers = {"Accept": "application/vnd.github+json", "X-GitHub-Api-Version": "2022-11-28"}
        try:
            with self._session.request(
                method, url, json=value, headers=headers, timeout=_TIMES, allow_redirects=False, stream=True
            ) as response:
                data, status, told = http.body(response, _LARGEST), response.status_code, response.headers
        except http.TooLarge as error:
            raise RequestError(str(error)) from None
        except (requests.RequestException, OSError, ValueError) as error:
            raise RequestError(f"cannot be reached: {http.reason(error, _TIMES)}", temporary=True) from None
        answer = _read(data)
        if status in (200, 201) and isinstance(answer, list if many else dict):
            return answer
        said = _said(answer)
        path = urlsplit(url).path
        what = redact(f"{method} {path}: {status} {said}".rstrip().replace(self._token, "…"), 300)
        if status in (200, 201):
            raise RequestError(f"{what}: answers with something else than a JSON {'list' if many else 'object'}")
        wait = _wait(told, status)
        if status == 429 or (status == 403 and wait is not None):
            raise RequestError(f"{what}: rate limit", temporary=True, status=status, wait=wait)
        if status in (401, 403):
            raise Forbidden(what, status=status, todo="give the token what docs/reference/comment.md says it needs")
        raise RequestError(what, temporary=status in TEMPORARY, status=status, wait=wait)


def refused(where: Place, trouble: RequestError) -> RemoteRefused:
    """What ``trouble`` ends in."""
    host = urlsplit(where.api).netloc
    todo = trouble.todo or ("run it again in a while" if trouble.temporary else "fix that, then run it again")
    return RemoteRefused(f"GitHub at {host}: {trouble.what}", todo)


def _event(path: str | None) -> _Event:
    """The event that started the workflow; an empty one where no file is named. Raises RemoteRefused for no event."""
    try:
        return _Event.model_validate_json(Path(path).read_bytes() if path else b"{}")
    except (OSError, ValidationError) as error:
        raise RemoteRefused("GITHUB_EVENT_PATH: names no event", "unset it, or name the event's file") from error


def _comment(value: Any, at: int) -> Comment:
    try:
        return Comment.model_validate(value).model_copy(update={"place": at})
    except ValidationError as error:
        raise RequestError(f"answers with a comment of another shape: {files.first(error)}") from None


def _said(answer: Any) -> str:
    """What GitHub says of an error, and of each part of it."""
    if not isinstance(answer, dict):
        return ""
    errors = answer.get("errors")
    more = (
        [str(one.get("message") or "") for one in errors if isinstance(one, dict)] if isinstance(errors, list) else []
    )
    return " ".join([str(answer.get("message") or ""), *more]).strip()


def _wait(headers: Mapping[str, str], status: int) -> float | None:
    """Seconds until the rate limit is over; None where there is none."""
    asked = retry_after(headers.get("Retry-After"))
    if asked is not None:
        return asked
    reset = headers.get("X-RateLimit-Reset", "")
    if status in (403, 429) and headers.get("X-RateLimit-Remaining") == "0" and reset.isascii() and reset.isdigit():
        return max(0.0, float(reset[:12]) - time.time())
    return None


def _read(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _text(value: Mapping[str, Any], key: str) -> str:
    found = value.get(key)
    return found if isinstance(found, str) else ""
