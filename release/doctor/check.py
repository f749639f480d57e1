"""What a look at one thing comes to: a line for a person, with the command that mends it."""

from typing import Literal, NamedTuple

Status = Literal["ok", "missing", "optional", "unknown"]


class Check(NamedTuple):
    """One finding. ``missing``: what needs it cannot run, or is not safe; ``optional``: only some verbs need it.

    ``unknown``: it could not be seen, which is never ``ok``.
    """

    name: str
    status: Status
    found: str
    needed_by: tuple[str, ...]
    mend: str = ""


class Line(NamedTuple):
    """A check that has a name, and no finding yet."""

    name: str
    needed_by: tuple[str, ...]

    def ok(self, found: str) -> Check:
        return Check(self.name, "ok", found, self.needed_by)

    def missing(self, found: str, mend: str) -> Check:
        return Check(self.name, "missing", found, self.needed_by, mend)

    def unknown(self, found: str, mend: str) -> Check:
        return Check(self.name, "unknown", found, self.needed_by, mend)
