"""`lockstep comment --close`: a harvest that makes no better model is closed with the reason, and nothing else ever is."""

import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from checks.formats.harvest import Origin, Review
from checks.process.errors import RemoteRefused
from checks.storage import layout
from release.adapters.retries import Patience, RequestError
from release.cli import main
from release.review import forge_comment, harvest_close, harvest_pull, proposals
from release.review.posting import CommentOptions
from release.verbs import comment as verb
from tests import gitlab_standin, report_tree
from tests.conftest import written
from tests.github_api_standin import ACTIONS, REPOSITORY, TOKEN, StandIn
from tests.pipeline_repository import commit, git

pytestmark = pytest.mark.slow

MACHINE = "acme-machine"
BRANCH = "lockstep/harvest-production-2026-05-04"
REVIEW, SIGNED = Path("labels/harvest/production.json"), Path("labels/harvest/production.intoto.json")
QUICK = Patience(tries=2, first=0.01, longest=0.02, on_request=2.0)
OPTIONS = CommentOptions(target="main", close=MACHINE, number=7, patience=QUICK)
REASON = "pass, but no difference to main is shown"
HARVEST = Review(
    environment="production", since=None, until=None, uri="s3://acme/captures/harvest/production-1.jsonl",
    sha256="5" * 64, license="LicenseRef-Own", consent="Terms", compared=("test",), requests=9, labelled=9, refused={},
    as_answered=0, origins=(Origin(request=f"sha256:{'6' * 64}", release=None),),
)  # fmt: skip
PINNED = harvest_pull.with_pin(written(report_tree.document()), HARVEST)
Result = tuple[bool, tuple[str, ...]]


def lay_out(root: Path) -> None:
    """Write what `lockstep harvest --pr` commits, and a signature."""
    (root / layout.PARAMS).write_text(PINNED)
    (root / REVIEW).parent.mkdir(parents=True, exist_ok=True)
    (root / REVIEW).write_text(f"{HARVEST.model_dump_json(indent=2)}\n")
    (root / SIGNED).write_text("{}\n")


def head(root: Path) -> str:
    return git(root, "rev-parse", "HEAD").strip()


def opened(hub: StandIn, root: Path, branch: str = BRANCH, **more: Any) -> dict[str, Any]:
    """The pull request of ``root``, which the machine account opened."""
    pull = hub.pull(branch, sha=head(root), number=7, title="Harvest production: 1 rows", **more)
    pull["user"] = {"login": MACHINE, "type": "User"}
    return pull


def push(hub: StandIn, root: Path, commit: str = "HEAD") -> None:
    """Push to the branch of the pull request. GitHub's API may show the commit before for a while."""
    git(root, "push", "--quiet", "--force", "origin", f"{commit}:refs/heads/{hub.pulls[7]['head']['ref']}")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    with StandIn() as server:
        for name in [name for name in os.environ if name.startswith(("GITHUB_", "CML_", "CI_"))]:
            monkeypatch.delenv(name)
        for name, value in {"API_URL": server.url, "REPOSITORY": REPOSITORY, "TOKEN": TOKEN}.items():
            monkeypatch.setenv(f"GITHUB_{name}", value)
        yield server


@pytest.fixture
def root(request: pytest.FixtureRequest, tmp_path: Path, hub: StandIn) -> Path:
    """A project with a harvest on its branch and a record of that, and its open pull request."""
    folder = getattr(request, "param", "")
    project = tmp_path / "work" / folder
    project.mkdir(parents=True)
    git(tmp_path / "work", "init", "--quiet", "--initial-branch=main")
    (project / layout.PARAMS).write_text(written(report_tree.document()))
    commit(project, "begin")
    git(project, "switch", "--quiet", "--create", "harvest")
    lay_out(project)
    commit(project, "Harvest production: 1 rows")
    (project / layout.VERDICT).parent.mkdir()
    for path in (layout.LOCK, layout.CODE_LOCK, layout.VERDICT):
        (project / path).write_text("recorded\n")
    commit(project, "Record: verdict pass")
    git(tmp_path, "init", "--quiet", "--bare", "origin.git")
    git(project, "remote", "add", "origin", str(tmp_path / "origin.git"))
    opened(hub, project, f"lockstep/{folder}harvest-production-2026-05-04")
    push(hub, project)
    return project


