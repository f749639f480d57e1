"""A team's repository with a runtime of its own: the whole file of docs/how-to/runtimes.md."""

import re
from pathlib import Path

from release.runtimes import lookup
from tests.conftest import REPOSITORY

NAME = "acme"
FILE = lookup.path(NAME)


def text() -> str:
    """The file that the page shows."""
    page = (REPOSITORY / "docs/how-to/runtimes.md").read_text()
    match = re.search(r"```yaml\n(name: acme\n.*?)```", page, re.DOTALL)
    assert match is not None
    return match[1]


def write(root: Path, content: str | None = None, path: Path = FILE) -> None:
    """Write the file below ``root``, uncommitted."""
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text() if content is None else content)
