"""Decides whether a failed request is worth another try, and how long to wait before.

`urllib3.util.Retry` is not the policy: it does not see a body that breaks off, a token that was renewed or a download
that went on, and it shortens a wait of hours instead of giving up. It reads the header Retry-After.
"""

import random
import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar

TEMPORARY = frozenset({408, 425, 429, 500, 502, 503, 504})


T = TypeVar("T")


class RequestError(Exception):
    """One request that failed. ``what`` is fit for a reader: short, printable and free of secrets.

    ``status`` and ``code`` are the registry's; ``wait`` the seconds that it asked for; ``todo`` the remedy where the
    kind of trouble has one of its own.
    """

    def __init__(
        self,
        what: str,
        *,
        temporary: bool = False,
        status: int | None = None,
        code: str = "",
        wait: float | None = None,
        todo: str = "",
    ) -> None:
        super().__init__(what)
        self.what = what
        self.temporary = temporary
        self.status = status
        self.code = code
        self.wait = wait
        self.todo = todo


class Patience(NamedTuple):
    """Tries without progress, tries in all, and seconds: the first wait, the longest, the longest on request."""

    tries: int = 7
    in_all: int = 50
    first: float = 0.5
    longest: float = 30.0
    on_request: float = 120.0


class Tries:
    """Failures of one operation: waits between them with exponential backoff and jitter, and gives up in the end."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._in_a_row = 0
        self._in_all = 0

    def failed(self, trouble: RequestError) -> None:
        """Wait for the next try. Raises ``trouble`` when there is to be none."""
        patience = self._patience
        self._in_a_row += 1
        self._in_all += 1
        asked = trouble.wait or 0.0
        over = self._in_a_row >= patience.tries or self._in_all >= patience.in_all
        if not trouble.temporary or over or asked > patience.on_request:
            raise trouble
        backoff = min(patience.longest, patience.first * 2 ** (self._in_a_row - 1))
        time.sleep(asked + backoff * random.uniform(0.5, 1))  # noqa: S311 - jitter

    def until_answered(self, ask: Callable[[], T]) -> T:
        """The answer of ``ask``, which may be asked again. Raises RequestError as ``failed``."""
        while True:
            try:
                return ask()
            except RequestError as trouble:
                self.failed(trouble)

    def progressed(self) -> None:
        """Something was done that never has to be done again."""
        self._in_a_row = 0


def retry_after(value: str | None) -> float | None:
    """Seconds of a Retry-After header (a number or a date, RFC 9110 §10.2.3); None when it says nothing."""
    from urllib3.exceptions import InvalidHeader
    from urllib3.util import Retry

    try:
        return float(Retry().parse_retry_after(value or ""))
    except (InvalidHeader, ValueError, IndexError, OverflowError):
        return None
