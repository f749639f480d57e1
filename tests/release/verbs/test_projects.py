"""Two projects in one repository: which a pull request changes, and that their releases, records and pages are apart."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from checks.config import params_file
from checks.process.errors import EvidenceRefused, ParamsRefused, PromotionRefused
from checks.storage import layout
from release.adapters.retries import Patience
from release.cli import main
from release.mirrors import mlflow
from release.record import looks_branch
from release.review.posting import CommentOptions
from release.verbs import page, projects, promote, quarantine
from release.verbs.comment import comment
from release.verbs.record import commit_record, refusal
from tests import ledger_tree, pipeline_repository, projects_tree, promotion_tree
from tests.conftest import scaled_down
from tests.github_api_standin import REPOSITORY, TOKEN, StandIn
from tests.ledger_tree import git, keep
from tests.projects_tree import FOLDERS
from tests.promotion_tree import move

pytestmark = pytest.mark.slow

alone = promotion_tree.alone
ROUTER, SUMMARY = FOLDERS
QUICK = Patience(tries=4, first=0.01, longest=0.02, on_request=2.0)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone with both projects, each with a signed release. Read-only by custom."""
    top = tmp_path_factory.mktemp("two") / "top"
    with pytest.MonkeyPatch.context() as patch:
        promotion_tree.leave_alone(patch)
        projects_tree.make(top)
    return ledger_tree.packed(top)


@pytest.fixture
def top(made: Path, tmp_path: Path) -> Path:
    return promotion_tree.copy(made, tmp_path / "top")


def changed(top: Path) -> list[str]:
    return [project.folder for project in projects.listed(top, "main") if project.changed]


def commit(top: Path, path: str, text: str) -> None:
    (top / path).parent.mkdir(parents=True, exist_ok=True)
    (top / path).write_text(text)
    keep(top, path)


def test_the_projects_that_a_branch_changes_are_those_of_its_files(top: Path) -> None:
    assert [(project.folder, project.model) for project in projects.listed(top)] == [
        (ROUTER, "router"),
        (SUMMARY, "summary"),
    ]
    git(top, "switch", "--quiet", "--create", "change")
    assert changed(top) == [ROUTER, SUMMARY]  # so that the check of an empty change is set
    commit(top, f"{ROUTER}/notes.md", "more data\n")
    git(top, "switch", "--quiet", "main")
    commit(top, f"{SUMMARY}/notes.md", "what the branch does not have is not its change\n")
    git(top, "switch", "--quiet", "change")
    assert changed(top / SUMMARY) == [ROUTER]
    listed = CliRunner().invoke(main, ["-C", str(top), "projects", "--changed", "--target", "main", "--json"])
    assert json.loads(listed.stdout) == [ROUTER]
    shown = CliRunner().invoke(main, ["-C", str(top), "projects"])
    assert shown.stdout.splitlines() == [f"{ROUTER}   router", f"{SUMMARY}  summary"]
    both = CliRunner().invoke(main, ["-C", str(top), "projects", "--matrix", "--json"])
    assert (both.exit_code, both.stdout) == (2, "")
    commit(top, "lockstep-requirements.txt", "lockstep-llm==0.2.0\n")
    assert changed(top) == [ROUTER, SUMMARY]


def test_a_push_releases_the_projects_whose_record_or_parameters_it_changes(top: Path) -> None:
    before = git(top, "rev-parse", "HEAD")
    commit(top, f"{ROUTER}/dvc.lock", (top / ROUTER / "dvc.lock").read_text() + "# judged again\n")
    commit(top, "lockstep-requirements.txt", "lockstep-llm==0.2.0\n")
    commit(top, f"{SUMMARY}/notes.md", "no release of it\n")

    def released(since: str) -> list[str]:
        said = CliRunner().invoke(main, ["-C", str(top), "projects", "--changed", "--since", since, "--json"])
        assert said.exit_code == 0, said.output
        return list(json.loads(said.stdout))

    assert released(before) == [ROUTER]
    assert released("0" * 40) == [ROUTER, SUMMARY], "of a branch that is new, or was pushed by force"


def test_two_projects_with_one_name_and_names_that_no_workflow_takes_are_refused(top: Path) -> None:
    shutil.copytree(top / ROUTER, top / "projects/other one", symlinks=True)
    keep(top, "a copy")
    with pytest.raises(EvidenceRefused, match=r"'projects/other one': .* rename the folder"):
        projects.listed(top)
    git(top, "mv", "projects/other one", "projects/other")
    keep(top, "renamed")
    with pytest.raises(ParamsRefused, match=f"serve.name: router: is in projects/other/params.yaml and in {ROUTER}/"):
        projects.listed(top)
    git(top, "rm", "-r", "--quiet", "projects")
    keep(top, "none")
    with pytest.raises(EvidenceRefused, match=r"no folder has params.yaml and dvc.yaml; begin a project"):
        projects.listed(top)


