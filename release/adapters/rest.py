"""JSON requests with a token to the REST API of a forge: GitHub or GitLab.

The token goes into one header and nowhere else. Redirects are not followed.
"""

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar
from urllib.parse import urlsplit

import requests
from pydantic import AliasChoices, AliasPath, BaseModel, Field, ValidationError

from checks.process.errors import RemoteRefused
from checks.process.text import redact
from checks.storage import files
from release.adapters import http
from release.adapters.retries import Patience, RequestError, Tries

PATIENCE = Patience(tries=5, first=1.0, longest=20.0, on_request=90.0)
_TIMES = (10, 60)  # seconds to connect, and between two reads
_LARGEST = 64 << 20  # bytes of one answer
_PAGE, _PAGES = 100, 100


class Comment(BaseModel, frozen=True):
    """A comment of the merge request ``request``; of a pull request, which needs no number, it is 0.

    ``author`` is empty when the account is gone.
    """

    id: int
    author: http.Text = Field(
        "",
        validation_alias=AliasChoices(AliasPath("user", "login"), AliasPath("author", "username")),
    )
    body: http.Text = ""
    url: http.Text = Field("", validation_alias="html_url")
    request: int = 0


def shaped(kind: type[http.M], answer: Any, called: str) -> http.M:
    """Return an answer as a ``kind``. Raises RequestError if it is another thing than ``called``."""
    try:
        return kind.model_validate(answer)
    except ValidationError as error:
        raise RequestError(
            f"answers with a {called} of another shape: {files.first(error)}"
        ) from None


class Forge:
    """A client of one forge. What fails raises RequestError; ``refused`` makes it final."""

    name: ClassVar[str]
    variable: ClassVar[str]
    unset_fix: ClassVar[str]
    headers: ClassVar[Mapping[str, str]] = {}

    def __init__(self, api: str, token: str | None, patience: Patience) -> None:
        """Without ``token``, the variable ``variable`` has it. Raises RemoteRefused if that has no token."""
        self._token = token if token is not None else os.environ.get(self.variable, "")
        if (
            not self._token
            or not self._token.isascii()
            or not self._token.isprintable()
            or " " in self._token
        ):
            raise RemoteRefused(f"{self.variable}: is not set, or no token", self.unset_fix)
        self._api = api
        self._patience = patience
        self._session = requests.Session()
        self._session.auth = http.Bearer(self._token)

    def tries(self) -> Tries:
        return Tries(self._patience)

    def said(self, answer: Any) -> str:
        """Return what the forge says of an error, in its words."""
        raise NotImplementedError

    def failed(self, what: str, status: int, headers: Mapping[str, str]) -> RequestError:
        """The error for an answer that is no success: whether and when another try may help, or what to do."""
        raise NotImplementedError

    def ask(
        self, method: str, path: str, value: Mapping[str, Any] | None = None, many: bool = False
    ) -> Any:
        """The answer to a request that may be sent twice: it is tried again while that may help."""
        return self.tries().until_answered(lambda: self.once(method, path, value, many))

    def pages(self, path: str, called: str) -> Iterator[Any]:
        """Yield what a list holds, from all its pages. ``path`` has a query."""
        for page in range(1, _PAGES + 1):
            values = self.ask("GET", f"{path}&per_page={_PAGE}&page={page}", many=True)
            yield from values
            if len(values) < _PAGE:
                return
        raise RequestError(f"lists more than {_PAGE * _PAGES:,} {called}")

    def once(
        self, method: str, path: str, value: Mapping[str, Any] | None = None, many: bool = False
    ) -> Any:
        """The answer to one request, sent once: an object, or a list if ``many``."""
        url = f"{self._api}/{path}"
        try:
            with self._session.request(
                method,
                url,
                json=value,
                headers=self.headers,
                timeout=_TIMES,
                allow_redirects=False,
                stream=True,
            ) as response:
                data = http.body(response, _LARGEST)
        except http.TooLarge as error:
            raise RequestError(str(error)) from None
        except (requests.RequestException, OSError, ValueError) as error:
            raise RequestError(
                f"cannot be reached: {http.reason(error, _TIMES)}", temporary=True
            ) from None
        answer = _read(data)
        status = response.status_code
        if status in (200, 201) and isinstance(answer, list if many else dict):
            return answer
        message = f"{method} {urlsplit(url).path}: {status} {self.said(answer)}".rstrip()
        what = redact(message.replace(self._token, "…"), 300)
        if status in (200, 201):
            raise RequestError(
                f"{what}: answers with something else than a JSON {'list' if many else 'object'}"
            )
        raise self.failed(what, status, response.headers)

    def refused(self, trouble: RequestError) -> RemoteRefused:
        """The refusal for ``trouble``."""
        return RemoteRefused(
            f"{self.name} at {urlsplit(self._api).netloc}: {trouble.what}",
            (
                trouble.todo
                or (
                    "run it again in a while"
                    if trouble.temporary
                    else "fix that, then run it again"
                )
            ),
        )


def _read(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None
