"""Reads the settings of one repository from GitHub's REST API. An incomplete answer makes a setting unknown.

Each path is requested once. A request has the time limit ``DEADLINE``; after one without an answer no more are made.
"""

import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

from pydantic import TypeAdapter, ValidationError

from checks.process.errors import RemoteRefused
from checks.process.text import redact
from release.adapters import github
from release.adapters.deadline import within
from release.adapters.git import Git
from release.adapters.retries import Patience, RequestError
from release.doctor.check import Unseen
from release.doctor.machine import ask

DEADLINE = 20.0  # Seconds for one request, its second try included.
_PATIENCE = Patience(tries=2, first=0.3, longest=1.0, on_request=2.0)
_PAGE, _PAGES = 30, 20  # GitHub gives at most 30 variables at once.
_LATER = "run it again in a while"
T = TypeVar("T")


class Session:
    """One repository's settings, as far as the token may read them."""

    def __init__(self, place: github.Place, token: str, deadline: float = DEADLINE) -> None:
        self._client = github.GitHub(place, token, _PATIENCE)
        self._deadline = deadline
        self._answers: dict[str, Any] = {}
        self._stopped: Unseen | None = None  # Why no more requests are made.
        self.repository = place.repository

    def one(self, path: str, permission: str, *keys: str) -> dict[str, Any]:
        """Return the object at ``path``, below the repository or from / on. Raises Unseen if it lacks one of ``keys``.

        ``permission``: what a token needs to read it.
        """
        answer: dict[str, Any] = self._read(path, permission, many=False)
        if any(key not in answer for key in keys):
            raise odd(path)
        return answer

    def every(self, path: str, permission: str, key: str = "") -> list[dict[str, Any]]:
        """Return all objects of the list at ``path``, from all pages. Raises Unseen if some are hidden.

        ``key``: the key of the list in a counted answer; empty for a list without a count.
        """
        items: list[dict[str, Any]] = []
        for page in range(1, _PAGES + 1):
            answer = self._read(f"{path}?per_page={_PAGE}&page={page}", permission, many=not key)
            listed, total = (answer.get(key), answer.get("total_count")) if key else (answer, None)
            items += parsed(list[dict[str, Any]], listed, path)
            if len(items) >= parsed(int, total, path) if key else len(listed) < _PAGE:
                return items
            if not listed:
                break
        raise Unseen(f"{path}: not all of it is shown", f"give the token {permission}")

    def names(self, path: str, permission: str, key: str) -> dict[str, str]:
        """Return the names in a counted list, in capitals as GitHub compares them, with their values."""
        items = self.every(path, permission, key)
        return {str(item.get("name", "")).upper(): str(item.get("value", "")) for item in items}

    def _read(self, path: str, permission: str, *, many: bool) -> Any:
        if path not in self._answers and self._stopped is None:
            below = (
                path[1:] if path.startswith("/") else f"repos/{self.repository}/{path}".rstrip("/")
            )
            asked = partial(self._client.ask, "GET", below, many=many)
            try:
                self._answers[path] = within(self._deadline, asked)
            except TimeoutError:
                self._stopped = Unseen(
                    f"GitHub does not answer within {self._deadline:g} s", _LATER
                )
            except RequestError as error:
                self._answers[path] = self._unseen(error, permission)
        answer = self._answers.get(path, self._stopped)
        if isinstance(answer, Unseen):
            raise answer
        return answer

    def _unseen(self, error: RequestError, permission: str) -> Unseen:
        if error.status == 401:
            self._stopped = Unseen(
                "GitHub does not know the token", "gh auth login, or a new GITHUB_TOKEN"
            )
        elif error.status is None and error.temporary:
            self._stopped = Unseen(f"GitHub {error.what}", _LATER)
        elif isinstance(error, github.Forbidden) or error.status == 404:
            return hidden(permission)
        return self._stopped or Unseen(f"GitHub: {error.what}", _LATER)


def parsed(kind: type[T], value: object, path: str) -> T:
    """Return ``value`` as a ``kind``. Raises Unseen if the answer differs from GitHub's documentation."""
    try:
        return TypeAdapter(kind).validate_python(value, strict=True)
    except ValidationError:
        raise odd(path) from None


def odd(path: str) -> Unseen:
    """Return the finding for an answer that differs from GitHub's documentation."""
    return Unseen(
        f"{path or 'repository'}: the answer has another shape than GitHub's",
        "check GITHUB_API_URL",
    )


def hidden(permission: str) -> Unseen:
    """Return the finding for a setting that a token without ``permission`` cannot read."""
    return Unseen(
        f"needs a token with {permission}",
        f"ask as an administrator (gh auth login), or GITHUB_TOKEN=… of a fine-grained token with {permission}",
    )


def quoted(name: object) -> str:
    """Return a name as one part of a path."""
    return quote(str(name), safe="")


def shown(name: object) -> str:
    """Return a name from GitHub on one short printable line."""
    return redact(str(name), 80)


def place(root: Path) -> github.Place:
    """Return GITHUB_REPOSITORY, else the remote origin. Raises RemoteRefused if neither is on GitHub."""
    env = {name: os.environ.get(name, "") for name in ("GITHUB_API_URL", "GITHUB_SERVER_URL")}
    done = Git(root, DEADLINE).run("remote", "get-url", "--", "origin")
    address = done.out.decode(errors="replace").rstrip("\n") if done.code == 0 else ""
    name = github.repository_here(address)
    if name is None:
        what = (
            "the remote origin is on another host than GITHUB_SERVER_URL"
            if address
            else "there is no remote origin"
        )
        raise RemoteRefused(
            what,
            "gh repo create, or set GITHUB_REPOSITORY to OWNER/NAME (on a server of your own GITHUB_SERVER_URL too)",
        )
    return github.place({**env, "GITHUB_REPOSITORY": name})


def on_github_com(place: github.Place) -> bool:
    """Tell whether it is github.com: an enterprise server has another issuer of identities."""
    server = os.environ.get("GITHUB_SERVER_URL") or github.SERVER
    return github.host_of(server) == "github.com" and not urlsplit(place.api).path


def token(place: github.Place) -> str | None:
    """Return GITHUB_TOKEN, else the token that gh has for this host; None if there is none."""
    if (given := os.environ.get("GITHUB_TOKEN")) or not shutil.which("gh"):
        return given or None
    return (
        ask(
            ["gh", "auth", "token", "--hostname", github.host_of(place.api).removeprefix("api.")],
            10,
        )
        or None
    )
