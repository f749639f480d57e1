"""Workflows of a repository with several projects, under act: which jobs run what, and where each finds the other's files.

The launcher is a stand-in that writes what `lockstep` would. The real one releases two projects in
tests/repository/test_workflow_pull_request.py.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.act_service import COMMIT, LOCKSTEP, Act, Run
from tests.conftest import REPOSITORY
from tests.pipeline_repository import commit, git

pytestmark = pytest.mark.slow

BOTH = ("projects/router", "projects/summary")

LAUNCHER = """#!/usr/bin/env python3
import os, shutil, sys
from pathlib import Path

verb, *words = sys.argv[1:]
projects = os.environ.get(f"LOCKSTEP_{verb.upper()}_PROJECTS")
print("LOCKSTEP", *sys.argv[1:], *([] if projects is None else ["of", projects]), file=sys.stderr)
step = words[1] if verb == "-C" else verb
artifact = os.environ.get(f"LOCKSTEP_{step.upper()}_ARTIFACT")
if step in ("verify", "sign"):
    names = ("image.json", "serving.json")[: 1 if step == "verify" else 2]
    assert [(Path(artifact) / name).read_text() for name in names] == [words[0]] * len(names), "of another project"
elif artifact:
    shutil.copytree(artifact, ".", dirs_exist_ok=True)
if verb == "projects":
    matrix = '[{"folder": "projects/router", "of": "-0"}, {"folder": "projects/summary", "of": "-1"}]'
    print(f"matrix={matrix}\\nfolders=projects/router projects/summary")
elif verb == "-C":
    reports = Path(words[0]) / "reports"
    reports.mkdir(parents=True, exist_ok=True)
    if words[1:] == ["run", "validate"]:
        for name in ("code.lock", "dvc.lock", "reports/data.json"):
            (reports.parent / name).write_text(words[0])
        sys.exit(words[0] == os.environ["REFUSES"])
    elif words[1] == "run":
        assert (reports / "data.json").read_text() == words[0], "this is not the record of the job before"
        (reports / "verdict.json").write_text(words[0])
    elif words[1] in ("calibrate", "build", "verify"):
        for name in {"calibrate": ["noise"], "build": ["image"]}.get(words[1], ["serving", "serving.intoto"]):
            (reports / f"{name}.json").write_text(words[0])
        sys.exit(words == [os.environ.get("REFUSES"), "build"])
    sys.exit(words[1] == os.environ.get("REFUSES"))
elif verb in ("record", "comment"):
    print("CLOSES", os.environ.get("LOCKSTEP_COMMENT_CLOSE"), file=sys.stderr)
    print("HAS", *sorted(map(str, Path().glob("projects/*/reports/*"))), file=sys.stderr)
