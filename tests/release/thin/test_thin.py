"""The files of a thin repository: those that this repository has at its top are links to them."""

from pathlib import Path

from release import thin
from tests.conftest import REPOSITORY

FOLDER = Path(thin.__file__).parent


def test_every_link_leads_to_a_file_of_this_repository_wherever_it_lies() -> None:
    links = [path for path in FOLDER.rglob("*") if path.is_symlink()]
    assert FOLDER / "constraints.txt" in links
    for path in links:
        assert not path.readlink().is_absolute(), path
        assert path.exists(), path
        assert path.resolve().is_relative_to(REPOSITORY), path