def test_two_projects_in_one_namespace_are_refused_by_both_files(top: Path) -> None:
    projects_tree.spaced(top / SUMMARY, "staging", "router-production")
    keep(top, "one namespace")
    files = [f"{ROUTER}/{layout.ENVIRONMENTS}/production", f"{SUMMARY}/{layout.ENVIRONMENTS}/staging"]
    first, second = (f"{folder}/environment.yaml" for folder in files)
    with pytest.raises(ParamsRefused, match=f"namespace: router-production: is in {first} and in {second}; give each"):
        projects.listed(top)
    with pytest.raises(
        PromotionRefused, match=f"{second}: namespace: 'router-production' .* in {first} too; give each"
    ):
        move(top / SUMMARY, "staging")
    assert move(top / ROUTER, "staging").done == "moved", "its own namespace is no other's"


def test_each_project_moves_by_itself(top: Path) -> None:
    move(top / ROUTER, "staging")
    move(top / ROUTER, "production")
    made = move(top / SUMMARY, "staging")
    assert made.tags == (f"{SUMMARY}=summary@v0.1.0", f"{SUMMARY}=summary#staging#1")
    assert git(top, "log", "-1", "--format=%s") == f"promote staging of {SUMMARY} to v0.1.0"
    bad = made.after and made.after.digest
    quarantine.add(top / ROUTER, bad or "", "bad there")
    assert [len(quarantine.held(top / folder).entries) for folder in FOLDERS] == [1, 0]
    assert move(top / SUMMARY, "production").done == "moved"
    names = [mlflow.model_name(top / folder, params_file.load(top / folder / layout.PARAMS)) for folder in FOLDERS]
    assert names == ["projects.router.router", "projects.summary.summary"]


def test_a_release_of_one_project_is_none_of_another_with_the_same_signers(top: Path) -> None:
    (top / layout.SIGNERS).parent.mkdir(parents=True)
    shutil.move(top / ROUTER / layout.SIGNERS, top / layout.SIGNERS)
    (top / SUMMARY / layout.SIGNERS).unlink()
    keep(top, "one policy for all")
    report = json.loads((top / ROUTER / layout.IMAGE_REPORT).read_text())
    assert move(top / ROUTER, "staging").done == "moved"
    image = f"oci:{top / ROUTER / layout.IMAGE}@{report['image']}"
    planned = promote.promote(top / SUMMARY, "staging", image=image, why="it answers well", dry_run=True)
    failed = {check.about: check.failures[0].what for check in planned.checks if check.failures}
    assert "evidence" not in failed  # a signer of both signed it
    assert failed["record"] == f"params.yaml at {report['commit'][:12]}: is missing"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, top: Path) -> Iterator[StandIn]:
    """GitHub, and the environment of a workflow of pull request 7."""
    event, head = tmp_path / "event.json", git(top, "rev-parse", "HEAD")
    event.write_text(json.dumps({"number": 7, "pull_request": {"number": 7, "head": {"sha": head}}}))
    with StandIn() as server:
        server.pull("change", sha=head, number=7)
        for name in [name for name in os.environ if name.startswith(("GITHUB_", "CML_"))]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("GITHUB_API_URL", server.url)
        monkeypatch.setenv("GITHUB_REPOSITORY", REPOSITORY)
        monkeypatch.setenv("GITHUB_TOKEN", TOKEN)
        monkeypatch.setenv("GITHUB_EVENT_PATH", str(event))
        yield server


def test_the_comment_is_one_with_a_part_for_each_project_and_one_check(hub: StandIn, top: Path) -> None:
    options = CommentOptions(target="main", patience=QUICK, use_cml=False, projects=FOLDERS)
    assert comment(top, options).conclusion == "success"
    (top / SUMMARY / layout.VERDICT).unlink()
    posted = comment(top, options)
    (only,) = hub.comments
    assert (posted.created, posted.conclusion) == (False, "failure")
    passed, failed = (check["output"]["title"] for check in hub.checks)
    assert passed == f"2 of 2 projects pass; {ROUTER}: ✅ Pass · the same model as main"
    assert failed.startswith(f"1 of 2 projects pass; {SUMMARY}: 🚫 The verdict does not hold")
    assert only["body"].startswith("### 🚫 1 of 2 projects pass\n\n| project | verdict |")
    assert f"run `./lockstep -C {SUMMARY} run`" in only["body"]
    assert f"./lockstep dvc --cd {SUMMARY} pull" in only["body"]
    assert only["body"].index(f"## `{SUMMARY}`") < only["body"].index(f"## `{ROUTER}`")


