"""A bot's pull request that changes the server's digest alone, under act: no training, one comment, the right check."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from checks.storage import layout
from tests import workflow_repository
from tests.act_service import Run
from tests.github_api_standin import StandIn
from tests.pipeline_repository import git
from tests.workflow_repository import Pull, Team

pytestmark = pytest.mark.slow

BRANCH = "renovate/server"
OLD, NEW = (f"registry.example/servers/server:1@sha256:{digit * 64}" for digit in "67")


@pytest.fixture(scope="module")
def team(tiny_base: Path, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    """A repository whose main has a record that passes, and names the server of its weights."""
    document = workflow_repository.document()
    document["serve"]["server"] = OLD
    with StandIn() as hub:
        team = workflow_repository.make(tmp_path_factory.mktemp("server") / "team", tiny_base, document, hub, wheel)
        hub.pull("first", number=1)
        team.change("first", lambda value: value["train"].update(learning_rate=0.03), "The first model", base="main")
        assert team.judged(1, action="opened").check["conclusion"] == "success"
        team.merge("first")
        hub.pulls[1]["state"] = "closed"
        yield team


@pytest.fixture(scope="module")
def opened(team: Team) -> Run:
    """What Renovate does: one line of params.yaml, and its pull request."""
    team.hub.pull(BRANCH, number=2)["user"] = {"login": "renovate[bot]", "type": "Bot"}
    git(team.work, "fetch", "--quiet", "origin")
    git(team.work, "switch", "--quiet", "--no-track", "--force-create", BRANCH, "origin/main")
    path = team.work / layout.PARAMS
    path.write_text(path.read_text().replace(OLD, NEW))
    team.push(BRANCH, "Update the server's digest")
    return team.pull_request(2, action="opened")


@pytest.fixture(scope="module")
def judged(team: Team, opened: Run) -> Pull:
    """The run after a maintainer has put the label on that very commit."""
    name = f"run {team.tip(BRANCH)}"
    team.hub.pulls[2]["labels"] = [{"name": name}]
    return team.judged(2, action="labeled", label=name)


def test_nothing_of_it_runs_before_a_maintainer_labels_its_commit(team: Team, opened: Run) -> None:
    assert set(opened.conclusions().values()) == {"skipped"}
    assert git(team.origin, "diff", "--numstat", "main", BRANCH).split() == ["1", "1", str(layout.PARAMS)]


def test_nothing_is_trained_or_computed_again(judged: Pull) -> None:
    done = {"projects": "skipped", "data": "success", "train": "success", "verdict": "success"}
    assert judged.run.conclusions() == done, judged.run.text
    assert (judged.stages("data"), judged.stages("train")) == ([], [])


def test_the_comment_says_that_the_weights_are_the_same_and_what_compares_the_servers(judged: Pull) -> None:
    assert judged.first_line().startswith("### ⚠️ Pass, but the policy changes in 1 place")
    assert "serve.server" in judged.comment
    assert "The weights stay those of main, in another server" in judged.comment
    assert "`./lockstep verify --against ENV`" in judged.comment


def test_the_check_waits_for_a_code_owner_and_the_branch_has_no_other_record(team: Team, judged: Pull) -> None:
    assert judged.check["head_sha"] == team.tip(BRANCH)
    assert judged.check["conclusion"] == "failure"  # GitHub takes a required check that is neutral
    assert judged.check["output"]["title"].startswith("⚠️ Pass, but the policy changes in 1 place")
    changed = set(git(team.origin, "diff", "--name-only", "main", BRANCH).split())
    assert not changed & {"dvc.lock", "code.lock"}