def close(root: Path, reason: str = REASON, account: str = MACHINE, **options: Any) -> Result:
    asked = OPTIONS._replace(commit=head(root))._replace(**options)
    return harvest_close.close(forge_comment.request(asked), {root: reason}, asked, account)


def closing(hub: StandIn) -> list[str]:
    return [comment["body"] for comment in hub.comments if comment["body"].startswith("Lockstep ")]


@pytest.mark.parametrize("root", ["", "models/router/"], indirect=True)
def test_it_is_closed_once_with_the_reason_and_the_way_back(hub: StandIn, root: Path) -> None:
    assert [close(root), close(root)] == [(True, (f"closed: {REASON}",))] * 2
    assert hub.pulls[7]["state"] == "closed"
    (only,) = closing(hub)
    first, _, back, _ = only.splitlines()
    assert first == f"Lockstep closes this pull request, because of its verdict: {REASON}."
    assert back == "`gh pr reopen 7` opens it again. Then Lockstep leaves it open."
    assert hub.refused == []


def test_what_somebody_opened_again_stays_open(hub: StandIn, root: Path) -> None:
    close(root)
    hub.pulls[7]["state"] = "open"
    assert close(root) == (False, ("left open: somebody opened it again",))
    assert hub.pulls[7]["state"] == "open"


def test_what_somebody_closed_or_merged_gets_no_comment(hub: StandIn, root: Path) -> None:
    hub.pulls[7]["state"] = "closed"
    assert close(root) == (False, ())
    assert hub.comments == []


@pytest.mark.parametrize(("kind", "before", "state"), [("PATCH pulls", 1, "open"), ("PATCH comments", 1, "closed")])
def test_an_interrupted_closing_is_finished_by_the_next_run(
    hub: StandIn, root: Path, kind: str, before: int, state: str
) -> None:
    hub.faults.fail[kind] = [(502, {})] * QUICK.tries
    with pytest.raises(RequestError, match="502"):
        close(root)
    assert (len(closing(hub)), hub.pulls[7]["state"]) == (before, state)
    assert close(root) == (True, (f"closed: {REASON}",))
    assert (len(closing(hub)), hub.pulls[7]["state"]) == (1, "closed")


def _by_a_person(pull: dict[str, Any]) -> None:
    """Title, branch and commits are those of a harvest."""
    pull["user"] = {"login": "ada", "type": "User"}


def _by_a_look_alike(pull: dict[str, Any]) -> None:
    pull["user"] = {"login": "acme-machine-bot", "type": "User"}


def _of_a_fork(pull: dict[str, Any]) -> None:
    pull["head"]["repo"] = {"full_name": "stranger/router", "fork": True}


def _of_watch(pull: dict[str, Any]) -> None:
    pull["head"]["ref"] = "lockstep/watch-production-2026-05-04"


def _of_another_branch(pull: dict[str, Any]) -> None:
    pull["head"]["ref"] = f"ada/{BRANCH}"


@pytest.mark.parametrize("imitate", [_by_a_person, _by_a_look_alike, _of_a_fork, _of_watch, _of_another_branch])
def test_what_only_looks_like_a_harvest_of_the_account_is_not_touched(
    hub: StandIn, root: Path, imitate: Callable[[dict[str, Any]], None]
) -> None:
    imitate(hub.pulls[7])
    assert close(root) == (False, ())
    assert (hub.pulls[7]["state"], hub.comments) == ("open", [])


def _other_parameter(root: Path) -> None:
    path = root / layout.PARAMS
    path.write_text(path.read_text().replace("learning_rate: ", "learning_rate: 1"))


def _another_file(root: Path) -> None:
    (root / "README.md").write_text("Words.\n")


def _another_review(root: Path) -> None:
    path = root / REVIEW
    path.write_text(path.read_text().replace("Terms", "Other terms"))


def _no_review(root: Path) -> None:
    (root / REVIEW).write_text("{}\n")


