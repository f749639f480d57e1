"""A server that runs already, somewhere: it is asked, and never ended."""

from typing import Literal
from urllib.parse import urlsplit

from checks.errors import ServingRefused
from release.serving.server import Ended


class Running:
    """A Server that was not started here; see ``release.serving.server``."""

    how: Literal["url"] = "url"
    isolated: bool | None = None
    sealed: bool | None = None

    def __init__(self, url: str, model: str) -> None:
        self.url, self.model = url, model

    def gone(self) -> str | None:
        """Not known from here: it is taken to run."""
        return None

    def log(self) -> bytes:
        """None that can be read from here."""
        return b""

    def terminate(self, deadline: float) -> Ended | None:  # noqa: ARG002 - the protocol's
        """It is not ours to end."""
        return None

    def close(self) -> None:
        """Leaves it as it is."""


def attach(url: str, model: str) -> Running:
    """The server at ``url`` (http or https; a path is kept), which serves ``model``, the folder as it sees it.

    Raises ServingRefused when the URL is none, or holds a password: it would end up in reports.
    """
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        valid = False
    if not valid or parts.query or parts.fragment:
        raise ServingRefused(f"{url!r:.200}: is no address of a server", "write it as http://HOST:PORT")
    if "@" in parts.netloc:
        raise ServingRefused(f"{parts.scheme}://…@{parts.hostname}: holds a password", "write it without one")
    return Running(url.rstrip("/"), model)
