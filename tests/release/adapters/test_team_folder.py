"""The repository of a team in which `lockstep init` works: what its branch is called."""

from pathlib import Path

import pytest

from checks.config import params_file
from checks.storage import layout
from release.adapters import thin_files
from release.adapters.team_folder import TeamFolder
from release.cli import init
from release.verbs.init import Written
from tests import pipeline_repository as repository
from tests.conftest import REPOSITORY

PARAMS = params_file.load(REPOSITORY / layout.PARAMS)


def _master(root: Path) -> None:
    repository.git(root, "init", "--quiet", "--initial-branch=master")


def _feature(root: Path) -> None:
    _master(root)
    (root / "README.md").write_text("# Ours\n")
    repository.commit(root, "ours")
    repository.git(root, "switch", "--quiet", "--create", "lockstep")


def _both(root: Path) -> None:
    _feature(root)
    repository.git(root, "branch", "main")


@pytest.mark.parametrize(
    ("make", "renames"),
    [
        (_master, True),
        (_feature, True),
        (_both, False),
        (lambda root: repository.git(root, "init", "--quiet", "--initial-branch=main"), False),
        (lambda _: None, False),
    ],
    ids=["no commit", "a branch of work", "both", "main", "no repository"],
)
def test_a_team_whose_branch_is_called_master_is_told_to_rename_it(
    tmp_path: Path, make: object, renames: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Workflows and rules are those of main, and would start nothing."""
    assert callable(make)
    make(tmp_path)
    plan = thin_files.Plan(tmp_path, tmp_path, {}, {}, ())
    folder = TeamFolder(tmp_path, plan, "", PARAMS)
    assert folder.has_master_alone is renames
    init._show_next(Written((), False), folder, ())
    assert ("git branch -m master main" in capsys.readouterr().out) is renames