"""


@pytest.fixture
def act(tmp_path: Path) -> Act:
    """A repository with the workflows of release/thin."""
    work, origin = tmp_path / "work", tmp_path / "origin.git"
    (work / ".github/workflows").mkdir(parents=True)
    (work / ".dvc").mkdir()
    for thin in (REPOSITORY / "release/thin/.github/workflows").iterdir():
        text = thin.read_text().replace("OWNER/lockstep", LOCKSTEP).replace("0" * 40, COMMIT)
        (work / ".github/workflows" / thin.name).write_text(text)
    (work / "lockstep").write_text(LAUNCHER)
    (work / "lockstep").chmod(0o755)
    git(work, "init", "--quiet", "--initial-branch=main")
    commit(work, "start")
    git(tmp_path, "clone", "--quiet", "--bare", str(work), str(origin))
    act = Act(tmp_path / "act", origin, "http://127.0.0.1:9", "octo/router", {"LOCKSTEP_PROJECTS": "yes"})
    (act.folder / "venv").mkdir(parents=True)  # the stand-in needs nothing installed
    return act


@pytest.fixture
def run(act: Act) -> Callable[..., Run]:
    """The run of a pull request, in which the data of one project may be refused."""
    sha = git(act.origin, "rev-parse", "main").strip()

    def ran(refuses: str = "", author: str = "User", label: str = "") -> Run:
        act.environment["REFUSES"] = refuses
        return act.run("pr.yml", "pull_request", _event(sha, author, label and f"{label} {sha}"), sha)

    return ran


def _event(sha: str, author: str, label: str) -> dict[str, Any]:
    repository = {"full_name": "octo/router", "name": "router", "owner": {"login": "octo"}, "fork": False}
    head = {"ref": "change", "sha": sha, "repo": repository}
    return {
        "action": "labeled" if label else "opened", "label": {"name": label}, "number": 1,
        "repository": repository | {"default_branch": "main"},
        "pull_request": {
            "number": 1, "head": head, "base": {"ref": "main"}, "labels": [{"name": label}], "user": {"type": author},
        },
    }  # fmt: skip


def _said(run: Run, job: str, word: str) -> list[str]:
    return sorted(line.partition(f"{word} ")[2] for line in run.jobs[job].log.splitlines() if line.startswith(word))


def test_each_project_has_its_jobs_and_one_job_records_and_comments_on_all(act: Act, run: Callable[..., Run]) -> None:
    """The job that comments is alone told whose harvests to close."""
    act.variables["LOCKSTEP_HARVEST_CLOSE"] = "acme-machine"
    done = run()
    assert set(done.conclusions().values()) == {"success"}, done.text
    asked = [words for words in _said(done, "data", "LOCKSTEP") if "validate" in words]
    assert asked == [f"-C {folder} run validate" for folder in BOTH]
    assert [f"-C {folder} run" for folder in BOTH] == [w for w in _said(done, "train", "LOCKSTEP") if w.endswith("run")]
    record, comment = (
        [words for words in _said(done, "verdict", "LOCKSTEP") if words.startswith(verb)]
        for verb in ("record", "comment")
    )
    assert record == [f"record of {' '.join(BOTH)}"]
    assert comment == [f"comment --commit HEAD of {' '.join(BOTH)}"]
    files = [f"{folder}/reports/{name}.json" for folder in BOTH for name in ("data", "verdict")]
    assert _said(done, "verdict", "HAS") == [" ".join(files)] * 2
    assert _said(done, "verdict", "CLOSES") == ["None", "acme-machine"]


def test_refused_data_of_one_project_starts_no_training_and_the_comment_is_made(run: Callable[..., Run]) -> None:
    done = run(refuses="projects/summary")
    assert done.conclusions() == {"projects": "success", "data": "failure", "train": "skipped", "verdict": "success"}
    assert len(_said(done, "verdict", "HAS")) == 2
    assert _said(done, "verdict", "CLOSES") == ["", "None"]  # nobody's harvests are closed without the variable


def test_a_bots_pull_request_starts_nothing_before_its_commit_has_the_label(run: Callable[..., Run]) -> None:
    assert set(run(author="Bot").conclusions().values()) == {"skipped"}
    assert set(run(author="Bot", label="question").conclusions().values()) == {"skipped"}
    assert set(run(author="Bot", label="run").conclusions().values()) == {"success"}


def test_a_weekly_run_is_of_every_project(act: Act) -> None:
    done = act.run("scheduled.yml", "schedule", {"schedule": "17 4 * * 1"}, _main(act))
    assert set(done.conclusions().values()) == {"success"}, done.text
    assert "projects --matrix" in _said(done, "projects", "LOCKSTEP")
    for job, verbs in {"calibrate": ["calibrate"], "rehearse": ["drill -- production", "reconcile"]}.items():
        asked = [words for words in _said(done, job, "LOCKSTEP") if words.startswith("-C")]
        assert asked == [f"-C {folder} {verb}" for folder in BOTH for verb in verbs]


def _main(act: Act) -> str:
    return git(act.origin, "rev-parse", "main").strip()


def test_a_harvest_fetches_the_splits_and_is_made_even_where_the_week_shows_an_alarm(act: Act) -> None:
    act.variables |= {"LOCKSTEP_CAPTURES": "s3://captures", "LOCKSTEP_HARVEST": "yes"}
    act.environment["REFUSES"] = "watch"
    done = act.run("watch.yml", "schedule", {"schedule": "43 5 * * 1"}, _main(act))
    assert done.conclusions()["watch"] == "failure", done.text
    assert "projects --matrix" in _said(done, "projects", "LOCKSTEP")
    asked = _said(done, "watch", "LOCKSTEP")
    assert [words for words in asked if words.startswith("dvc")] == [
        f"dvc --cd {folder} pull data/splits" for folder in BOTH
    ]
    assert [words for words in asked if words.startswith("-C")] == [
        f"-C {folder} {verb} --pr -- production" for folder in BOTH for verb in ("harvest", "watch")
    ]


def test_nothing_is_harvested_before_a_variable_says_so(act: Act) -> None:
    act.variables["LOCKSTEP_CAPTURES"] = "s3://captures"
    done = act.run("watch.yml", "schedule", {"schedule": "43 5 * * 1"}, _main(act))
    assert set(done.conclusions().values()) == {"success"}, done.text
    asked = [words for words in _said(done, "watch", "LOCKSTEP") if words.startswith(("-C", "dvc"))]
    assert asked == [f"-C {folder} watch --pr -- production" for folder in BOTH]


def test_a_project_that_is_not_built_holds_no_other(act: Act) -> None:
    act.environment["REFUSES"] = "projects/router"
    sha = git(act.origin, "rev-parse", "main").strip()
    repository = {"full_name": "octo/router", "name": "router", "owner": {"login": "octo"}, "default_branch": "main"}
    event = {"ref": "refs/heads/main", "before": "0" * 40, "after": sha, "repository": repository}
    done = act.run("release.yml", "push", event, sha)
    assert done.conclusions()["build"] == done.conclusions()["verify"] == "failure", done.text
    # act ends the run here, because a called workflow failed; GitHub goes on.
    verified = [words for words in _said(done, "verify", "LOCKSTEP") if words.startswith("-C")]
    assert verified == ["-C projects/summary verify"]
