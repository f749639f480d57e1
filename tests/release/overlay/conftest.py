"""The environments that the tests of overlays change."""

import shutil
from pathlib import Path

import pytest

from checks.storage import layout
from tests.conftest import REPOSITORY
from tests.overlay_sample import put, rendered


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of release/environments with a release promoted to staging."""
    environments = shutil.copytree(REPOSITORY / layout.ENVIRONMENTS, tmp_path / layout.ENVIRONMENTS)
    put(environments, rendered())
    return environments
