"""The report on GitLab, by a stand-in for its API: one note, created once and then updated, and a commit status."""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from checks.process.errors import RemoteRefused
from release.adapters import gitlab
from release.adapters.retries import Patience, RequestError
from release.cli import main
from release.review import forge_comment
from release.review.posting import CommentOptions, Posted, watermark
from release.verbs import comment as verb
from tests import gitlab_standin, report_tree
from tests.conftest import REPOSITORY
from tests.gitlab_standin import BOT, GUEST, TOKEN, StandIn
from tests.pipeline_repository import git

pytestmark = pytest.mark.slow

QUICK = Patience(tries=4, first=0.01, longest=0.02, on_request=2.0)
OPTIONS = CommentOptions(target="main", patience=QUICK)
PAGE = "https://gitlab.example/team/router"


@pytest.fixture(scope="module")
def passing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("passing") / "mr"
    report_tree.pull_request(root)
    return root


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch, passing: Path) -> Iterator[StandIn]:
    """GitLab, and the environment of a pipeline of merge request 7, whose last commit is that of ``passing``."""
    last = git(passing, "rev-parse", "HEAD").strip()
    with StandIn() as server:
        server.commits.add(last)
        report_tree.report_once(monkeypatch, passing)
        for name in [name for name in os.environ if name.startswith(("GITHUB_", "CI_", "GITLAB_"))]:
            monkeypatch.delenv(name)
        values = {
            "GITLAB_TOKEN": TOKEN, "CI_API_V4_URL": f"{server.url}/api/v4", "CI_PROJECT_ID": "42",
            "CI_MERGE_REQUEST_IID": "7", "CI_COMMIT_SHA": last, "CI_PIPELINE_ID": "9", "CI_PROJECT_URL": PAGE,
            "CI_PIPELINE_URL": f"{PAGE}/-/pipelines/9",
        }  # fmt: skip
        for name, value in values.items():
            monkeypatch.setenv(name, value)
        yield server


def post(root: Path, options: CommentOptions = OPTIONS) -> Posted:
    return verb.comment(root, options)


def test_the_note_is_created_once_then_updated_and_the_commit_has_the_verdict(lab: StandIn, passing: Path) -> None:
    others = [lab.say("person", "looks good") for _ in range(gitlab_standin.NUMBER * 15)]
    theirs = lab.say("person", f"quoted\n{watermark('lockstep', None)}")
    first, second = post(passing), post(passing)
    assert (first.created, second.created, first.check, first.conclusion) == (True, False, "status", "success")
    (ours,) = [each for each in lab.notes if each["author"]["username"] == BOT]
    assert first.comment == second.comment == f"{PAGE}/-/merge_requests/7#note_{ours['id']}"
    assert ours["body"].startswith("### ✅ Pass")
    assert f"[Pipeline]({PAGE}/-/pipelines/9)" in ours["body"]
    assert "pull/7/head" not in ours["body"], "that is GitHub's"
    assert first.notes == ("1 other note with this watermark, of other authors: left alone",)
    assert [each["body"] for each in lab.notes[: len(others)]] == ["looks good"] * len(others)
    assert theirs["body"].startswith("quoted")
    (last,) = lab.commits
    status = {
        "state": "success",
        "name": "lockstep",
        "description": "✅ Pass · better than main and production",
        "sha": last,
        "pipeline_id": 9,
    }
    assert lab.statuses == [status | {"target_url": f"{PAGE}/-/pipelines/9"}] * 2


def test_a_verdict_that_fails_is_posted_and_fails_the_status(lab: StandIn, tmp_path: Path) -> None:
    root = tmp_path / "mr"
    report_tree.pull_request(root, 100)
    last = git(root, "rev-parse", "HEAD").strip()
    lab.commits.add(last)
    posted = post(root, OPTIONS._replace(commit=last))
    assert (posted.created, posted.conclusion) == (True, "failure")
    (status,) = lab.statuses
    assert (status["state"], status["sha"]) == ("failed", last)
    assert "pipeline_id" not in status, "that pipeline is of another commit"
    assert status["description"].startswith("❌ Fail, ")


def test_a_note_that_a_gateway_made_and_denied_is_found(lab: StandIn, passing: Path) -> None:
    lab.faults.after = {"POST notes": [502]}
    lab.faults.fail = {"GET notes": [503], "POST statuses": [502]}
    assert post(passing).created
    assert (len(lab.notes), len(lab.statuses)) == (1, 1)


def test_the_command_posts_on_gitlab_where_the_environment_is_gitlabs(lab: StandIn, passing: Path) -> None:
    done = CliRunner().invoke(main, ["-C", str(passing), "comment", "--target", "main", "--check", "none"])
    assert done.exit_code == 0, done.output
    assert done.output.startswith(f"posted {PAGE}/-/merge_requests/7#note_300; no check was asked for")
    assert not lab.statuses


def _set(name: str, value: str | None) -> Callable[[StandIn, pytest.MonkeyPatch], None]:
    return lambda _, patch: patch.delenv(name) if value is None else patch.setenv(name, value)


def _faulty(**faults: object) -> Callable[[StandIn, pytest.MonkeyPatch], None]:
    return lambda lab, _: vars(lab.faults).update(faults)


