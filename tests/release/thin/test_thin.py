"""The files of a thin repository: those that this repository has at its top are links to them."""

import os
from pathlib import Path

from release import thin
from tests.conftest import REPOSITORY

FOLDER = Path(thin.__file__).parent


def test_every_link_leads_to_a_file_of_this_repository() -> None:
    links = [path for path in FOLDER.rglob("*") if path.is_symlink()]
    assert FOLDER / "constraints.txt" in links
    assert [path for path in links if os.path.isabs(path.readlink()) or REPOSITORY not in path.resolve().parents] == []
    assert all(path.is_file() for path in links)
