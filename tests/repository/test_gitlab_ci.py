"""docs/how-to/gitlab-ci.yml as a runner of GitLab runs it: its own checkout, artifacts over that, then the lines of a job."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from string import Template
from typing import Any

import pytest
import yaml

from tests.conftest import REPOSITORY
from tests.pipeline_repository import commit, git

LAUNCHER = """#!/bin/sh
echo "REVIEWED $*" >> "$CALLS"
[ "$1" = run ] || [ "$1" = record ] || exit 0
mkdir -p reports
echo made > reports/verdict.json
echo made > dvc.lock
"""
ATTACKS = ("lockstep", "kinds/gate/mine.py", "params.yaml", ".git/config", ".dvc/config")
Run = Callable[[str], str]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run a job for the last commit, and return which commands of the reviewed launcher it ran."""
    seed, origin, builds = tmp_path / "seed", tmp_path / "origin.git", tmp_path / "builds"
    (seed / ".dvc").mkdir(parents=True)
    (seed / ".dvc/config").write_text("reviewed\n")
    (seed / "lockstep").write_text(LAUNCHER)
    (seed / "lockstep").chmod(0o755)
    git(seed, "init", "--quiet", "--initial-branch=main")
    commit(seed, "start")
    git(tmp_path, "clone", "--quiet", "--bare", str(seed), str(origin))
    checkout, artifact, calls = builds / "team/router", tmp_path / "artifact", tmp_path / "calls"
    file = yaml.safe_load((REPOSITORY / "docs/how-to/gitlab-ci.yml").read_text())

    def ran(name: str) -> str:
        job: dict[str, Any] = file["default"] | file[name]
        known = {
            "CI_BUILDS_DIR": str(builds), "CI_PROJECT_DIR": str(checkout), "CI_REPOSITORY_URL": str(origin),
            "CI_COMMIT_SHA": git(origin, "rev-parse", "main").strip(), "CI_JOB_ID": name, "CI_PROJECT_URL": "https://lab",
            "CI_MERGE_REQUEST_SOURCE_BRANCH_NAME": "change", "DVC_CONFIG_LOCAL": "",
        }  # fmt: skip
        for variable, value in (file["variables"] | job.get("variables", {})).items():
            known[variable] = Template(value).safe_substitute(known)
        shutil.rmtree(checkout, ignore_errors=True)
        checkout.mkdir(parents=True)
        if known.get("GIT_STRATEGY") != "empty":
            git(tmp_path, "clone", "--quiet", str(origin), str(checkout))
        if artifact.exists():
            shutil.copytree(artifact, checkout, dirs_exist_ok=True)
        calls.write_text("")
        environment = os.environ | known | {"CALLS": str(calls), "HOME": str(tmp_path)}
        for lines in ([*job["before_script"], *job["script"]], job.get("after_script", [])):
            script = ["bash", "-eo", "pipefail", "-c", "\n".join(lines)]
            subprocess.run(script, cwd=checkout, env=environment, check=True, capture_output=True)
        for path in filter(Path.exists, (checkout / each for each in job["artifacts"]["paths"])):
            to = artifact / path.relative_to(checkout)
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(path, to, dirs_exist_ok=True) if path.is_dir() else shutil.copy(path, to)
        return calls.read_text()

    return ran


def test_the_jobs_hand_on_the_record_and_run_the_committed_code_whatever_an_artifact_has(
    run: Run, tmp_path: Path
) -> None:
    commands = {
        "data": ["run validate", "estimate"], "train": ["run train", "run"], "verdict": ["record", "comment --commit HEAD"],
    }  # fmt: skip
    for name, wanted in commands.items():
        assert run(name).splitlines() == [f"REVIEWED {line}" for line in wanted], name
        assert (tmp_path / "artifact/reports/verdict.json").read_text() == "made\n"
        for path in ATTACKS:
            (tmp_path / "artifact" / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "artifact" / path).write_text("an attack\n")
    assert not list((tmp_path / "builds").glob("lockstep-*")), "the login of DVC's remote stays nowhere"