REFUSED: dict[str, tuple[Callable[[StandIn, pytest.MonkeyPatch], None], str]] = {
    "no token": (_set("GITLAB_TOKEN", None), "^GITLAB_TOKEN: is not set"),
    "no valid token": (_set("GITLAB_TOKEN", "a b\r\nX: y"), "^GITLAB_TOKEN: is not set, or no token"),
    "a wrong token": (_set("GITLAB_TOKEN", "glpat-other"), "GET /api/v4/user: 401 401 Unauthorized; give GITLAB_TOKEN an access"),
    "a guest's token": (_set("GITLAB_TOKEN", GUEST), "403 Forbidden; give GITLAB_TOKEN the scope api and the role"),
    "another project": (_set("CI_PROJECT_ID", "43"), "404 404 Project Not Found; see that the project"),
    "no project": (_set("CI_PROJECT_ID", None), "CI_PROJECT_ID: '' is no project"),
    "a project that leaves the path": (_set("CI_PROJECT_ID", "team/../user"), "CI_PROJECT_ID: .* is no project"),
    "an unknown merge request": (_set("CI_MERGE_REQUEST_IID", "8"), "merge_requests/8/notes: 404 404 Not found; see"),
    "no merge request": (_set("CI_MERGE_REQUEST_IID", None), "no merge request is named"),
    "an unknown commit": (_set("CI_COMMIT_SHA", "a" * 40), "statuses/a{40}: 404 404 Commit Not Found; see"),
    "no commit": (_set("CI_COMMIT_SHA", None), "no commit is named"),
    "a body too long for a proxy": (_faulty(longest=100), "POST /api/v4/projects/42/.*: 413; raise the size"),
    "an address without TLS": (_set("CI_API_V4_URL", "http://gitlab.example/api/v4"), "CI_API_V4_URL: is no https"),
    "a login in the address": (_set("CI_API_V4_URL", "https://a:b@gitlab.example"), "CI_API_V4_URL: is no https"),
    "an error that repeats the token": (
        _faulty(echo=True, fail={"POST notes": [400]}), "POST /api/v4/projects/42/merge_requests/7/notes: 400 it went wrong …; fix"
    ),
    "no end of errors": (_faulty(fail={"GET notes": [503] * 9}), "503 it went wrong; run it again in a while"),
    "a proxy's page": (_faulty(reply=b"<html>"), "answers with something else than a JSON object"),
    "a redirect": (_faulty(redirect="http://127.0.0.1:1/"), "GET /api/v4/user: 302"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_gitlab_refuses_is_one_line_that_says_what_to_do_and_no_token(
    lab: StandIn, passing: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    change, words = REFUSED[name]
    change(lab, monkeypatch)
    with pytest.raises(RemoteRefused, match=words) as caught:
        post(passing)
    assert "\n" not in str(caught.value)
    assert not re.search("glpat-|token-of-a-", str(caught.value))


def test_a_note_beyond_gitlabs_limit_is_refused_with_gitlabs_words(lab: StandIn) -> None:
    client = gitlab.GitLab(gitlab.place(), patience=QUICK)
    with pytest.raises(RequestError, match=r"400 .*is too long"):
        client.create(7, "x" * (gitlab_standin.LONGEST + 1))


def test_no_line_of_a_note_is_a_quick_action_of_gitlab() -> None:
    assert (
        forge_comment.without_actions("/merge\na /b\n```\n/close now\n```\n")
        == " /merge\na /b\n```\n /close now\n```\n"
    )


def test_a_forks_pipeline_comments_in_the_project_of_the_request_and_checks_its_own_commit() -> None:
    where = gitlab.place({
        "CI_API_V4_URL": "https://gitlab.example/api/v4/", "CI_PROJECT_ID": "50", "CI_MERGE_REQUEST_PROJECT_ID": "42",
        "CI_MERGE_REQUEST_IID": "7", "CI_COMMIT_SHA": "a" * 40, "CI_MERGE_REQUEST_SOURCE_BRANCH_SHA": "b" * 40,
        "CI_PROJECT_URL": "javascript:alert(1)",
    })  # fmt: skip
    assert (where.project, where.runs_in, where.number, where.commit) == ("42", "50", 7, "b" * 40)
    assert (where.api, where.page, where.pipeline) == ("https://gitlab.example/api/v4", "", None)


def test_a_child_pipelines_status_goes_to_its_parent_since_gitlab_takes_none_for_a_child() -> None:
    environment = {
        "CI_API_V4_URL": "https://gitlab.example/api/v4", "CI_PROJECT_ID": "42", "CI_COMMIT_SHA": "a" * 40,
        "CI_PIPELINE_ID": "9", "CI_PIPELINE_SOURCE": "merge_request_event",
    }  # fmt: skip
    assert gitlab.place(environment).pipeline == ("a" * 40, 9)
    assert gitlab.place(environment | {"CI_PIPELINE_SOURCE": "parent_pipeline"}).pipeline is None


def test_the_example_runs_the_commands_of_githubs_workflow() -> None:
    ours = yaml.safe_load((REPOSITORY / "docs/how-to/gitlab-ci.yml").read_text())
    theirs = yaml.safe_load((REPOSITORY / ".github/workflows/pr.yml").read_text())
    for name, job in theirs["jobs"].items():
        if name == "projects":  # Its output is another one: a matrix there, the list of folders here.
            continue
        runs = [step.get("run", "").removeprefix("exec ") for step in job["steps"]]
        commands = [each for each in runs if each.startswith("./lockstep")]
        wanted = [each for each in commands if " report >>" not in each]  # of the run's own page
        lines = [line.removesuffix(" || true") for line in ours[name]["script"] if line.startswith("./lockstep")]
        assert lines == wanted, name


def test_github_comes_first_where_both_are_named() -> None:
    assert gitlab.is_here({"CI_API_V4_URL": "https://gitlab.example/api/v4"})
    assert not gitlab.is_here({"CI_API_V4_URL": "https://gitlab.example/api/v4", "GITHUB_REPOSITORY": "octo/router"})
    assert not gitlab.is_here({})
