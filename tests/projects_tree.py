"""Two projects, ``projects/router`` and ``projects/summary``, in one git repository, each with a signed release."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from checks.storage import layout
from release.verbs import render
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
        for environment in ("staging", "production"):
            spaced(root, environment, f"{name}-{environment}")
    keep(top, "what building left")
    return projects


def spaced(root: Path, environment: str, namespace: str) -> None:
    """Give an environment this namespace."""
    file = root / layout.ENVIRONMENTS / environment / "environment.yaml"
    first, _, rest = file.read_text().partition("namespace: ")
    file.write_text(f"{first}namespace: {namespace}\n{rest.partition(chr(10))[2]}")
    render.render(root, environment)
