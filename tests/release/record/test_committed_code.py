"""The code that a commit could review: its own where Lockstep is a part of it, else the code that is installed."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from checks.code import lock, modules
from checks.process import distribution
from checks.storage import layout
from release.record import committed_code
from release.record.records import Records
from tests import build_tree
from tests.pipeline_repository import commit

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A team's repository that has modules of Lockstep's names, all committed; the tool lies elsewhere."""
    root = tmp_path_factory.mktemp("thin") / "work"
    build_tree.make(root)
    for name in ("stages/code.py", "stages/gate.py", "checks/__init__.py"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("raise SystemExit('a module of the team')\n")
    commit(root, "modules of the team")
    return root


@pytest.fixture(autouse=True)
def kept_lock(root: Path) -> Iterator[None]:
    before = (root / layout.LOCK).read_bytes()
    yield
    (root / layout.LOCK).write_bytes(before)


def differences(root: Path) -> list[str]:
    tree = Records(root).work_tree
    return committed_code.differences(root, "HEAD", tree.params, tree.lock)


def test_modules_of_a_team_are_not_taken_for_the_code_that_is_installed(root: Path) -> None:
    build_tree.ran(root, lock.running())
    assert differences(root) == []


def test_a_record_of_a_teams_own_modules_is_not_one_of_the_code_that_is_installed(root: Path) -> None:
    build_tree.ran(root, modules.below(root))
    assert [line.split(": ")[1] for line in differences(root)] == [
        f"{stage} ran other code than this commit has" for stage in lock.READS
    ]


def test_code_that_lies_in_the_repository_is_compared_as_the_commit_has_it(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_tree.ran(root, modules.below(root))
    monkeypatch.setattr(distribution, "home", root.resolve)
    assert differences(root) == []
    project = root / "projects" / "router"
    project.mkdir(parents=True)
    for path in (layout.PARAMS, layout.PIPELINE, layout.LOCK):
        shutil.copy(root / path, project)
    assert differences(project) == []
    (root / "stages" / "gate.py").write_text("raise SystemExit('changed')\n")
    build_tree.ran(project, modules.below(root))
    assert [line.split(": ")[1] for line in differences(project)] == ["gate ran other code than this commit has"]
    (root / "stages" / "gate.py").write_text("raise SystemExit('a module of the team')\n")
