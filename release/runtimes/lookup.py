"""Reads a runtime for the repository of a team: its own release/runtimes/NAME.yaml, or one that Lockstep ships.

A team's file says which command starts, so it is policy: it is read from a commit, never from files that nobody
reviewed. What was built names its commit, and its label ``lockstep.runtime.file`` has the file's digest.
"""

import os
import re
from pathlib import Path

from checks.process.errors import EvidenceRefused, ParamsRefused
from checks.storage import layout
from release import runtimes
from release.adapters import commits
from release.runtimes import Runtime

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,59}")  # checks.records.sections.Name
# A repository with this file is a copy of Lockstep's own: its runtimes are those that Lockstep ships.
_SHIPPING = layout.RUNTIMES / "__init__.py"


def path(name: str) -> Path:
    """The file of a team's runtime."""
    return layout.RUNTIMES / f"{name}.yaml"


def data_at(root: Path, commit: str, name: str) -> bytes | None:
    """The team's file in a commit, by its full hash; None if it has none, or is a copy of Lockstep's repository.

    Raises EvidenceRefused if git cannot read the commit or the file is a link.
    """
    if not _NAME.fullmatch(name):
        return None
    contents = commits.read_many(root, commit, [_SHIPPING, path(name)])
    if contents.get(_SHIPPING) is not None:
        return None
    if path(name) not in contents:
        raise EvidenceRefused(
            f"{path(name)} at {commit[:12]}: is not a regular file",
            "replace it with one, and commit that",
        )
    return contents[path(name)]


def at(root: Path, commit: str, name: str) -> Runtime:
    """Read the runtime ``name`` as it was in a commit, by its full hash.

    A release keeps the file that it was built with, if a later version of Lockstep ships one of that name. Raises
    ParamsRefused if there is none or it is invalid, EvidenceRefused as ``data_at``.
    """
    data = data_at(root, commit, name)
    if data is None:
        return runtimes.load(name)
    return runtimes.of_team(data, f"{commit[:12]}:{path(name)}", name)


def here(root: Path, name: str) -> Runtime:
    """Read the runtime ``name`` of the last commit, for new work. Raises as ``at``.

    ParamsRefused also if the work tree has another file, or Lockstep ships a runtime of that name.
    """
    if not _NAME.fullmatch(name):
        return runtimes.load(name)
    head = commits.resolve(root, "HEAD") if commits.has_repository(root) else None
    data = None if head is None else data_at(root, head, name)
    is_here = os.path.lexists(root / path(name)) and not (root / _SHIPPING).exists()
    if data is None and not is_here:
        return runtimes.load(name)
    if why := shadows(name):
        raise ParamsRefused(why, "rename the file, and the name in it")
    if data is None or head is None or commits.uncommitted(root, head, [path(name)]):
        raise ParamsRefused(
            f"{path(name)}: is not committed in its current state",
            f"git add {path(name)} && git commit",
        )
    return runtimes.of_team(data, path(name).as_posix(), name)


def shadows(name: str) -> str:
    """Why a team's file cannot have this name; empty if it can."""
    return (
        f"{path(name)}: Lockstep ships a runtime of this name" if name in runtimes.names() else ""
    )