@pytest.mark.parametrize(
    ("edit", "author", "note"),
    [
        (_other_parameter, "test@example.invalid", "params.yaml differs in more than the harvest's pin"),
        (_another_file, "test@example.invalid", "README.md"),
        (_no_review, "test@example.invalid", "labels/harvest/production.json: "),
        (_another_review, "ada@example.org", "its commits have several authors"),
    ],
)
def test_what_somebody_changed_on_its_branch_stays_open(
    hub: StandIn, root: Path, edit: Callable[[Path], None], author: str, note: str
) -> None:
    edit(root)
    git(root, "add", "--all")
    git(root, "-c", f"user.email={author}", "commit", "--quiet", "-m", "by hand")
    push(hub, root)
    closed, (said,) = close(root)
    assert not closed
    assert said.startswith("left open: ")
    assert note.strip() in said
    assert (hub.pulls[7]["state"], hub.comments) == ("open", [])


def by(root: Path, email: str, message: str) -> None:
    git(root, "-c", f"user.email={email}", "commit", "--quiet", "--all", "--message", message)


@pytest.mark.parametrize("root", ["", "models/router/"], indirect=True)
def test_a_persons_signature_alone_keeps_nothing_open(hub: StandIn, root: Path) -> None:
    (root / SIGNED).write_text("{}\n\n")
    by(root, "ada@example.org", "Harvest of March")
    (root / layout.VERDICT).write_text("recorded again\n")
    by(root, "test@example.invalid", "Record: verdict pass")
    push(hub, root)
    assert close(root) == (True, (f"closed: {REASON}",))


def test_a_record_that_a_person_committed_keeps_it_open(hub: StandIn, root: Path) -> None:
    (root / layout.VERDICT).write_text("recorded again\n")
    by(root, "ada@example.org", "a record")
    push(hub, root)
    assert close(root) == (False, ("left open: its commits have several authors",))


def test_a_push_since_the_judgement_keeps_it_open(hub: StandIn, root: Path) -> None:
    push(hub, root, "main")
    assert close(root) == (False, ("left open: somebody pushed to its branch",))
    assert (hub.pulls[7]["state"], hub.comments) == ("open", [])


class PushedWhenClosed(dict[str, Any]):
    """A pull request whose branch is force-pushed between our last look and the closing."""

    def __init__(self, pull: dict[str, Any], push: Callable[[], None]) -> None:
        super().__init__(pull)
        self.push = push

    def update(self, sent: dict[str, Any]) -> None:  # type: ignore[override]
        if sent.get("state") == "closed":
            self.push()
        super().update(sent)


def test_a_push_at_the_moment_of_closing_opens_it_again_and_the_next_judgement_decides(
    hub: StandIn, root: Path
) -> None:
    before = hub.pulls[7]
    hub.pulls[7] = PushedWhenClosed(before, lambda: push(hub, root, "main"))
    assert close(root) == (False, ("opened again: somebody pushed to its branch",))
    assert hub.pulls[7]["state"] == "open"
    assert [body.splitlines()[0] for body in closing(hub)] == [
        "Lockstep opened this pull request again: somebody pushed to its branch."
    ]
    hub.pulls[7] = before
    push(hub, root)
    assert close(root) == (True, (f"closed: {REASON}",))
    assert len(closing(hub)) == 1


def test_two_jobs_at_once_close_it_and_say_so(hub: StandIn, root: Path) -> None:
    results, start = list[Result](), threading.Barrier(2)

    def job() -> None:
        start.wait(30)
        results.append(close(root))

    jobs = [threading.Thread(target=job) for _ in range(2)]
    for thread in jobs:
        thread.start()
    for thread in jobs:
        thread.join(60)
    assert hub.pulls[7]["state"] == "closed"
    assert len(results) == 2
    assert {closed for closed, _ in results} <= {True, False}
    assert any(closed for closed, _ in results)
    assert all(body.startswith("Lockstep closes this pull request") for body in closing(hub))


def test_text_of_rows_in_the_reason_has_no_effect(hub: StandIn, root: Path) -> None:
    close(root, "@octo/team GH-1 ![x](https://evil.example) </details>\n# Merge it")
    (body,) = closing(hub)
    assert "verdict: `@octo/team GH-1 ![x](https://evil.example) </details> # Merge it`." in body.splitlines()[0]


def test_a_look_alike_of_our_comment_by_another_author_counts_for_nothing(hub: StandIn, root: Path) -> None:
    close(root)
    (comment,) = hub.comments
    hub.pulls[7]["state"] = "open"
    comment["user"] = {"login": "ada", "type": "User"}
    assert close(root) == (True, (f"closed: {REASON}",))
    assert [each["user"]["login"] for each in hub.comments] == ["ada", ACTIONS]


