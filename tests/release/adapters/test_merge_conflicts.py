"""A merge that left conflict markers in the record: every command that reads it prints the commands that resolve it."""

import re
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from checks.storage import layout
from release.cli import main
from tests import build_tree
from tests.conftest import REPOSITORY
from tests.pipeline_repository import commit, git

OURS = "git checkout --ours code.lock dvc.lock reports && git add code.lock dvc.lock reports && git commit --no-edit"
THEIRS = "git checkout --theirs code.lock dvc.lock reports && git add code.lock dvc.lock reports && GIT_EDITOR=true git rebase --continue"
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
    assert (
        first
        == f"lockstep: dvc.lock: has conflict markers of a merge; keep your own side: `{OURS}`; then `./lockstep run`"
    )
    assert others == ["lockstep: reports/verdict.json: has them, too"]


def test_doctor_and_the_report_print_it_too(root: Path) -> None:
    merge(root, "merge")
    assert f"→ keep your own side: `{OURS}`" in " ".join(lockstep(root, "doctor").output.split())
    said = lockstep(root, "report", "--target", "main").stdout
    assert "has conflict markers of a merge" in said.splitlines()[0]
    assert OURS in said


@pytest.mark.parametrize(("how", "command"), [(["merge"], OURS), (["rebase"], THEIRS)], ids=["merge", "rebase"])
def test_the_printed_commands_end_the_merge_with_the_branchs_own_record(
    root: Path, how: list[str], command: str
) -> None:
    own = {path: git(root, "show", f"ours:{path}") for path in (layout.LOCK, layout.VERDICT)}
    merge(root, *how)
    assert command in lockstep(root, "gate").stderr
    who = {
        "GIT_AUTHOR_NAME": "Ada",
        "GIT_AUTHOR_EMAIL": "a@b.example",
        "GIT_COMMITTER_NAME": "Ada",
        "GIT_COMMITTER_EMAIL": "a@b.example",
    }
    subprocess.run(
        ["sh", "-ec", command], cwd=root, env=who | {"PATH": "/usr/bin:/bin"}, check=True, capture_output=True
    )
    assert git(root, "status", "--porcelain") == ""
    assert git(root, "log", "-1", "--format=%s", "main").strip() in git(root, "log", "--format=%s")
    assert {path: (root / path).read_text() for path in own} == own


def test_markers_that_were_committed_are_taken_out_by_an_earlier_commit(root: Path) -> None:
    merge(root, "merge")
    commit(root, "oh")
    assert "`git checkout COMMIT -- code.lock dvc.lock reports`" in lockstep(root, "gate").stderr


def test_the_guide_has_the_same_commands() -> None:
    assert OURS in (REPOSITORY / "docs" / "how-to" / "github.md").read_text()
