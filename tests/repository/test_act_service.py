"""The harness that runs workflow files under act: what it reports is what the jobs did."""

from pathlib import Path
from typing import Any

import pytest

from tests.act_service import Act
from tests.pipeline_repository import commit, git

pytestmark = pytest.mark.slow

CHECKOUT = "actions/checkout@3d3c42e5aac5ba805825da76410c181273ba90b1"
UPLOAD = "actions/upload-artifact@bbbca2ddaa5d8feaa63e36b76fdaad77386f024f"
DOWNLOAD = "actions/download-artifact@3e5f45b2cfb9172054b4087a40e8e0b5a5461e7c"
WORKFLOW = f"""
on: push
concurrency:
  group: one
  queue: max
jobs:
  first:
    runs-on: ubuntu-latest
    outputs:
      kept: ${{{{ steps.kept.outputs.artifact-url }}}}
      nothing: ${{{{ steps.nothing.outputs.artifact-url }}}}
    steps:
      - uses: {CHECKOUT}
        with: {{fetch-depth: 0}}
      - name: says
        run: |
          echo "from $(git config remote.origin.url) at $(git rev-parse HEAD), $LOCKSTEP_IMAGE, $TOKEN"
          echo "on the page" >> "$GITHUB_STEP_SUMMARY"
          mkdir -p reports .state && echo kept > reports/a.json && echo 1 > dvc.lock
          touch reports/.gitignore .state/other && echo why > .state/why.json
        env:
          LOCKSTEP_IMAGE: ${{{{ vars.LOCKSTEP_IMAGE }}}}
          TOKEN: ${{{{ secrets.TOKEN }}}}
      - uses: {UPLOAD}
        id: kept
        with:
          name: record
          path: |
            dvc.lock
            reports
            !reports/**/.*
            .state/why.json
          include-hidden-files: true
      - uses: {UPLOAD}
        id: nothing
        with: {{name: nothing, path: data/none, if-no-files-found: ignore}}
      - name: passed over
        if: github.event.forced
        run: exit 1
      - name: fails
        run: exit 3
  second:
    needs: first
    runs-on: [self-hosted, gpu]
    steps: [{{run: echo never}}]
  last:
    needs: [first, second]
    if: ${{{{ !cancelled() }}}}
    runs-on: ubuntu-latest
    steps:
      - uses: {DOWNLOAD}
        with: {{name: record}}
      - run: test "$(cat reports/a.json)" = kept && echo "after ${{{{ needs.second.result }}}}"
      - run: test "$(cat .state/why.json)" = why && test ! -e .state/other && test ! -e reports/.gitignore
      - run: echo "at ${{{{ needs.first.outputs.kept }}}}, ${{{{ needs.first.outputs.nothing || 'nowhere' }}}}"
"""


@pytest.fixture
def act(tmp_path: Path) -> Act:
    origin = tmp_path / "origin.git"
    git(tmp_path, "init", "--quiet", "--bare", "--initial-branch=main", str(origin))
    made = Act(tmp_path / "act", origin, "http://127.0.0.1:9", "octo/router")
    (made.folder / "venv").mkdir(parents=True)  # the workflows here need nothing installed
    made.variables["LOCKSTEP_IMAGE"] = "registry.example/router"
    made.secrets["TOKEN"] = "ghs_of_a_test"
    return made


def pushed(act: Act, workflow: str) -> str:
    """The commit with this workflow, on the bare remote."""
    work = act.folder.parent / "work"
    git(act.folder.parent, "clone", "--quiet", str(act.origin), str(work))
    (work / ".github" / "workflows").mkdir(parents=True)
    (work / ".github" / "workflows" / "it.yml").write_text(workflow)
    commit(work, "a workflow")
    git(work, "push", "--quiet", "origin", "HEAD:main")
    return git(work, "rev-parse", "HEAD").strip()


def test_jobs_steps_logs_artifacts_and_secrets_are_as_they_were(act: Act) -> None:
    sha = pushed(act, WORKFLOW)
    run = act.run("it.yml", "push", {"ref": "refs/heads/main", "after": sha}, sha)
    assert run.conclusions() == {"first": "failure", "second": "skipped", "last": "success"}, run.text
    first = run.jobs["first"]
    assert [(step.name, step.outcome) for step in first.steps if "@" not in step.name] == [
        ("says", "success"),
        ("fails", "failure"),
    ]
    assert f"from {act.origin} at {sha}, registry.example/router, ***" in first.log
    assert "ghs_of_a_test" not in run.text
    assert first.summary == "on the page\n"
    assert "after skipped" in run.jobs["last"].log
    assert "at https://github.com/octo/router/actions/runs/1/artifacts/1, nowhere" in run.jobs["last"].log


def test_an_action_that_nothing_stands_in_for_is_an_error(act: Act) -> None:
    sha = pushed(act, WORKFLOW.replace("actions/checkout@", "actions/somewhere@"))
    with pytest.raises(AssertionError, match="nothing in tests/actions stands in for actions/somewhere"):
        act.run("it.yml", "push", {"ref": "refs/heads/main"}, sha)


def test_a_workflow_that_is_none_is_an_error(act: Act) -> None:
    sha = pushed(act, "on: push\njobs: {first: {runs-on: ubuntu-latest, stepz: []}}\n")
    with pytest.raises(AssertionError, match="Unknown Property stepz"):
        act.run("it.yml", "push", {"ref": "refs/heads/main"}, sha)


def test_killed_it_leaves_no_process_and_no_result(act: Act) -> None:
    sleeps = "on: push\njobs: {first: {runs-on: ubuntu-latest, steps: [{run: echo begun; sleep 60}]}}\n"
    sha = pushed(act, sleeps)

    def watch(line: dict[str, Any]) -> None:
        if "begun" in line["msg"] and line.get("raw_output"):
            act.kill()

    run = act.run("it.yml", "push", {"ref": "refs/heads/main"}, sha, watch=watch)
    assert run.conclusions() == {"first": "cancelled"}
    assert act.processes() == []
