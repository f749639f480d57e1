"""Two projects, ``projects/router`` and ``projects/summary``, in one git repository, each with a signed release."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tests import promotion_tree
from tests.ledger_tree import git, keep
from tests.promotion_tree import Release

NAMES = ("router", "summary")
FOLDERS = tuple(f"projects/{name}" for name in NAMES)


class Project(NamedTuple):
    """A project's folder, and its release."""

    root: Path
    release: Release


def make(top: Path) -> Mapping[str, Project]:
    """Lay out a clone on main with both projects, each ready to be promoted."""
    top.mkdir(parents=True)
    git(top, "init", "--quiet", "--initial-branch=main")
    projects = dict[str, Project]()
    for name in NAMES:
        root = top / "projects" / name
        root.mkdir(parents=True)

        def named(plain: dict[str, Any], name: str = name) -> None:
            plain["serve"]["name"] = name

        projects[name] = Project(root, promotion_tree.make(root, named))
    keep(top, "what building left")
    return projects
