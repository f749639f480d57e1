"""The hook that keeps forks off the GPU runner, as the runner starts it: what it lets pass, what it ends."""

import json
import os
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPOSITORY

HOOK = REPOSITORY / ".github" / "runner" / "job-started.sh"
HERE, SHA, OTHER = "octo/router", "a" * 40, "b" * 40
SETTLED = ("push", "schedule", "workflow_dispatch")


def pull(
    repo: str | None = HERE, labels: tuple[str, ...] = (), sha: str = SHA, kind: str = "User", **more: Any
) -> dict[str, Any]:
    """The payload of an event of a pull request. ``repo``: where its branch is; None: its fork was deleted."""
    head = {"sha": sha, "repo": repo and {"full_name": repo, "fork": repo != HERE}}
    user = {"login": "ada", "type": kind}
    return {"pull_request": {"head": head, "labels": [{"name": name} for name in labels], "user": user}, **more}


def started(folder: Path, payload: object, event: str = "pull_request", **environment: str) -> tuple[int, str]:
    """The hook's exit code and what it says. A payload that is text is the file as it stands."""
    path = folder / "event.json"
    path.write_text(payload if isinstance(payload, str) else json.dumps(payload))
    done = subprocess.run(  # as the runner does
        ["bash", "-e", HOOK],
        cwd=folder,
        env=_runner(path, event) | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    return done.returncode, done.stdout.strip()


def _runner(path: Path, event: str) -> dict[str, str]:
    """What the runner sets for a hook, as far as it is looked at."""
    here = {"GITHUB_EVENT_NAME": event, "GITHUB_EVENT_PATH": str(path), "GITHUB_REPOSITORY": HERE}
    return {"PATH": os.environ["PATH"]} | here


@pytest.mark.parametrize("event", SETTLED)
def test_the_repositorys_own_jobs_pass(tmp_path: Path, event: str) -> None:
    assert started(tmp_path, {"ref": "refs/heads/main"}, event) == (0, "")


def test_the_repositorys_own_pull_requests_pass(tmp_path: Path) -> None:
    assert started(tmp_path, pull()) == (0, "")


def test_a_fork_or_a_bot_passes_with_the_label_of_its_very_commit(tmp_path: Path) -> None:
    assert started(tmp_path, pull(kind="Bot", labels=(f"run {SHA}",))) == (0, "")
    assert started(tmp_path, pull("stranger/router", ("question", f"run {SHA}"))) == (0, "")
    assert started(tmp_path, pull(None, (f"run {SHA}",))) == (0, "")


@pytest.mark.parametrize(
    ("payload", "event"),
    [
        (pull("stranger/router"), "pull_request"),
        (pull(None), "pull_request"),
        (pull("stranger/router", (f"run {OTHER}", f"run {SHA[:20]}", SHA, f"RUN {SHA}")), "pull_request"),
        (pull("stranger/router", (f"run {SHA}x",), sha=f"{SHA}x"), "pull_request"),
        (pull("Octo/router/.."), "pull_request"),
        (pull(kind="Bot"), "pull_request"),
        (pull(kind="Bot", labels=("dependencies", f"run {OTHER}")), "pull_request"),
        ({"pull_request": pull()["pull_request"] | {"user": None}}, "pull_request"),
        (pull("stranger/router"), "push"),
        (pull("stranger/router"), "workflow_dispatch"),
        (pull(), "pull_request_target"),
        ({"workflow_run": {"head_repository": {"full_name": "stranger/router"}}}, "workflow_run"),
        ({"issue": {"number": 1}}, "issue_comment"),
        ({}, "pull_request"),
        ({"pull_request": None}, "pull_request"),
        ([], "pull_request"),
        ({}, ""),
        ("", "push"),
        ("{", "push"),
        ("null", "push"),
    ],
)
def test_everything_else_is_refused_in_one_line(tmp_path: Path, payload: object, event: str) -> None:
    code, said = started(tmp_path, payload, event)
    assert code == 1
    assert re.fullmatch("::error::refused: [^\n]+", said)


def test_a_refused_fork_is_told_the_label(tmp_path: Path) -> None:
    assert f"`run {SHA}`" in started(tmp_path, pull("stranger/router"))[1]


@pytest.mark.parametrize("name", ["GITHUB_EVENT_NAME", "GITHUB_EVENT_PATH", "GITHUB_REPOSITORY"])
def test_without_what_the_runner_sets_a_pull_request_is_refused(tmp_path: Path, name: str) -> None:
    assert started(tmp_path, pull(""), **{name: ""})[0] == 1


def test_a_machine_without_python_refuses(tmp_path: Path) -> None:
    for tool in ("bash", "cat"):
        (tmp_path / tool).symlink_to(f"/usr/bin/{tool}")
    code, said = started(tmp_path, {"ref": "refs/heads/main"}, "push", PATH=str(tmp_path))
    assert (code, said) == (1, "::error::refused: the event that started this job cannot be read")


def test_nothing_that_a_job_before_left_in_the_work_tree_is_run(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit(0)\n")
    assert started(tmp_path, pull("stranger/router"), PYTHONPATH=str(tmp_path))[0] == 1


@pytest.mark.slow
@pytest.mark.parametrize(("labels", "goes_on"), [((), False), ((f"run {SHA}",), True)])
def test_steps_that_always_run_do_not_run_after_a_refusal(
    tmp_path: Path, labels: tuple[str, ...], goes_on: bool
) -> None:
    """The runner ends a failed job's steps but those with `if: always()`; a script of its worker's name stands in."""
    worker = tmp_path / "Runner.Worker"
    worker.write_text('#!/bin/bash\nbash -e "$1"\ntouch "$2"\n')
    worker.chmod(0o755)
    event = tmp_path / "event.json"
    event.write_text(json.dumps(pull("stranger/router", labels)))
    runner = _runner(event, "pull_request")
    process = subprocess.Popen([worker, HOOK, tmp_path / "a-step"], env=runner, start_new_session=True)
    if not goes_on:
        time.sleep(1)
        os.killpg(process.pid, 2)  # the run is cancelled while it says why
    assert (process.wait(20) == 0) is goes_on
    time.sleep(0.3)
    assert (tmp_path / "a-step").exists() is goes_on