def test_the_records_of_projects_are_one_commit_and_a_missing_one_is_named(top: Path) -> None:
    git(top, "switch", "--quiet", "--create", "change")
    git(
        top,
        "rm",
        "-r",
        "--quiet",
        "--cached",
        *(f"{folder}/{name}" for folder in FOLDERS for name in ("reports", "dvc.lock")),
    )
    git(top, "commit", "--quiet", "-m", "a change without its records")
    ledger_tree.bare(top.parent / "origin.git", top)
    head = git(top, "rev-parse", "HEAD")
    recorded = commit_record(top, "change", "main", FOLDERS)
    assert git(top.parent / "origin.git", "rev-parse", "change") == recorded.commit
    assert git(top, "rev-parse", f"{recorded.commit}~1") == head
    assert git(top, "log", "-1", "--format=%s").startswith(f"Record: {ROUTER}: verdict pass, model ")
    assert {f"{folder}/dvc.lock" for folder in FOLDERS} <= set(recorded.files)
    looks = git(top.parent / "origin.git", "ls-tree", "-r", "--name-only", looks_branch.BRANCH).splitlines()
    assert {f"{folder}/{layout.EVALUATION}" for folder in FOLDERS} <= set(looks)
    (top / SUMMARY / layout.VERDICT).unlink()
    again = commit_record(top, "change", "main", FOLDERS)
    assert again.commit == recorded.commit
    refused = refusal(again)
    assert refused
    assert refused.what.startswith(f"{SUMMARY}: there is no verdict to record: ")
    with pytest.raises(EvidenceRefused, match="there is no verdict to record"):
        commit_record(top, "change", "main", [SUMMARY])


def test_a_change_of_one_project_makes_nothing_of_another_stale(top: Path) -> None:
    from release.record import committed, references
    from release.record.records import Records

    git(top, "switch", "--quiet", "--create", "change")
    commit(top, f"{ROUTER}/params.yaml", (top / ROUTER / "params.yaml").read_text().replace("tracking:", "tracking: #"))
    (top / ROUTER / "params.yaml").write_text("unfinished: true\n")
    records = Records(top / SUMMARY)
    assert committed.missing(records, git(top, "rev-parse", "HEAD")) is None
    assert references.current(records, "main") == []


def test_the_pages_of_projects_have_one_index(top: Path, tmp_path: Path) -> None:
    move(top / ROUTER, "staging")
    sites, files = page.of_projects(top, tmp_path / "public", FOLDERS)
    assert list(sites) == list(FOLDERS)
    assert {path.relative_to(tmp_path / "public").as_posix() for path in files} >= {
        "index.html",
        f"{ROUTER}/index.html",
        f"{ROUTER}/v0.1.0.html",
    }
    index = (tmp_path / "public" / "index.html").read_text()
    assert f'<a href="{ROUTER}/index.html">router</a>' in index
    assert "staging: v0.1.0" in index


@pytest.mark.parametrize("folder", ["nowhere", "../top/projects/router", "/etc"])
def test_a_folder_that_is_no_project_is_a_mistake_of_the_command_line(top: Path, folder: str) -> None:
    for words in (["record"], ["comment"], ["page", "--out", "public"]):
        said = CliRunner().invoke(main, ["-C", str(top), *words, "--project", folder])
        assert said.exit_code == 2
        assert f"--project '{folder}': give each folder below this one" in said.stderr


def test_two_projects_of_one_clone_run_at_once(tiny_base: Path, tmp_path: Path) -> None:
    top, made = tmp_path / "top", tmp_path / "made"
    made.mkdir()
    pipeline_repository.make(made, tiny_base, scaled_down(), pipeline_repository.table(), code=())
    for folder in FOLDERS:
        shutil.copytree(made, top / folder, ignore=shutil.ignore_patterns(".git", ".dvc"))
    shutil.copytree(made / ".dvc", top / ".dvc")
    params = yaml.safe_load((top / SUMMARY / layout.PARAMS).read_text())
    params["prepare"]["splits"]["test"] = 0.3
    pipeline_repository.write_params(top / SUMMARY, params)
    git(top, "init", "--quiet", "--initial-branch=main")
    keep(top, "two projects")

    def run(folder: str) -> tuple[list[str], int]:
        command = [pipeline_repository.interpreter(), "-m", "release.cli", "-C", folder, "run", "prepare"]
        given = pipeline_repository.environment(LOCKSTEP_ROOT=str(top))
        done = subprocess.run(command, cwd=top, env=given, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        rows = json.loads((top / folder / layout.REPORTS / "prepare.json").read_text())["splits"]["test"]["rows"]
        return re.findall(r"✓ (fetch|prepare)", done.stderr), rows

    with ThreadPoolExecutor(2) as pool:
        router, summary = pool.map(run, FOLDERS)
    assert router[0] == summary[0] == ["fetch", "prepare"]
    assert router[1] < summary[1]
    changed = git(top, "status", "--porcelain", "--untracked-files=all").splitlines()
    assert len(changed) >= 8
    assert all(line[3:].startswith(FOLDERS) for line in changed)
