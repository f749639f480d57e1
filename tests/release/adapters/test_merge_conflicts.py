"""A merge that left conflict markers in the record: every command that reads it prints the commands that resolve it."""

import re
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from checks.storage import layout
from release.cli import main
from tests import build_tree
from tests.pipeline_repository import commit, git

RESOLVED = "`./lockstep resolve` takes the record of one side whole"
MARKER = re.compile("^<<<<<<< ", re.MULTILINE)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A branch and main, each with a record of its own."""
    build_tree.make(tmp_path)
    git(tmp_path, "config", "user.name", "Ada")
    git(tmp_path, "config", "user.email", "a@b.example")
    git(tmp_path, "branch", "ours")
    for branch in ("main", "ours"):
        git(tmp_path, "switch", "--quiet", branch)
        for path in (layout.LOCK, layout.VERDICT):
            text = (tmp_path / path).read_text()
            (tmp_path / path).write_text(re.sub("[0-9a-f]{32}", f"{branch:0>32}", text, count=1))
        commit(tmp_path, f"record of {branch}")
    return tmp_path


def lockstep(root: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["-C", str(root), *arguments])


def merge(root: Path, *how: str) -> None:
    done = subprocess.run(["git", *how, "main"], cwd=root, capture_output=True, check=False)
    assert done.returncode == 1, done.stderr
    assert MARKER.search((root / layout.LOCK).read_text())
    assert MARKER.search((root / layout.VERDICT).read_text())


@pytest.mark.parametrize(
    "command", [["gate"], ["run"], ["calibrate"], ["build"], ["gate", "--explain", "is_small"], ["data"]], ids=str
)
def test_a_command_that_reads_the_record_prints_what_resolves_it(root: Path, command: list[str]) -> None:
    merge(root, "merge")
    done = lockstep(root, *command)
    assert done.exit_code == 8, done.output
    first, *others = done.stderr.splitlines()
    assert first == f"lockstep: dvc.lock: has conflict markers of a merge; {RESOLVED}"
    assert others == ["lockstep: reports/verdict.json: has them, too"]


def test_doctor_and_the_report_print_it_too(root: Path) -> None:
    merge(root, "merge")
    assert f"→ {RESOLVED}" in " ".join(lockstep(root, "doctor").output.split())
    said = lockstep(root, "report", "--target", "main").stdout
    assert "has conflict markers of a merge" in said.splitlines()[0]
    assert "`./lockstep resolve`" in said


@pytest.mark.parametrize("how", ["merge", "rebase"])
def test_markers_are_gone_once_the_record_of_one_side_is_taken(root: Path, how: str) -> None:
    merge(root, how)
    assert lockstep(root, "resolve").exit_code == 0
    taken = {path: (root / path).read_text() for path in (layout.LOCK, layout.VERDICT)}
    assert taken in [{path: git(root, "show", f"{side}:{path}") for path in taken} for side in ("main", "ours")]
    assert not git(root, "ls-files", "--unmerged")


def test_markers_that_were_committed_are_taken_out_by_an_earlier_commit(root: Path) -> None:
    merge(root, "merge")
    commit(root, "oh")
    assert "`git checkout COMMIT -- code.lock dvc.lock reports`" in lockstep(root, "gate").stderr
