"""The repository that the tables of ``doctor --github`` check, with answers that several rows need."""

from pathlib import Path
from typing import NamedTuple

from checks.errors import BuildRefused, EvidenceRefused
from release.adapters import commits
from release.adapters.registry import reference
from release.doctor import answers
from release.doctor.answers import Environment, Named, Repository
from release.doctor.github import Endpoint, Session

IMAGE = "LOCKSTEP_IMAGE"


class Target:
    """The files of the target branch in this clone; those of the folder if git has no commit yet.

    ``name`` is the branch's. Raises Refusal if git does not know which branch it is.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.name, self._commit = commits.target(root) if commits.has_repository(root) else ("this folder", None)

    def read(self, path: Path) -> bytes | None:
        """A file's bytes; None if there is none. Raises Refusal for anything but a regular file."""
        if self._commit is not None:
            return commits.read(self.root, self._commit, path)
        file = self.root / path
        try:
            return file.read_bytes() if file.is_file() else None
        except OSError as error:
            raise EvidenceRefused(f"{path}: {error.strerror or error}", "make it readable") from error


class Case(NamedTuple):
    """The repository. ``public``: it is on github.com."""

    github: Session
    about: Repository
    target: Target
    public: bool

    @property
    def branch(self) -> str:
        return self.about.default_branch

    @property
    def owner(self) -> str:
        return self.github.repository.partition("/")[0]

    def secrets(self, name: str) -> set[str]:
        """The repository's own secrets, and those that its organization shares, if ``name`` may be one of them."""
        return set(self._named(answers.SECRETS, answers.SHARED_SECRETS, name))

    def variable(self, name: str) -> str:
        return self._named(answers.VARIABLES, answers.SHARED_VARIABLES, name).get(name, "")

    def _named(self, own: Endpoint[Named], shared: Endpoint[Named], name: str) -> dict[str, str]:
        found: dict[str, str] = {}
        for endpoint in (own, shared) if self.about.owner == "Organization" else (own,):
            if name not in found:
                found = {each.name.upper(): each.value for each in self.github.every(endpoint)} | found
        return found

    def environments(self) -> dict[str, Environment]:
        return {each.name.lower(): each for each in self.github.every(answers.ENVIRONMENTS)}

    def secrets_of(self, environment: str) -> set[str]:
        """The secrets of one environment; empty if there is no such environment."""
        if environment not in self.environments():
            return set()
        return {each.name.upper() for each in self.github.every(answers.ENVIRONMENT_SECRETS, environment)}

    def deploying(self, environment: str) -> list[str]:
        """What may deploy to an environment: names of branches, and of tags as ``tag NAME``."""
        found = self.github.every(answers.DEPLOYING, environment)
        return [("tag " if each.type == "tag" else "") + each.name for each in found]

    def image(self) -> reference.Reference | None:
        """The image that the variable names; None if it is not set or not a valid reference."""
        try:
            return reference.parse(value) if (value := self.variable(IMAGE)) else None
        except BuildRefused:
            return None
