"""`lockstep record`: the record of a run as one commit on its branch, on a history with a real origin.

That a run is shared through DVC's remote, and recorded by a workflow: tests/repository/test_workflow_pull_request.py.
"""

import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from checks.formats.evaluation_reports import EvaluationReport
from checks.formats.looks import LooksReport
from checks.process.errors import EvidenceRefused, Outrun, ParamsRefused, RemoteRefused
from checks.storage import files, layout
from release.adapters.git import Git
from release.cli import main
from release.record import committed, looks, looks_branch
from release.record.records import Records, WorkTree
from release.verbs.record import commit_record
from tests import build_tree, git_service, ledger_tree, report_tree
from tests.conftest import REPOSITORY, read_yaml
from tests.pipeline_repository import git

pytestmark = pytest.mark.slow

BRANCH = "pull-request"


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A branch whose change is committed and pushed, and whose record lies in the work tree, not committed."""
    root = tmp_path_factory.mktemp("a réposit ory") / "work"
    report_tree.pull_request(root)
    git(root, "reset", "--quiet", "main")
    git(root, "add", "params.yaml", "dvc.yaml")
    git(root, "commit", "--quiet", "-m", "another learning rate")
    for path in _named(root):
        if not path.exists():
            path.write_text("from a run\n")
    git(root, "config", "user.name", "lockstep[bot]")
    git(root, "config", "user.email", "bot@example.invalid")
    ledger_tree.bare(root.parent / "origin.git", root)
    git(root, "push", "--quiet", "origin", BRANCH)
    ledger_tree.packed(root.parent / "origin.git")
    return ledger_tree.packed(root)


def _named(root: Path) -> list[Path]:
    stages = read_yaml((REPOSITORY / "dvc.yaml").read_text())["stages"].values()
    outs = [out for stage in stages for kind in ("outs", "metrics", "plots") for out in stage.get(kind, [])]
    return [
        root / name for out in outs if isinstance(out, dict) for name, said in out.items() if said.get("cache") is False
    ]


@pytest.fixture
def work(judged: Path, tmp_path: Path) -> Path:
    """A copy of it with an origin of its own."""
    shutil.copytree(judged.parent, tmp_path / "a copy", symlinks=True)
    root = tmp_path / "a copy" / "work"
    git(root, "remote", "set-url", "origin", str(root.parent / "origin.git"))
    return root


def tip(root: Path) -> str:
    return git(root.parent / "origin.git", "rev-parse", f"refs/heads/{BRANCH}").strip()


def head(root: Path) -> str:
    return git(root, "rev-parse", "HEAD").strip()


def test_the_record_and_nothing_else_is_one_commit_on_the_branch(work: Path) -> None:
    proposed = tip(work)
    (work / "notes.txt").write_text("not part of any record")
    (work / "staged.txt").write_text("nor is what somebody is about to commit")
    git(work, "add", "staged.txt")
    made = commit_record(work, BRANCH, "main")
    assert (made.judged, made.status, made.branch) == (proposed, "pass", BRANCH)
    assert tip(work) == head(work) == made.commit != proposed
    assert git(work, "rev-list", "--parents", "--max-count=1", made.commit).split() == [made.commit, proposed]
    changed = set(git(work, "diff", "--name-only", proposed, made.commit).splitlines())
    assert {"dvc.lock", "reports/verdict.json", "reports/references.json"} <= changed
    assert all(name == "dvc.lock" or name.startswith("reports/") for name in changed)
    assert git(work, "status", "--porcelain") == "A  staged.txt\n?? notes.txt\n"
    assert git(work, "log", "--max-count=1", "--format=%an|%s").startswith("lockstep[bot]|Record: verdict pass, model ")


def test_the_record_of_another_job_is_committed_from_its_artifact(work: Path, tmp_path: Path) -> None:
    artifact = tmp_path / "artifact"
    for path in committed.record_files(WorkTree(work)):
        (artifact / path).parent.mkdir(parents=True, exist_ok=True)
        (work / path).rename(artifact / path)
    (artifact / "notes.txt").write_text("not part of any record")
    made = CliRunner().invoke(main, ["-C", str(work), "record", "--target", "main", "--artifact", str(artifact)])
    assert (made.exit_code, made.output.strip()) == (0, head(work))
    assert git(work, "status", "--porcelain") == ""


def test_again_it_changes_nothing(work: Path) -> None:
    first = commit_record(work, BRANCH, "main")
    again = commit_record(work, BRANCH, "main")
    assert (again.commit, again.judged, tip(work)) == (first.commit, first.commit, first.commit)


def test_the_same_job_once_more_takes_the_commit_that_is_there(work: Path) -> None:
    proposed = tip(work)
    first = commit_record(work, BRANCH, "main")
    git(work, "reset", "--quiet", "--soft", proposed)
    git(work, "reset", "--quiet")
    again = commit_record(work, BRANCH, "main")
    assert (again.judged, again.commit) == (proposed, first.commit)
    assert head(work) == tip(work) == first.commit


def test_without_a_branch_it_is_committed_here_alone(work: Path) -> None:
    proposed = tip(work)
    made = commit_record(work, target="main")
    assert head(work) == made.commit != proposed
    assert tip(work) == proposed
    assert git(work, "status", "--porcelain") == ""


def test_a_branch_that_moved_keeps_what_it_has(work: Path) -> None:
    proposed = tip(work)
    other = work.parent / "other"
    git(work.parent, "clone", "--quiet", "--branch", BRANCH, str(work.parent / "origin.git"), str(other))
    git(other, "commit", "--quiet", "--allow-empty", "-m", "a person goes on")
    git(other, "push", "--quiet", "origin", BRANCH)
    moved = tip(work)
    with pytest.raises(
        Outrun, match=f"is at {moved[:12]}, and this is the record of {proposed[:12]}: nothing was pushed"
    ):
        commit_record(work, BRANCH, "main")
    assert (tip(work), head(work)) == (moved, proposed)
    git(work.parent / "origin.git", "update-ref", "-d", f"refs/heads/{BRANCH}")
    with pytest.raises(Outrun, match="is gone"):
        commit_record(work, BRANCH, "main")


def counted(work: Path) -> list[str]:
    """The looks on the branch of the looks, the latest first, after the commit that began it."""
    log = git(work.parent / "origin.git", "log", "--format=%s", "lockstep/looks").splitlines()
    return log[:-1]


def model(work: Path) -> str:
    return files.read_json(work / layout.EVALUATION, EvaluationReport).merged


@pytest.mark.parametrize("how", ["closed", "force-pushed", "moved on"])
def test_a_look_is_counted_although_its_branch_loses_the_record(work: Path, how: str) -> None:
    origin, proposed = work.parent / "origin.git", tip(work)
    if how == "moved on":
        git(origin, "update-ref", f"refs/heads/{BRANCH}", "main")
        with pytest.raises(Outrun):
            commit_record(work, BRANCH, "main")
    else:
        commit_record(work, BRANCH, "main")
        git(
            origin,
            "update-ref",
            *(["-d", f"refs/heads/{BRANCH}"] if how == "closed" else [f"refs/heads/{BRANCH}", proposed]),
        )
    later = work.parent / "later"
    git(work.parent, "clone", "--quiet", "--branch", "main", str(origin), str(later))
    (later / "reports").mkdir(exist_ok=True)
    (later / layout.EVALUATION).unlink(missing_ok=True)
    looks.write(Records(later))
    assert model(work) in {
        each for known in files.read_json(later / layout.LOOKS, LooksReport).models.values() for each in known
    }
    assert (
        git(later, "ls-tree", "-r", "--name-only", "origin/lockstep/looks")
        == f"{layout.EVALUATION}\n{layout.VERDICT}\n"
    )


def test_a_model_is_counted_once_and_beside_those_that_others_add_at_the_same_time(work: Path) -> None:
    origin = work.parent / "origin.git"
    other = git(work, "commit-tree", "-m", "begun by another", f"{head(work)}^{{tree}}").strip()
    git(work, "push", "--quiet", "origin", f"{other}:refs/heads/other")
    once = f"[ -e met ] || {{ touch met; env -u GIT_QUARANTINE_PATH git update-ref refs/heads/lockstep/looks {other}; exit 1; }}"
    git_service.hook(origin, "pre-receive", once)
    commit_record(work, BRANCH, "main")
    short = model(work).removeprefix("sha256:")[:12]
    (line,) = counted(work)
    assert line.startswith(f"look: model {short} on test ")
    assert git(origin, "log", "--format=%s", "--max-parents=0", "lockstep/looks") == "begun by another\n"
    commit_record(work, BRANCH, "main")
    assert counted(work) == [line]


def test_every_commit_of_the_looks_is_signed_if_git_signs_commits(work: Path) -> None:
    key = work.parent / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    for name, value in {"gpg.format": "ssh", "user.signingKey": f"{key}.pub", "commit.gpgSign": "yes"}.items():
        git(work, "config", name, value)
    looks_branch.add(Git(work, 60), "origin")
    commits = git(work.parent / "origin.git", "rev-list", "lockstep/looks").split()
    assert len(commits) == 2
    assert all("\ngpgsig " in git(work, "cat-file", "commit", each) for each in commits)


# What happened to the branch of the looks on the remote, and what the next look is told. ``$1``: a commit of others.
SPOILT = {
    "deleted": ("git update-ref -d refs/heads/lockstep/looks", r"was \w{12} and is gone; restore the branch"),
    "rewritten": (
        "git update-ref refs/heads/lockstep/looks $1",
        r"was .* its history was rewritten; restore the branch",
    ),
    "a file is in the way": (
        "commit $(printf '100644 blob %s\\treports\\n' $(echo x | git hash-object -w --stdin) | git mktree)",
        "reports: is not a folder",
    ),
    "always moved by others": (
        "printf '#!/bin/sh\\nenv -i PATH=\"$PATH\" GIT_DIR=. sh others' > hooks/pre-receive; chmod +x hooks/pre-receive",
        "others added looks during all 2 tries; run it again",
    ),
}
OTHERS = """
commit() {
    made=$(git -c user.name=o -c user.email=o@x.example commit-tree -m other -p lockstep/looks $1)
    git update-ref refs/heads/lockstep/looks $made
}
"""


@pytest.mark.parametrize("case", SPOILT)
def test_a_branch_of_looks_that_lost_some_or_takes_none_is_refused(
    work: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened, said = SPOILT[case]
    origin, ours = work.parent / "origin.git", Git(work, 60)
    looks_branch.add(ours, "origin")
    (origin / "others").write_text(f"{OTHERS}commit 'lockstep/looks^{{tree}}'\n")
    subprocess.run(["sh", "-c", f"{OTHERS}{happened}", "sh", tip(work)], cwd=origin, check=True)
    text = (work / layout.EVALUATION).read_text().replace(model(work), f"sha256:{'9' * 64}")
    (work / layout.EVALUATION).write_text(text)
    monkeypatch.setattr(looks_branch, "_TRIES", 2)
    with pytest.raises(RemoteRefused, match=f"^lockstep/looks of origin: {said}"):
        looks_branch.add(ours, "origin")


def test_a_remote_that_refuses_or_lies_is_told_and_nothing_changes_here(work: Path) -> None:
    proposed = tip(work)
    git_service.hook(work.parent / "origin.git", "pre-receive", "echo the branch is protected; exit 1")
    with pytest.raises(RemoteRefused, match="lockstep/looks of origin: was not created: the branch is protected"):
        commit_record(work, BRANCH, "main")
    only = f"while read old new ref; do [ $ref != refs/heads/{BRANCH} ] || {{ echo the branch is protected; exit 1; }}; done"
    git_service.hook(work.parent / "origin.git", "pre-receive", only)
    with pytest.raises(RemoteRefused, match=f"{BRANCH} of origin: the branch is protected: nothing was pushed"):
        commit_record(work, BRANCH, "main")
    assert (tip(work), head(work)) == (proposed, proposed)
    git(work, "remote", "set-url", "origin", str(work.parent / "nowhere.git"))
    with pytest.raises(RemoteRefused, match="git ls-remote origin"):
        commit_record(work, BRANCH, "main")
    assert head(work) == proposed


@pytest.mark.parametrize("name", ["", "-f", "a..b", "with space", "refs/heads/../x", "x\ny", "--upload-pack=evil"])
def test_what_is_no_branch_is_refused(work: Path, name: str) -> None:
    with pytest.raises((ParamsRefused, Outrun), match=r"is not a valid branch name|is gone"):
        commit_record(work, name, "main")


def test_no_record_without_a_verdict_of_these_parameters(work: Path) -> None:
    text = (work / "params.yaml").read_text()
    (work / "params.yaml").write_text(text.replace("learning_rate: 0.002", "learning_rate: 0.003"))
    with pytest.raises(
        EvidenceRefused, match=r"there is no verdict to record: the verdict does not hold: params.yaml: train"
    ):
        commit_record(work, BRANCH, "main")
    (work / "params.yaml").write_text(text + "\n# a remark that is not committed\n")
    with pytest.raises(EvidenceRefused, match=r"params.yaml: is not what HEAD has, and a stage reads it"):
        commit_record(work, BRANCH, "main")
    (work / "params.yaml").write_text(text)
    report_tree.bad_data(work)
    with pytest.raises(EvidenceRefused, match="validate refused the data"):
        commit_record(work, BRANCH, "main")


def test_a_record_of_code_that_git_never_had_is_none(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build_tree.ran_ignored_code(work, monkeypatch)
    with pytest.raises(EvidenceRefused, match="gate ran other code than this commit has"):
        commit_record(work, BRANCH, "main")


def test_without_a_commit_there_is_nothing_to_record(tmp_path: Path) -> None:
    with pytest.raises(EvidenceRefused, match="git has no commit here"):
        commit_record(tmp_path)


@pytest.mark.parametrize(
    ("pipeline", "told"),
    [
        ("stages: [fetch]", "dvc.yaml: no record of this pipeline: it has no stages"),
        ("- just a list", "dvc.yaml: no record of this pipeline: it has no stages"),
        ("stages: {fetch: {outs: [{../outside.json: {cache: false}}]}}", "../outside.json: is not a regular file here"),
        (
            "stages: {fetch: {outs: [{reports/absent.json: {cache: false}}]}}",
            "reports/absent.json: is not a regular file here",
        ),
        ("stages: {fetch: {outs: [{link.json: {cache: false}}]}}", "link.json: is not a regular file here"),
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
        committed.record_files(WorkTree(root))
