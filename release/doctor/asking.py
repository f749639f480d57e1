"""Asking GitHub for settings: an answer is seen whole, or said not to be seen, with the permission that would show it.

Nothing that GitHub answers is believed to have a shape, no request lasts longer than ``DEADLINE``, and after one that
found nobody no more are made.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any
from urllib.parse import quote

from checks.text import redact
from release.adapters.github import Forbidden, GitHub
from release.adapters.retries import Patience, Trouble
from release.doctor.check import Check, Line

DEADLINE = 20.0  # seconds for one request, its second try included
PATIENCE = Patience(tries=2, first=0.3, longest=1.0, on_request=2.0)
_PAGE, _PAGES = 30, 20  # GitHub gives at most 30 variables at once
_SHOWN = 80  # characters of a name that GitHub gives


class Unseen(Exception):  # noqa: N818 - not to be shown something is no error
    """Something could not be seen. ``why`` and ``todo`` are for a reader; ``absent``: GitHub says that it is not there.

    GitHub says the same of what the token may not see, so ``absent`` alone proves nothing.
    """

    def __init__(self, why: str, todo: str, *, absent: bool = False, said: str = "") -> None:
        super().__init__(why)
        self.why = why
        self.todo = todo
        self.absent = absent
        self.said = said


class Asker:
    """One repository's settings, each asked for once. Paths are below ``repos/OWNER/NAME`` unless they begin with /."""

    def __init__(self, client: GitHub, deadline: float = DEADLINE) -> None:
        self._client = client
        self._deadline = deadline
        self._gone: str | None = None
        self._known: dict[str, Any] = {}
        self.repository = client.where.repository

    def one(self, path: str, permission: str) -> dict[str, Any]:
        """An object. Raises Unseen; ``permission`` is what a token needs to be shown it."""
        found: dict[str, Any] = self._read(path, permission, many=False)
        return found

    def every(self, path: str, key: str, permission: str) -> list[dict[str, Any]]:
        """All objects of a list that GitHub counts, from all pages. Raises Unseen when fewer come than it counts."""
        found: list[dict[str, Any]] = []
        for page in range(1, _PAGES + 1):
            answer = self.one(f"{path}?per_page={_PAGE}&page={page}", permission)
            total, here = answer.get("total_count"), items(answer, key)
            found += here
            if not isinstance(total, int) or isinstance(total, bool):
                raise odd(path)
            if len(found) >= total:
                return found
            if not here:
                break
        raise Unseen(f"{path}: not all of it is shown", f"give the token {permission}")

    def listed(self, path: str, permission: str) -> list[dict[str, Any]]:
        """All objects of a list without a count, from all pages."""
        found: list[dict[str, Any]] = []
        for page in range(1, _PAGES + 1):
            here = self._read(f"{path}?per_page=100&page={page}", permission, many=True)
            if not all(isinstance(each, dict) for each in here):
                raise odd(path)
            found += here
            if len(here) < 100:
                return found
        raise Unseen(f"{path}: has no end", "look at it in the repository's settings")

    def _read(self, path: str, permission: str, *, many: bool) -> Any:
        if path not in self._known:
            try:
                self._known[path] = self._asked(path, permission, many=many)
            except Unseen as unseen:
                self._known[path] = unseen
        if isinstance(found := self._known[path], Unseen):
            raise found
        return found

    def _asked(self, path: str, permission: str, *, many: bool) -> Any:
        if self._gone is not None:
            raise Unseen(self._gone, "run it again in a while")
        below = path[1:] if path.startswith("/") else f"repos/{self.repository}/{path}".rstrip("/")
        try:
            return _within(self._deadline, lambda: self._client.read(below, many=many))
        except TimeoutError:
            self._gone = f"GitHub does not answer within {self._deadline:g} s"
            raise Unseen(self._gone, "run it again in a while") from None
        except Trouble as trouble:
            raise self._unseen(trouble, permission) from None

    def _unseen(self, trouble: Trouble, permission: str) -> Unseen:
        if trouble.status == 401:
            self._gone = "GitHub does not know the token"
            return Unseen(self._gone, "gh auth login, or a new GITHUB_TOKEN")
        if isinstance(trouble, Forbidden) or trouble.status == 404:
            absent = trouble.status == 404
            return Unseen(f"needs a token with {permission}", _token(permission), absent=absent, said=trouble.what)
        if trouble.status is None and trouble.temporary:
            self._gone = f"GitHub {trouble.what}"
        return Unseen(f"GitHub: {trouble.what}", "run it again in a while")


def _token(permission: str) -> str:
    return f"ask as an administrator (gh auth login), or GITHUB_TOKEN=… of a fine-grained token with {permission}"


def odd(path: str) -> Unseen:
    """An answer that is not as GitHub documents it."""
    return Unseen(f"{path.partition('?')[0]}: the answer has another shape than GitHub's", "check GITHUB_API_URL")


def items(answer: dict[str, Any], key: str) -> list[dict[str, Any]]:
    """The list of objects at ``key``. Raises Unseen when it is none."""
    found = answer.get(key)
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise odd(key)
    return found


def flag(answer: dict[str, Any], key: str) -> bool:
    """The truth value at ``key``. Raises Unseen when it is none."""
    found = answer.get(key)
    if not isinstance(found, bool):
        raise odd(key)
    return found


def word(answer: dict[str, Any], key: str) -> str:
    """The text at ``key``. Raises Unseen when it is none."""
    found = answer.get(key)
    if not isinstance(found, str):
        raise odd(key)
    return found


def part(answer: dict[str, Any], key: str) -> dict[str, Any]:
    """The object at ``key``, empty where there is none. Raises Unseen when it is something else."""
    found = answer.get(key)
    if found is not None and not isinstance(found, dict):
        raise odd(key)
    return found or {}


def shown(name: str) -> str:
    """A name that GitHub gave, on one short printable line."""
    return redact(name, _SHOWN)


def segment(name: str) -> str:
    """A name as one part of a path."""
    return quote(name, safe="")


def seen(line: Line, look: Callable[[Line], Check]) -> Check:
    """What ``look`` finds; unknown where GitHub does not show it."""
    try:
        return look(line)
    except Unseen as unseen:
        return line.unknown(unseen.why, unseen.todo)


def _within(seconds: float, call: Callable[[], Any]) -> Any:
    """What ``call`` gives or raises. Raises TimeoutError after ``seconds``: a trickle of bytes ends no read timeout."""
    answer: Future[Any] = Future()

    def run() -> None:
        try:
            answer.set_result(call())
        except BaseException as error:  # noqa: BLE001 - handed to whoever waits
            answer.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return answer.result(seconds)
