"""Reads the settings of one repository from GitHub's REST API. An incomplete answer makes a setting unknown.

Each path is requested once. A request has the time limit ``DEADLINE``; after one without an answer no more are made.
"""

import functools
import os
import shutil
from multiprocessing import TimeoutError as PoolTimeoutError
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar, cast
from urllib.parse import quote, urlsplit

from pydantic import BaseModel, TypeAdapter, ValidationError

from checks.errors import RemoteRefused
from checks.text import redact
from release.adapters import github
from release.adapters.git import Git
from release.adapters.github import Forbidden, GitHub, Place
from release.adapters.retries import Patience, RequestError
from release.doctor.check import Unseen
from release.doctor.command import ask

DEADLINE = 20.0  # seconds for one request, its second try included
_PATIENCE = Patience(tries=2, first=0.3, longest=1.0, on_request=2.0)
_PAGE, _PAGES = 30, 20  # GitHub gives at most 30 variables at once
_SERVER = "https://github.com"
_LATER = "run it again in a while"
T = TypeVar("T")
Model = TypeVar("Model", bound=BaseModel)


class Endpoint(NamedTuple, Generic[Model]):
    """``path``: below ``repos/OWNER/NAME``, or from / on. ``permission``: what a token needs to read it.

    ``key``: the key of the list in a counted answer; empty for a list without a count.
    """

    path: str
    model: type[Model]
    permission: str
    key: str = ""


class Session:
    """One repository's settings, as far as the token may read them."""

    def __init__(self, where: Place, token: str, deadline: float = DEADLINE) -> None:
        self._client = GitHub(where, token, _PATIENCE)
        self._deadline = deadline
        self._pool = ThreadPool(1)  # a slow trickle of bytes never ends a read timeout, so the caller's wait must end
        self._known: dict[str, Any] = {}
        self._gone: Unseen | None = None  # why no more requests are made
        self.repository = where.repository

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.terminate()

    def one(self, endpoint: Endpoint[Model], *names: object) -> Model:
        """The object at ``endpoint``, with ``names`` in its path. Raises Unseen."""
        path = _filled(endpoint.path, names)
        return parsed(endpoint.model, self._read(path, endpoint.permission, many=False), path)

    def every(self, endpoint: Endpoint[Model], *names: object) -> list[Model]:
        """All objects of the list at ``endpoint``, from all pages. Raises Unseen if some are hidden."""
        path, key = _filled(endpoint.path, names), endpoint.key
        found: list[Model] = []
        for page in range(1, _PAGES + 1):
            answer = self._read(f"{path}?per_page={_PAGE}&page={page}", endpoint.permission, many=not key)
            here = parsed(list[Any], answer.get(key) if key else answer, path)
            found += [parsed(endpoint.model, each, path) for each in here]
            whole = len(found) >= parsed(int, answer.get("total_count"), path) if key else len(here) < _PAGE
            if whole:
                return found
            if not here:
                break
        raise Unseen(f"{path}: not all of it is shown", f"give the token {endpoint.permission}")

    def _read(self, path: str, permission: str, *, many: bool) -> Any:
        if path not in self._known and self._gone is None:
            below = path[1:] if path.startswith("/") else f"repos/{self.repository}/{path}".rstrip("/")
            try:
                answer = self._pool.apply_async(self._client.read, (below,), {"many": many})
                self._known[path] = answer.get(self._deadline)
            except PoolTimeoutError:
                self._gone = Unseen(f"GitHub does not answer within {self._deadline:g} s", _LATER)
            except RequestError as trouble:
                self._known[path] = self._unseen(trouble, permission)
        found = self._known.get(path, self._gone)
        if isinstance(found, Unseen):
            raise found
        return found

    def _unseen(self, trouble: RequestError, permission: str) -> Unseen:
        if trouble.status == 401:
            self._gone = Unseen("GitHub does not know the token", "gh auth login, or a new GITHUB_TOKEN")
        elif trouble.status is None and trouble.temporary:
            self._gone = Unseen(f"GitHub {trouble.what}", _LATER)
        elif isinstance(trouble, Forbidden) or trouble.status == 404:
            return Unseen(*needs(permission), said=trouble.what)
        return self._gone or Unseen(f"GitHub: {trouble.what}", _LATER)


@functools.cache
def _adapter(kind: type) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def parsed(kind: type[T], value: object, path: str) -> T:
    """``value`` as a ``kind``. Raises Unseen if the answer differs from GitHub's documentation."""
    try:
        return cast(T, _adapter(cast(Any, kind)).validate_python(value, strict=True))
    except ValidationError:
        raise odd(path) from None


def odd(path: str) -> Unseen:
    return Unseen(f"{path or 'repository'}: the answer has another shape than GitHub's", "check GITHUB_API_URL")


def needs(permission: str) -> tuple[str, str]:
    """Why a token without ``permission`` cannot read a setting, and what to do."""
    fix = f"ask as an administrator (gh auth login), or GITHUB_TOKEN=… of a fine-grained token with {permission}"
    return f"needs a token with {permission}", fix


def shown(name: object) -> str:
    """A name from GitHub on one short printable line."""
    return redact(str(name), 80)


def place(root: Path) -> Place:
    """GITHUB_REPOSITORY, else the remote origin. Raises RemoteRefused if neither is on GitHub."""
    env = {name: os.environ.get(name, "") for name in ("GITHUB_API_URL", "GITHUB_SERVER_URL")}
    name = os.environ.get("GITHUB_REPOSITORY")
    if not name:
        said = Git(root, DEADLINE).run("remote", "get-url", "--", "origin")
        address = said.out.decode(errors="replace").rstrip("\n") if said.code == 0 else ""
        name = github.repository_of(address, env["GITHUB_SERVER_URL"] or _SERVER)
    if name is None:
        what = "the remote origin is on another host than GITHUB_SERVER_URL" if address else "there is no remote origin"
        todo = "gh repo create, or set GITHUB_REPOSITORY to OWNER/NAME (on a server of your own GITHUB_SERVER_URL too)"
        raise RemoteRefused(what, todo)
    return github.place({**env, "GITHUB_REPOSITORY": name})


def on_github_com(where: Place) -> bool:
    """Whether it is github.com: an enterprise server has other app numbers and another issuer."""
    server = os.environ.get("GITHUB_SERVER_URL") or _SERVER
    return github.host_of(server) == "github.com" and not urlsplit(where.api).path


def token(where: Place) -> str | None:
    """GITHUB_TOKEN, else the token that gh has for this host; None if there is none."""
    if (given := os.environ.get("GITHUB_TOKEN")) or not shutil.which("gh"):
        return given or None
    return ask(["gh", "auth", "token", "--hostname", github.host_of(where.api).removeprefix("api.")], 10) or None


def _filled(path: str, names: tuple[object, ...]) -> str:
    return path.format(*(quote(str(name), safe="") for name in names))
