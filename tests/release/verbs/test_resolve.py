"""resolve: the record of one side of a merge is taken whole, in either order, and a mixed one never passes."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from checks.code import lock as code_lock
from checks.storage import layout
from release.adapters import merge_conflicts
from release.cli import main
from release.record import lock_check
from release.record.records import WorkTree
from tests import build_tree
from tests.conftest import REPOSITORY, as_params, read_yaml, scaled_down, written
from tests.pipeline_repository import commit, git

pytestmark = pytest.mark.slow

Change = Callable[[dict[str, Any]], object]
RECORD = merge_conflicts.RECORD


def rate(document: dict[str, Any]) -> None:
    """The training reads it."""
    document["train"]["learning_rate"] = 0.003


def bound(document: dict[str, Any]) -> None:
    """The gates read it, and no stage before them."""
    document["gates"]["fits_the_budget"]["artifact_mb"] = 200


def room(document: dict[str, Any]) -> None:
    """No stage reads it."""
    document["monitor"] = {"window_days": 14}


def alike(document: dict[str, Any]) -> None:
    """The same run, on another machine."""


# What each side changes; the branch whose record is taken, and how many stages of it must run again.
CASES: dict[str, tuple[Change, Change, str | None, bool]] = {
    "one fits": (rate, room, "one", True),
    "neither fits": (rate, bound, "one", False),
    "both fit": (alike, alike, None, True),
}


def make(root: Path, one: Change, two: Change) -> Path:
    """Lay out a clone with branches one and two, each with a record of its own, from one commit with a record.

    The stage gate runs a scorer of the team's, which has the name of a gate.
    """
    scorer = (REPOSITORY / "checks/scorers/contains.py").read_text().replace('"contains"', '"routes-well"')
    (root / layout.KINDS / "scorers").mkdir(parents=True)
    (root / layout.KINDS / "scorers/routes_well.py").write_text(scorer)
    build_tree.make(root)
    shutil.copy(REPOSITORY / ".gitattributes", root)
    build_tree.forget(root)
    for branch, start, change, seed in (("base", "main", alike, 2), ("one", "base", one, 3), ("two", "base", two, 4)):
        git(root, "switch", "--quiet", "--force", "--create", branch, start)
        document = scaled_down()
        change(document)
        (root / layout.PARAMS).write_text(written(document))
        build_tree.weigh(root, build_tree.shards(seed=seed))
        build_tree.judge(root, as_params(document))
        commit(root, f"record of {branch}")
    for name, value in (("user.name", "Ada"), ("user.email", "a@b.example"), ("commit.gpgsign", "false")):
        git(root, "config", name, value)
    return root


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A clone for each case. Read-only by custom."""
    return {name: make(tmp_path_factory.mktemp("case"), *case[:2]) for name, case in CASES.items()}


