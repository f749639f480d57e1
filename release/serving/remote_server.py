"""A server that is already running elsewhere. It gets requests and is never stopped."""

from typing import Literal
from urllib.parse import urlsplit

from checks.process.errors import ServingRefused
from release.serving.server import Ended


class Running:
    """A Server that was not started here; see ``release.serving.server``."""

    how: Literal["url"] = "url"
    isolated: bool | None = None
    sealed: bool | None = None

    def __init__(self, url: str, model: str) -> None:
        self.url, self.model = url, model

    def gone(self) -> str | None:
        """Always None: its state is unknown."""
        return None

    def log(self) -> bytes:
        """Always empty: its log cannot be read from here."""
        return b""

    def terminate(self, deadline: float) -> Ended | None:
        """Always None: it is not stopped from here."""
        return None

    def close(self) -> None:
        """Does nothing."""


def attach(url: str, model: str) -> Running:
    """The server at ``url`` (http or https; a path is kept) that serves ``model``, the folder as it sees it.

    Raises ServingRefused if the URL is invalid or contains a password, which would end up in reports.
    """
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        valid = False
    if not valid or parts.query or parts.fragment:
        raise ServingRefused(
            f"{url!r:.200}: is not an address of a server", "write it as http://HOST:PORT"
        )
    if "@" in parts.netloc:
        raise ServingRefused(
            f"{parts.scheme}://…@{parts.hostname}: holds a password", "write it without one"
        )
    return Running(url.rstrip("/"), model)
