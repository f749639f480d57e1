"""docs/how-to/gitlab-ci.yml as a runner of GitLab runs it: its own checkout, artifacts over that, then the lines of a job."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

import pytest
import yaml

from tests.conftest import REPOSITORY
from tests.pipeline_repository import commit, git

LAUNCHER = """#!/bin/sh
echo "REVIEWED $*" >> "$CALLS"
[ "$1" = projects ] && exec "$PYTHON" -m release.cli "$@"
folder=.
[ "$1" = -C ] && folder=$2 && shift 2
[ "$1" = run ] || [ "$1" = record ] || exit 0
mkdir -p "$folder/reports"
echo made > "$folder/reports/verdict.json"
echo made > "$folder/dvc.lock"
"""
ATTACKS = ("lockstep", "kinds/gate/mine.py", "params.yaml", ".git/config", ".dvc/config")
CHANGED = ("projects/router", "projects/summary")
FILE = "docs/how-to/gitlab-ci.yml"


class Pipeline(NamedTuple):
    """Runs jobs of a pipeline of the branch `change`. ``artifact``: what the jobs left, as GitLab keeps it."""

    home: Path
    file: dict[str, Any]

    @property
    def artifact(self) -> Path:
        return self.home / "artifact"

    def run(self, name: str, **matrix: str) -> list[str]:
        """Run a job, and return which commands of the reviewed launcher it ran."""
        origin, builds, calls = (self.home / name for name in ("origin.git", "builds", "calls"))
        checkout = builds / "team/router"
        job: dict[str, Any] = self.file["default"] | self.file[name]
        known = {
            "CI_BUILDS_DIR": str(builds), "CI_PROJECT_DIR": str(checkout), "CI_REPOSITORY_URL": str(origin),
            "CI_COMMIT_SHA": git(origin, "rev-parse", "change").strip(), "CI_JOB_ID": name, "CI_PROJECT_URL": "https://lab",
            "CI_MERGE_REQUEST_SOURCE_BRANCH_NAME": "change", "DVC_CONFIG_LOCAL": "", "CI_CONFIG_PATH": FILE,
        }  # fmt: skip
        for variable, value in (self.file["variables"] | job.get("variables", {}) | matrix).items():
            known[variable] = Template(value).safe_substitute(known)
        shutil.rmtree(checkout, ignore_errors=True)
        checkout.mkdir(parents=True)
        if known.get("GIT_STRATEGY") != "empty":
            git(self.home, "clone", "--quiet", str(origin), str(checkout))
        if self.artifact.exists():
            shutil.copytree(self.artifact, checkout, dirs_exist_ok=True)
        calls.write_text("")
        machine = {"CALLS": str(calls), "HOME": str(self.home), "PYTHON": sys.executable, "PYTHONPATH": str(REPOSITORY)}
        for lines in ([*job["before_script"], *job["script"]], job.get("after_script", [])):
            script = ["bash", "-eo", "pipefail", "-c", "\n".join(lines)]
            subprocess.run(script, cwd=checkout, env=os.environ | known | machine, check=True, capture_output=True)
        for kept in job["artifacts"]["paths"]:
            path = checkout / Template(kept).substitute(known)
            to = self.artifact / path.relative_to(checkout)
            if path.is_dir():
                shutil.copytree(path, to, dirs_exist_ok=True)
            elif path.exists():
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, to)
        return [line.removeprefix("REVIEWED ") for line in calls.read_text().splitlines()]

    def attack(self) -> None:
        """Put files beside the record, as a job of a pull request may."""
        for path in ATTACKS:
            (self.artifact / path).parent.mkdir(parents=True, exist_ok=True)
            (self.artifact / path).write_text("an attack\n")


@pytest.fixture
def pipeline(tmp_path: Path) -> Pipeline:
    seed = tmp_path / "seed"
    (seed / ".dvc").mkdir(parents=True)
    (seed / ".dvc/config").write_text("reviewed\n")
    (seed / "lockstep").write_text(LAUNCHER)
    (seed / "lockstep").chmod(0o755)
    for name in (*CHANGED, "projects/other"):
        (seed / name).mkdir(parents=True)
        (seed / name / "dvc.yaml").write_text("stages: {}\n")
        (seed / name / "params.yaml").write_text(f"serve: {{name: {Path(name).name}}}\n")
    git(seed, "init", "--quiet", "--initial-branch=main")
    commit(seed, "start")
    git(tmp_path, "clone", "--quiet", "--bare", str(seed), str(tmp_path / "origin.git"))
    git(seed, "switch", "--quiet", "--create", "change")
    for name in CHANGED:
        (seed / name / "dvc.yaml").write_text("stages: {changed: {}}\n")
    commit(seed, "change")
    git(seed, "push", "--quiet", str(tmp_path / "origin.git"), "change")
    return Pipeline(tmp_path, yaml.safe_load((REPOSITORY / FILE).read_text()))


def test_the_jobs_hand_on_the_record_and_run_the_committed_code_whatever_an_artifact_has(pipeline: Pipeline) -> None:
    commands = {
        "data": ["-C . run validate", "-C . estimate"], "train": ["-C . run train", "-C . run"],
        "verdict": ["record", "comment --commit HEAD"],
    }  # fmt: skip
    for name, wanted in commands.items():
        assert pipeline.run(name) == wanted, name
        assert (pipeline.artifact / "reports/verdict.json").read_text() == "made\n"
        pipeline.attack()
    assert not list((pipeline.home / "builds").glob("lockstep-*")), "the login of DVC's remote stays nowhere"


def test_a_child_pipeline_has_the_jobs_of_each_project_that_the_branch_changes_and_one_verdict(
    pipeline: Pipeline,
) -> None:
    assert pipeline.run("projects") == ["projects --changed --json"]
    trigger = pipeline.file["each"]["trigger"]
    assert trigger["include"] == [{"artifact": "projects.yml", "job": "projects"}]
    added = yaml.safe_load((pipeline.artifact / "projects.yml").read_text())
    assert added.pop("include") == [{"local": f"/{FILE}"}]
    # Variables that a trigger hands on win over those of a job and of its matrix.
    assert trigger["forward"] == {"yaml_variables": False}
    child = Pipeline(pipeline.home, pipeline.file | {name: pipeline.file[name] | added[name] for name in added})
    for name, wanted in {"data": ["run validate", "estimate"], "train": ["run train", "run"]}.items():
        (matrix,) = child.file[name]["parallel"]["matrix"]
        assert matrix == {"PROJECT": list(CHANGED)}
        for project in matrix["PROJECT"]:
            assert child.run(name, PROJECT=project) == [f"-C {project} {command}" for command in wanted]
            assert (child.artifact / project / "reports/verdict.json").read_text() == "made\n"
            child.attack()
    # As `lockstep record` and `lockstep comment` read several folders from one variable.
    for verb in ("RECORD", "COMMENT"):
        assert child.file["variables"][f"LOCKSTEP_{verb}_PROJECTS"].split() == list(CHANGED)
    assert child.run("verdict") == ["record", "comment --commit HEAD"]


def test_jobs_of_a_model_are_not_in_a_pipeline_that_starts_a_child(pipeline: Pipeline) -> None:
    (parent,) = pipeline.file["projects"]["rules"]
    assert parent == {"if": '$LOCKSTEP_PROJECTS && $CI_PIPELINE_SOURCE == "merge_request_event"'}
    for name, job in pipeline.file.items():
        if name in ("projects", "each"):
            assert job["rules"] == [parent], name
        elif "script" in job:
            assert job["rules"][0] == parent | {"when": "never"}, name
