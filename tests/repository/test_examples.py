"""Packages below ``examples``, which the launcher installs: what is installed is what is here."""

from importlib import metadata
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

EXAMPLES = sorted(path.parent for path in REPOSITORY.glob("examples/*/pyproject.toml"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_the_installed_package_has_the_code_of_its_folder(example: Path) -> None:
    files = metadata.files(f"lockstep-{example.name}") or []
    installed = {path.as_posix(): path.read_text() for path in files if path.suffix == ".py"}
    here = {path.relative_to(example).as_posix(): path.read_text() for path in example.glob("lockstep_*/**/*.py")}
    assert installed == here, "run ./lockstep, which installs it again"