@pytest.fixture
def root(made: dict[str, Path], tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A copy of the clone of the case that the test names."""
    case = getattr(request, "param", "one fits")
    return Path(shutil.copytree(made[case], tmp_path / "clone", symlinks=True))


def lockstep(root: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["-C", str(root), *arguments])


def stopped(root: Path, *command: str) -> None:
    """Run git, which stops at a conflict."""
    done = subprocess.run(["git", *command], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr


def merging(root: Path, into: str, other: str) -> None:
    git(root, "switch", "--quiet", into)
    stopped(root, "merge", other)


def record(root: Path, commit: str) -> str:
    return git(root, "ls-tree", "-r", commit, *RECORD)


def weights(root: Path, branch: str) -> None:
    """Bring the merged model of a branch, as DVC would."""
    shutil.rmtree(root / layout.MERGED)
    for name, data in build_tree.shards(seed={"one": 3, "two": 4}[branch]).items():
        (root / layout.MERGED).mkdir(parents=True, exist_ok=True)
        (root / layout.MERGED / name).write_bytes(data)


@pytest.mark.parametrize(("root", "name"), [(name, name) for name in CASES], indirect=["root"])
def test_one_record_is_taken_whole_whatever_is_merged_into_what(root: Path, name: str) -> None:
    _, _, branch, fits = CASES[name]
    before = {side: record(root, side) for side in ("one", "two")}
    ways = (("one", "merge", "two"), ("two", "merge", "one"), ("one", "rebase", "two"), ("two", "cherry-pick", "one"))
    records = set[str]()
    for start, *command in ways:
        git(root, "switch", "--quiet", "--detach", start)
        stopped(root, *command)
        assert not any(b"<<<<<<<" in path.read_bytes() for path in (root / "reports").rglob("*.*"))
        result = json.loads(lockstep(root, "resolve", "--json").stdout)
        assert (not result["differences"], not result["stale"]) == (fits, fits)
        subprocess.run(["sh", "-ec", result["ends"]], cwd=root, check=True, capture_output=True)
        assert git(root, "status", "--porcelain") == ""
        records.add(record(root, "HEAD"))
    (taken,) = records
    assert taken in before.values()
    assert branch is None or taken == before[branch]


def test_a_record_that_fits_passes_after_the_merge(root: Path) -> None:
    merging(root, "two", "one")
    done = lockstep(root, "resolve")
    assert done.exit_code == 0, done.output
    assert "fits what was merged, and is taken whole. Now `git commit --no-edit`" in " ".join(done.stdout.split())
    git(root, "commit", "--no-edit")
    weights(root, "one")
    # Git now names the model of two as well, which the same test rows judged.
    refused = lockstep(root, "gate")
    assert refused.exit_code == 8
    assert "reports/looks.json: lacks 1 of the models that these test rows judged" in refused.stderr
    build_tree.judge(root, as_params(read_yaml((root / layout.PARAMS).read_text())))
    done = lockstep(root, "gate")
    assert done.exit_code == 0, done.output
    changed = git(root, "diff", "--name-only", "one", "--", *RECORD).split()
    assert changed == ["dvc.lock", "reports/looks.json", "reports/verdict.json"]


@pytest.mark.parametrize("root", ["neither fits"], indirect=True)
@pytest.mark.parametrize("branch", ["one", "two"])
def test_nothing_passes_before_a_run_if_neither_record_fits(root: Path, branch: str) -> None:
    merging(root, "two", "one")
    done = lockstep(root, "resolve")
    assert done.exit_code == 0, done.output
    said = " ".join(done.stdout.split())
    assert said.startswith("neither record fits what was merged: params.yaml: gates is not what gate ran with.")
    assert "run`, which makes it anew from gate on." in said
    git(root, "checkout", branch, "--", *RECORD)  # Whichever record is there.
    git(root, "commit", "--no-edit")
    weights(root, branch)
    for command in (["gate"], ["record"], ["build"]):
        done = lockstep(root, *command)
        assert done.exit_code == 8, (command, done.output)
        assert "the verdict does not hold: params.yaml: " in done.stderr


def test_mixed_lines_of_two_locks_are_no_record(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    merging(root, "two", "one")
    texts = {branch: git(root, "show", f"{branch}:dvc.lock") for branch in ("one", "two")}
    # Two trainings make two adapters, which the records here do not. No folder is here that tells them apart.
    adapter = re.findall(r"[0-9a-f]{32}\.dir", texts["one"].partition("path: models/adapter")[2])[0]
    texts["two"] = texts["two"].replace(adapter, f"{7:032}.dir")
    shutil.rmtree(root / "models")
    locks = {branch: read_yaml(text)["stages"] for branch, text in texts.items()}
    digests = code_lock.of(WorkTree(root).params, code_lock.at(root))
    monkeypatch.setattr(code_lock, "of", lambda *_: digests)
    names = list(locks["one"])
    parts = [{name} for name in names] + [set(names[:number]) for number in range(1, len(names))]
    mixed = 0
    for branch in ("one", "two"):
        git(root, "checkout", branch, "--", *RECORD)
        for part in parts:
            stages = {name: locks["one" if name in part else "two"][name] for name in names}
            (root / layout.LOCK).write_text(written({"schema": "2.0", "stages": stages}))
            if stages not in locks.values():
                mixed += 1
                assert lock_check.differences(WorkTree(root)), part
    assert mixed > 20


def test_a_report_of_the_other_side_is_no_part_of_the_record(root: Path) -> None:
    merging(root, "two", "one")
    git(root, "checkout", "one", "--", *RECORD)
    weights(root, "one")
    assert not lock_check.differences(WorkTree(root))
    listed = git(root, "diff", "--name-only", "one", "two", "--", "reports", "code.lock").split()
    # The times and names of a run decide nothing, and no digest covers them.
    changed = [path for path in listed if not path.startswith("reports/measured/")]
    for path in changed:
        git(root, "checkout", "two", "--", path)
        assert lock_check.differences(WorkTree(root)), path
        git(root, "checkout", "one", "--", path)
    assert len(changed) > 1


def test_a_person_settles_params_first(root: Path) -> None:
    git(root, "switch", "--quiet", "two")
    text = (root / layout.PARAMS).read_text()
    (root / layout.PARAMS).write_text(re.sub("learning_rate: .*", "learning_rate: 0.1", text))
    commit(root, "another rate")
    stopped(root, "merge", "one")
    before = (root / layout.LOCK).read_bytes()
    done = lockstep(root, "resolve")
    assert done.exit_code == 8
    assert done.stderr.startswith("lockstep: params.yaml: has a conflict that only a person can settle; edit it, ")
    assert (root / layout.LOCK).read_bytes() == before
    (root / layout.PARAMS).write_text(git(root, "show", "one:params.yaml"))
    git(root, "add", "params.yaml")
    assert lockstep(root, "resolve").exit_code == 0
    assert git(root, "write-tree").strip()  # Nothing is unmerged.


def test_where_nothing_is_merged_nothing_is_taken(root: Path) -> None:
    done = lockstep(root, "resolve")
    assert (done.exit_code, git(root, "status", "--porcelain")) == (8, "")
    assert "no merge, rebase or cherry-pick is at work here; run this where one stopped at a conflict" in done.stderr


def test_a_call_that_was_killed_is_made_again(root: Path) -> None:
    merging(root, "two", "one")
    git(root, "checkout", "one", "--", "dvc.lock")
    (root / layout.VERDICT).unlink()
    assert lockstep(root, "resolve").exit_code == 0
    git(root, "commit", "--no-edit")
    assert record(root, "HEAD") == record(root, "one")


def test_a_record_that_a_run_made_meanwhile_is_not_lost(root: Path) -> None:
    merging(root, "two", "one")
    params = as_params(read_yaml((root / layout.PARAMS).read_text()))
    git(root, "checkout", "one", "--", "reports")
    build_tree.weigh(root, build_tree.shards(seed=9))
    build_tree.judge(root, params)
    before = (root / layout.LOCK).read_bytes()
    done = lockstep(root, "resolve")
    assert done.exit_code == 8
    assert "dvc.lock: is of neither side and fits what is here: a run made it anew" in done.stderr
    assert (root / layout.LOCK).read_bytes() == before


def test_each_project_takes_its_own_record(root: Path) -> None:
    attributes = git(root, "rev-parse", "base:.gitattributes").strip()
    tops = dict[str, str]()
    for branch in ("base", "one", "two"):
        tree = git(root, "rev-parse", f"{branch}^{{tree}}").strip()
        projects = made_tree(root, f"040000 tree {tree}\trouter\n040000 tree {tree}\tsummary\n")
        top = made_tree(root, f"100644 blob {attributes}\t.gitattributes\n040000 tree {projects}\tprojects\n")
        parents = ["-p", tops["base"]] if tops else []
        tops[branch] = git(root, "commit-tree", "-m", branch, *parents, top).strip()
    clone = root.parent / "projects"
    git(root, "worktree", "add", "--quiet", "--detach", str(clone), tops["two"])
    stopped(clone, "merge", tops["one"])
    assert lockstep(clone / "projects/router", "resolve").exit_code == 0
    names = git(clone, "diff", "--name-only", "--diff-filter=U").split()
    assert names
    assert all(name.startswith("projects/summary/") for name in names)
    assert lockstep(clone / "projects/summary", "resolve").exit_code == 0
    git(clone, "commit", "--no-edit")
    for name in ("router", "summary"):
        assert record(clone, f"HEAD:projects/{name}") == record(root, "one")


def made_tree(root: Path, entries: str) -> str:
    done = subprocess.run(["git", "mktree"], cwd=root, input=entries, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_thin_repository_has_the_same_attributes() -> None:
    thin = REPOSITORY / "release/thin/.gitattributes"
    assert thin.read_bytes() == (REPOSITORY / ".gitattributes").read_bytes()
