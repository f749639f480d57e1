"""The repository that the tables of ``doctor --github`` check, with answers that several rows need.

GitHub's answers are compared with what is expected: a table of settings, and the rulesets in ``.github``.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from checks.process.errors import BuildRefused
from checks.process.text import redact
from release.adapters import commits, projects
from release.adapters.registry import reference
from release.doctor.check import want
from release.doctor.github import Session, quoted

IMAGE = "LOCKSTEP_IMAGE"
ADMINISTRATION, ACTIONS, CONTENTS = "Administration: read", "Actions: read", "Contents: read"
SECRETS, VARIABLES, ENVIRONMENTS = "Secrets: read", "Variables: read", "Environments: read"
EVERYBODY = "Metadata: read"

_LONGEST = 200  # Characters of a value that are shown.


class Setting(NamedTuple):
    """The values that the answer at ``path`` must have. ``permission``: what a token needs to read them."""

    path: str
    permission: str
    expected: Mapping[str, object]
    fix: str

    def hold(self, repository: "Repository") -> str:
        """Return what is in order. Raises Finding with every difference."""
        answer = repository.github.one(self.path, self.permission, *self.expected)
        wrong = differences(self.expected, answer)
        want(not wrong, "; ".join(wrong), self.fix)
        return ", ".join(f"{key}: {_shown(value)}" for key, value in self.expected.items())


class Target:
    """The files of the target branch in this clone; those of the folder if git has no commit yet.

    ``name`` is the branch's; ``folder``: of the project, below the git root. Raises Refusal if git does not know which
    branch it is.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.name = "this folder"
        self.folder = Path()
        self._top = root
        self._commit: str | None = None
        if commits.has_repository(root):
            self.name, self._commit = commits.target(root)
            self.folder, self._top = commits.prefix(root), projects.top(root)

    def read(self, path: Path) -> bytes | None:
        """Return a file's bytes; None if there is none. Raises Refusal for anything but a regular file."""
        return self._read(self.root, path)

    def read_shared(self, path: Path) -> bytes | None:
        """Return a file's bytes from the git root, where all projects have it. Otherwise as ``read``."""
        return self._read(self._top, path)

    def _read(self, root: Path, path: Path) -> bytes | None:
        if self._commit is not None:
            return commits.read(root, self._commit, path)
        return (root / path).read_bytes() if (root / path).is_file() else None


class Repository(NamedTuple):
    """``answer``: GitHub's description of the repository. ``public``: it is on github.com."""

    github: Session
    answer: dict[str, Any]
    target: Target
    public: bool

    @property
    def branch(self) -> str:
        return str(self.answer["default_branch"])

    @property
    def owner(self) -> str:
        return self.github.repository.partition("/")[0]

    @property
    def is_shared(self) -> bool:
        """Tell whether an organization owns it, which may share secrets, variables and runners."""
        owner = self.answer.get("owner")
        return isinstance(owner, dict) and owner.get("type") == "Organization"

    def secrets(self) -> set[str]:
        """Return the names of the repository's secrets, and of those that its organization shares."""
        return set(self._named("secrets", SECRETS))

    def variable(self, name: str) -> str:
        """Return the value of a variable; empty if it is not set."""
        return self._named("variables", VARIABLES).get(name, "")

    def _named(self, kind: str, permission: str) -> dict[str, str]:
        shared = (
            self.github.names(f"actions/organization-{kind}", permission, kind)
            if self.is_shared
            else {}
        )
        return shared | self.github.names(f"actions/{kind}", permission, kind)

    def environments(self) -> dict[str, dict[str, Any]]:
        """Return the environments of jobs by name, in lower case as GitHub compares them."""
        return {
            str(item.get("name", "")).lower(): item
            for item in self.github.every("environments", ACTIONS, "environments")
        }

    def secrets_of(self, environment: str) -> set[str]:
        """Return the names of the secrets of one environment; none if there is no such environment."""
        if environment not in self.environments():
            return set()
        return set(
            self.github.names(
                f"environments/{quoted(environment)}/secrets", ENVIRONMENTS, "secrets"
            )
        )

    def image(self) -> reference.Reference | None:
        """Return the image that the variable names; None if it is not set or not a valid reference."""
        try:
            return reference.parse(value) if (value := self.variable(IMAGE)) else None
        except BuildRefused:
            return None


def differences(expected: object, actual: object, key: str = "") -> list[str]:
    """List where ``actual`` is laxer than ``expected``. Keys that are not expected are ignored.

    A count may be larger. A list may have more items, but an empty one may not, and one of what is allowed may only
    have fewer.
    """
    if isinstance(expected, Mapping) and isinstance(actual, dict):
        path = f"{key}." if key else ""
        return [
            line
            for name, value in expected.items()
            for line in differences(value, actual.get(name), path + name)
        ]
    if isinstance(expected, list) and expected and isinstance(actual, list):
        if key.startswith("allowed_"):
            return [f"{key} has {_shown(item)}" for item in actual if item not in expected]
        lacking = [item for item in expected if all(differences(item, other) for other in actual)]
        return [f"{key} lacks {_shown(item)}" for item in lacking]
    if key.endswith("_count") and type(actual) is int and type(expected) is int:
        fine = actual >= expected
    else:
        fine = type(actual) is type(expected) and actual == expected
    return [] if fine else [f"{key} is {_shown(actual)}, not {_shown(expected)}"]


def laxer(
    expected: Mapping[str, Mapping[str, object]], actual: Iterable[Mapping[str, Any]]
) -> list[str]:
    """List where the rules that GitHub applies, of all rulesets together, are laxer than the expected rules.

    ``expected``: parameters by type of rule. What they leave off may be on.
    """
    wrong = []
    for kind, parameters in expected.items():
        applied = [rule.get("parameters") or {} for rule in actual if rule.get("type") == kind]
        if not applied:
            wrong.append(f"there is no rule {kind}")
            continue
        for key, value in parameters.items():
            compared = [differences({key: value}, other) for other in applied]
            if value is not False and all(compared):
                wrong += compared[0]
    return wrong


def _shown(value: object) -> str:
    return redact(json.dumps(value), _LONGEST)