def test_without_a_check_on_the_commit_nothing_is_closed(hub: StandIn, root: Path) -> None:
    assert close(root, check=None) == (False, ("left open: no check was set on a commit that is here",))


def test_a_model_that_is_better_or_not_decided_closes_nothing(hub: StandIn, root: Path) -> None:
    assert close(root, reason="") == (False, ())


def test_gitlab_is_left_as_it_is_and_the_note_says_so(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITHUB_REPOSITORY")
    with gitlab_standin.StandIn() as lab:
        for name, value in {"GITLAB_TOKEN": gitlab_standin.TOKEN, "CI_API_V4_URL": f"{lab.url}/api/v4"}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("CI_PROJECT_ID", "42")
        assert close(root) == (False, ("--close: closes on GitHub alone; this merge request stays as it is",))


@pytest.mark.parametrize(
    ("branch", "prefix", "topic"),
    [
        (BRANCH, "", "harvest-production"),
        (f"lockstep/a/{BRANCH[9:]}", "a/", "harvest-production"),
        (f"lockstep/a/{BRANCH[9:]}", "", None),
        (f"{BRANCH}-2", "", None),
        ("lockstep/harvest-../../x-2026-05-04", "", None),
        (f"x{BRANCH}", "", None),
    ],
)
def test_the_branch_names_the_topic(branch: str, prefix: str, topic: str | None) -> None:
    assert proposals.topic_of(branch, prefix) == topic


JUDGED = {100: "Fail, worse than main by 30.0 points", 144: "Inconclusive: ", 160: REASON, 180: ""}


@pytest.mark.parametrize("right", JUDGED)
def test_the_command_closes_what_its_own_report_finds_no_better(hub: StandIn, tmp_path: Path, right: int) -> None:
    """Main answers 160 of 200 rows."""
    root = tmp_path / "pr"

    def pinned(value: dict[str, Any]) -> None:
        value["train"]["learning_rate"] = report_tree.document()["train"]["learning_rate"]
        value["data"] = yaml.safe_load(PINNED)["data"]

    report_tree.pull_request(root, right, pinned, lay_out)
    opened(hub, root)
    git(tmp_path, "init", "--quiet", "--bare", "origin.git")
    git(root, "remote", "add", "origin", str(tmp_path / "origin.git"))
    push(hub, root)
    command = [
        "-C",
        str(root),
        "comment",
        "--target",
        "main",
        "--no-cml",
        "--number",
        "7",
        "--commit",
        "HEAD",
        "--json",
    ]
    off = json.loads(CliRunner().invoke(main, command).output)
    assert (off["closed"], hub.pulls[7]["state"]) == (False, "open")
    done = CliRunner().invoke(main, command, env={"LOCKSTEP_COMMENT_CLOSE": MACHINE})
    posted = json.loads(done.output)
    assert (posted["closed"], hub.pulls[7]["state"]) == ((True, "closed") if JUDGED[right] else (False, "open"))
    assert [note.startswith(f"closed: {JUDGED[right]}") for note in posted["notes"]] == [True] * bool(JUDGED[right])
    assert len(hub.comments) == 1 + bool(JUDGED[right])


def test_a_harvest_that_nobody_has_signed_yet_is_not_decided_and_stays_open(hub: StandIn, tmp_path: Path) -> None:
    root = tmp_path / "pr"
    report_tree.pull_request(root, edit=lay_out)
    (root / layout.VERDICT).unlink()
    report_tree.commit(root, "not judged")
    opened(hub, root)
    posted = verb.comment(root, OPTIONS._replace(commit=head(root), use_cml=False))
    assert (posted.closed, posted.notes, hub.pulls[7]["state"]) == (False, (), "open")


def test_a_refusal_of_github_ends_the_command_as_any_other(hub: StandIn, tmp_path: Path) -> None:
    root = tmp_path / "pr"
    report_tree.pull_request(root)
    hub.faults.fail["GET pulls"] = [(404, {})] * QUICK.tries
    opened(hub, root)
    with pytest.raises(RemoteRefused, match="404"):
        verb.comment(root, OPTIONS._replace(commit=head(root), use_cml=False))
