"""Fixtures of the tests of `lockstep build`: a record that passes, and a place for bases."""

import shutil
from pathlib import Path

import pytest

from tests import build_tree
from tests.build_tree import BaseLayout
from tests.ledger_tree import packed


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A committed record whose verdict passes. Read-only by custom."""
    root = tmp_path_factory.mktemp("released") / "root"
    build_tree.make(root)
    return packed(root)


@pytest.fixture
def root(released: Path, tmp_path: Path) -> Path:
    """A copy of it, to build from and to damage."""
    return shutil.copytree(released, tmp_path / "root")


@pytest.fixture
def base(tmp_path: Path) -> BaseLayout:
    """A place for base images."""
    return BaseLayout(tmp_path / "base")
