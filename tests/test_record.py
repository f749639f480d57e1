"""Sharing a run and recording it: `lockstep run --remote` between machines, `lockstep record` onto a branch."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from checks import layout
from checks.errors import EvidenceRefused
from release import land as verb
from tests import pipeline_repository as repository
from tests.conftest import REPOSITORY, scaled_down
from tests.pipeline_repository import commit, git

BRANCH = "rank-4"


def lockstep(root: Path, *args: str) -> subprocess.CompletedProcess[str]:
    who = {f"GIT_{role}_{what}": value for role in ("AUTHOR", "COMMITTER") for what, value in WHO.items()}
    return subprocess.run(
        [sys.executable, "-m", "release", *args],
        cwd=root, env=repository.environment(**who), capture_output=True, text=True, check=False,
    )  # fmt: skip


WHO = {"NAME": "lockstep[bot]", "EMAIL": "bot@example.invalid"}


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """A machine on which a branch's run is done, with a bare origin and a folder as DVC's remote; nothing recorded."""
    place = tmp_path_factory.mktemp("two machines")
    root = place / "first"
    root.mkdir()
    repository.make(root, tiny_base, scaled_down(), repository.table())
    shutil.copy(REPOSITORY / "reports" / ".gitignore", root / "reports" / ".gitignore")
    subprocess.run(["git", "init", "--quiet", "--bare", "--initial-branch=main", str(place / "origin.git")], check=True)
    (root / ".dvc" / "config").write_text(
        f"['remote \"shared\"']\n    url = {place / 'remote'}\n[core]\n    remote = shared\n"
    )
    commit(root, "where artifacts are shared")
    git(root, "remote", "add", "origin", str(place / "origin.git"))
    git(root, "push", "--quiet", "origin", "main")
    git(root, "fetch", "--quiet", "origin")
    git(root, "switch", "--quiet", "-c", BRANCH)
    document = scaled_down() | {"train": scaled_down()["train"] | {"max_steps": 3}}
    text = (root / "params.yaml").read_text()
    (root / "params.yaml").write_text(text.replace("max_steps: 4", f"max_steps: {document['train']['max_steps']}"))
    commit(root, "three steps")
    git(root, "push", "--quiet", "origin", BRANCH)
    done = lockstep(root, "run", "--remote")
    assert done.returncode in (0, 10, 11), done.stdout[-2000:] + done.stderr[-3000:]
    return root


def another(first: Path, folder: Path, revision: str = BRANCH) -> Path:
    """A clone on another machine, at what was proposed and not recorded yet."""
    git(folder.parent, "clone", "--quiet", str(first.parent / "origin.git"), str(folder))
    git(folder, "switch", "--quiet", "--detach", f"origin/{revision}")
    return folder


def tip(first: Path) -> str:
    return git(first.parent / "origin.git", "rev-parse", f"refs/heads/{BRANCH}").strip()


@pytest.mark.slow
def test_another_machine_with_the_record_takes_everything_from_the_remote_and_runs_nothing(
    first: Path, tmp_path: Path
) -> None:
    second = another(first, tmp_path / "second")
    shutil.copy(first / "dvc.lock", second)
    shutil.copytree(first / layout.REPORTS, second / layout.REPORTS, dirs_exist_ok=True)
    done = lockstep(second, "run", "--remote")
    assert done.returncode in (0, 10, 11), done.stderr[-3000:]
    assert repository.ran(done) == []
    assert (second / "dvc.lock").read_bytes() == (first / "dvc.lock").read_bytes()
    assert (second / layout.VERDICT).read_bytes() == (first / layout.VERDICT).read_bytes()


@pytest.mark.slow
def test_the_record_is_one_commit_on_the_branch_and_the_same_again(first: Path, tmp_path: Path) -> None:
    second = tmp_path / "second"
    shutil.copytree(first, second, symlinks=True)
    proposed = tip(first)
    (second / "notes.txt").write_text("not part of any record")
    done = lockstep(second, "record", "--push", BRANCH)
    assert done.returncode == 0, done.stderr
    made = done.stdout.strip()
    assert tip(first) == made
    assert git(second, "rev-parse", "HEAD").strip() == made
    assert git(second, "rev-list", "--parents", "--max-count=1", made).split() == [made, proposed]
    changed = set(git(second, "diff", "--name-only", proposed, made).splitlines())
    assert "dvc.lock" in changed
    assert "reports/verdict.json" in changed
    assert all(name == "dvc.lock" or name.startswith("reports/") for name in changed)
    assert git(second, "status", "--porcelain") == "?? notes.txt\n"
    assert git(second, "log", "--max-count=1", "--format=%an|%s", made).startswith("lockstep[bot]|Record: verdict ")

    again = lockstep(second, "record", "--push", BRANCH)
    assert (again.returncode, again.stdout.strip(), tip(first)) == (0, made, made)

    repeated = lockstep(first, "record", "--push", BRANCH, "--json")  # the same job once more, from what was proposed
    assert repeated.returncode == 0, repeated.stderr
    assert git(first, "rev-parse", "HEAD").strip() == made == tip(first)

    git(first, "update-ref", "HEAD", proposed)
    git(first, "reset", "--quiet")
    git(second, "commit", "--quiet", "--allow-empty", "-m", "a person goes on")
    git(second, "push", "--quiet", "origin", f"HEAD:{BRANCH}")
    moved = tip(first)
    late = lockstep(first, "record", "--push", BRANCH)
    assert late.returncode == 16
    assert f"is at {moved[:12]}, and this is the record of {proposed[:12]}: nothing was pushed" in late.stderr
    assert tip(first) == moved
    assert git(first, "rev-parse", "HEAD").strip() == proposed

    document = (first / "params.yaml").read_text()
    (first / "params.yaml").write_text(document.replace("max_steps: 3", "max_steps: 2"))
    stale = lockstep(first, "record")
    assert stale.returncode == 8
    assert "there is no verdict to record" in stale.stderr
    (first / "params.yaml").write_text(document)


def test_without_a_commit_there_is_nothing_to_record(tmp_path: Path) -> None:
    done = lockstep(tmp_path, "record")
    assert done.returncode == 8
    assert "git has no commit here" in done.stderr


@pytest.mark.parametrize(
    ("pipeline", "told"),
    [
        ("stages: [fetch]", "dvc.yaml: is no pipeline"),
        ("- just a list", "dvc.yaml: is no pipeline"),
        ("stages: {fetch: {outs: [{../outside.json: {cache: false}}]}}", "../outside.json: is no file here"),
        ("stages: {fetch: {outs: [{reports/absent.json: {cache: false}}]}}", "reports/absent.json: is no file here"),
        ("stages: {fetch: {outs: [{link.json: {cache: false}}]}}", "link.json: is no file here"),
    ],
)
def test_a_pipeline_that_names_no_files_of_this_repository_has_no_record(
    tmp_path: Path, pipeline: str, told: str
) -> None:
    (tmp_path / "outside.json").write_text("{}")
    root = tmp_path / "root"
    (root / "reports").mkdir(parents=True)
    (root / "dvc.lock").write_text("")
    (root / layout.REFERENCES).write_text("{}")
    (root / "link.json").symlink_to(tmp_path / "outside.json")
    (root / "dvc.yaml").write_text(pipeline)
    with pytest.raises(EvidenceRefused, match=told.replace(".", r"\.")):
        verb.record_files(root)
