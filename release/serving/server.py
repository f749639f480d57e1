"""What `lockstep verify` needs of a running server, however it was started."""

from typing import Literal, NamedTuple, Protocol


class Ended(NamedTuple):
    """How a server ended: its exit code, and the seconds from SIGTERM to the end."""

    code: int
    seconds: float


class Server(Protocol):
    """One server of one model. ``url`` has no path and no final slash; ``model`` is the folder it serves from.

    ``isolated``: it was started without a way out (None: not known). ``sealed``: on a root file system that cannot be
    written (None: not known).
    """

    url: str
    model: str
    how: Literal["container", "process", "url"]
    isolated: bool | None
    sealed: bool | None

    def gone(self) -> str | None:
        """None while it runs; else its exit code and the last lines of its log."""
        ...

    def log(self, lines: int = 40) -> str:
        """The last lines of its log; empty where it has none that can be read."""
        ...

    def terminate(self, deadline: float) -> Ended | None:
        """SIGTERM, then wait. None when it still ran after ``deadline`` seconds, or cannot be ended from here."""
        ...

    def close(self) -> None:
        """End it now and leave nothing: no container, network, process or folder. May be called twice."""
        ...
