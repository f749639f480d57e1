"""The comment on GitHub, by a stand-in for its API: created once, then updated, and never another's."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from checks.formats import refused
from checks.process.errors import RemoteRefused, TrainingRefused
from checks.storage import layout
from release.adapters import github
from release.adapters.retries import Patience
from release.review import forge_comment as cml_module
from release.review.forge_comment import ACTIONS
from release.review.posting import CommentOptions, Posted, is_marked, watermark
from release.verbs import comment as verb
from tests import cml_standin, report_tree
from tests.github_api_standin import REPOSITORY, TOKEN, StandIn
from tests.pipeline_repository import git

pytestmark = pytest.mark.slow

OLD, LATER = "a" * 40, "c" * 40  # of comments of before
QUICK = Patience(tries=4, first=0.01, longest=0.02, on_request=2.0)
OPTIONS = CommentOptions(target="main", patience=QUICK, use_cml=False)


@pytest.fixture(scope="module")
def passing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("passing") / "pr"
    report_tree.pull_request(root)
    return root


def head(root: Path) -> str:
    return git(root, "rev-parse", "HEAD").strip()


@pytest.fixture
def copy(passing: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(passing, tmp_path / "copy", symlinks=True))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, passing: Path) -> Iterator[StandIn]:
    """GitHub, and the environment of a workflow of pull request 7 of it, whose last commit is that of ``passing``."""
    event, last = tmp_path / "event.json", head(passing)
    event.write_text(json.dumps({"number": 7, "pull_request": {"number": 7, "head": {"sha": last}}}))
    with StandIn() as server:
        server.pull("change", sha=last, number=7)
        report_tree.report_once(monkeypatch, passing)
        for name in [name for name in os.environ if name.startswith(("GITHUB_", "CML_"))]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("GITHUB_API_URL", server.url)
        monkeypatch.setenv("GITHUB_REPOSITORY", REPOSITORY)
        monkeypatch.setenv("GITHUB_TOKEN", TOKEN)
        monkeypatch.setenv("GITHUB_EVENT_PATH", str(event))
        monkeypatch.setenv("GITHUB_RUN_ID", "42")
        yield server


def post(root: Path, options: CommentOptions = OPTIONS) -> Posted:
    return verb.comment(root, options)


def test_it_is_created_once_and_then_updated(hub: StandIn, copy: Path) -> None:
    first = post(copy)
    report_tree.commit(copy, "a later push")
    second = post(copy, OPTIONS._replace(commit=head(copy)))
    assert (first.created, second.created) == (True, False)
    assert first.comment == second.comment != ""
    (only,) = hub.comments
    assert only["body"].startswith("### ✅ Pass · better than main")
    assert only["body"].endswith(watermark("lockstep", head(copy)))
    assert f"[Workflow run](https://github.com/{REPOSITORY}/actions/runs/42)" in only["body"]
    assert "git fetch origin pull/7/head" in only["body"]


def test_its_check_is_the_verdict_on_the_pull_requests_last_commit(hub: StandIn, passing: Path) -> None:
    posted = post(passing)
    (check,) = hub.checks
    assert (check["name"], check["head_sha"], check["conclusion"]) == ("lockstep", head(passing), "success")
    assert check["output"]["title"] == "✅ Pass · better than main and production"
    assert "### ✅ Pass · better than main" in check["output"]["summary"]
    assert check["details_url"].endswith("/actions/runs/42")
    assert (posted.check, posted.conclusion, posted.notes) == ("check-run", "success", ())


@pytest.mark.parametrize(
    ("right", "spoil", "title"),
    [
        (100, None, "❌ Fail, worse than main by 30.0 points"),
        (144, None, "⚠️ Inconclusive: "),
        (180, lambda root: (root / layout.VERDICT).unlink(), "🚫 The verdict does not hold: "),
        (180, report_tree.bad_data, "❌ Data refused: 1 of 2 expectations fail"),
    ],
)
def test_anything_but_a_pass_is_posted_and_fails_the_check(
    hub: StandIn, tmp_path: Path, right: int, spoil: object, title: str
) -> None:
    root = tmp_path / "pr"
    report_tree.pull_request(root, right)
    if callable(spoil):
        spoil(root)
    posted = post(root, OPTIONS._replace(commit=head(root)))
    assert posted.conclusion == "failure"
    assert len(hub.comments) == 1
    assert "not on the branch" not in hub.comments[0]["body"]
    assert hub.checks[0]["conclusion"] == "failure"
    assert hub.checks[0]["output"]["title"].startswith(title)


def _uncommitted(root: Path) -> None:
    """The record was made, and `lockstep record` could not put it onto the branch."""
    git(root, "reset", "--quiet", "main", "--", "dvc.lock", "reports")
    git(root, "commit", "--quiet", "--amend", "-m", "the change, and main's record")


def _other_parameters(root: Path) -> None:
    """Somebody committed a record, and not the params.yaml that it is of."""
    git(root, "reset", "--quiet", "main", "--", "params.yaml")
    git(root, "commit", "--quiet", "--amend", "-m", "a record of something else")


def _own_approval(root: Path) -> None:
    path = root / layout.APPROVALS
    path.parent.mkdir(parents=True)
    path.write_text("[]\n")


def _link(root: Path) -> None:
    """In the commit, a link to a report with the same bytes."""
    path = root / layout.VERDICT
    path.rename(root / "elsewhere.json")
    path.symlink_to("../elsewhere.json")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--amend", "-m", "a link")
    path.unlink()
    (root / "elsewhere.json").rename(path)


def _hidden(root: Path) -> None:
    """git's index was told to overlook the record."""
    _uncommitted(root)
    git(root, "add", "reports")
    git(root, "update-index", "--assume-unchanged", "dvc.lock")


@pytest.mark.parametrize(
    ("spoil", "lacks"),
    [
        (_uncommitted, "`dvc.lock`, `reports/"),
        (_other_parameters, "as they were judged: `params.yaml`"),
        (_own_approval, f"`{layout.APPROVALS}`"),
        (_link, "`reports/verdict.json`"),
        (_hidden, "`dvc.lock`"),
    ],
)
def test_a_pass_is_no_success_on_a_commit_that_lacks_its_record(
    hub: StandIn, copy: Path, spoil: Callable[[Path], None], lacks: str
) -> None:
    spoil(copy)
    last = head(copy)
    posted = post(copy, OPTIONS._replace(commit=last))
    (check,), (only,) = hub.checks, hub.comments
    assert (posted.state, posted.status, posted.conclusion) == ("held", "pass", "failure")
    assert (check["head_sha"], check["conclusion"]) == (last, "failure")
    assert check["output"]["title"] == "🚫 Pass, and the record is not on the branch"
    first = only["body"].partition("\n\n- ")[0]
    assert first.startswith(f"### 🚫 Pass, and the record is not on the branch\n\nCommit `{last[:12]}` ")
    assert lacks in first
    assert "- **Do:** find out why `./lockstep record` did not commit it, and run again" in only["body"]


def test_the_commit_that_holds_the_record_is_a_success_whoever_made_it(hub: StandIn, copy: Path) -> None:
    """As `lockstep record` leaves it: the proposed commit is none, the one with the record is."""
    _uncommitted(copy)
    proposed = head(copy)
    report_tree.commit(copy, "the record")
    assert post(copy, OPTIONS._replace(commit=proposed)).conclusion == "failure"
    assert post(copy, OPTIONS._replace(commit=head(copy))).conclusion == "success"
    assert not hub.comments[0]["body"].startswith("### 🚫")
    report_tree.commit(copy, "nothing changed since")
    assert post(copy, OPTIONS._replace(commit=head(copy))).conclusion == "success"


@pytest.mark.parametrize("is_repository", [True, False])
def test_a_commit_that_git_does_not_know_here_is_no_success(hub: StandIn, copy: Path, is_repository: bool) -> None:
    if not is_repository:
        shutil.rmtree(copy / ".git")
    options = OPTIONS if is_repository else OPTIONS._replace(target=None)
    assert post(copy, options._replace(commit=LATER)).conclusion == "failure"
    if is_repository:
        assert "may lack it: git does not know it here." in hub.comments[0]["body"]


def test_a_failed_verdict_that_is_not_on_the_branch_says_both(hub: StandIn, tmp_path: Path) -> None:
    root = tmp_path / "pr"
    report_tree.pull_request(root, 100)
    _uncommitted(root)
    post(root, OPTIONS._replace(commit=head(root)))
    assert hub.checks[0]["output"]["title"].startswith("❌ Fail, worse than main by ")
    assert "\n\nThe record is not on the branch. Commit `" in hub.comments[0]["body"]


def test_without_a_check_no_commit_is_asked_for(
    hub: StandIn, copy: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """On a laptop, before anything was committed."""
    _uncommitted(copy)
    (tmp_path / "event.json").write_text('{"number": 7}')
    posted = post(copy, OPTIONS._replace(check=None))
    assert (posted.conclusion, posted.check, hub.checks) == ("success", None, [])
    assert hub.comments[0]["body"].startswith("### ✅ Pass · better than main")


def test_a_refusal_is_the_comment_and_the_checks_title(hub: StandIn, copy: Path) -> None:
    with (copy / "params.yaml").open("a") as stream:
        stream.write("# a remark\n")
    (copy / layout.VERDICT).unlink()
    report_tree.commit(copy, "a change")
    why = TrainingRefused("the loss is not finite at step 12", "lower train.learning_rate")
    refused.write(copy, refused.of("train", why, refused.params(copy), head(copy)))
    posted = post(copy, OPTIONS._replace(commit=head(copy)))
    assert (posted.state, posted.status, posted.conclusion) == ("refused", None, "failure")
    assert hub.comments[0]["body"].startswith("### ❌ train refused: the loss is not finite at step 12\n")
    assert hub.checks[0]["output"]["title"] == "❌ train refused: the loss is not finite at step 12"
    assert hub.refused == []


@pytest.mark.parametrize("before", [99, 100, 130, 250])
def test_it_is_found_on_a_later_page(hub: StandIn, passing: Path, before: int) -> None:
    for i in range(before):
        hub.say("somebody", f"comment {i}")
    ours = hub.say(ACTIONS, f"old\n\n{watermark('lockstep', OLD)}")
    for i in range(3):
        hub.say("somebody", f"later {i}")
    assert not post(passing).created
    assert ours["body"].startswith("### ✅")
    assert len(hub.comments) == before + 4


def test_a_look_alike_of_another_author_is_left_alone(hub: StandIn, passing: Path) -> None:
    forged = f"### ✅ Pass\n\n{watermark('lockstep', OLD)}"
    for author in ("mallory", "github-actions", "other-app[bot]"):
        hub.say(author, forged)
    posted = post(passing)
    assert posted.created
    assert [each["body"] for each in hub.comments[:3]] == [forged] * 3
    assert len(hub.of(ACTIONS)) == 1
    assert posted.notes == ("3 other comments with this watermark, of other authors: left alone",)


def test_a_comment_that_quotes_ours_is_not_ours(hub: StandIn, passing: Path) -> None:
    quoted = hub.say(ACTIONS, f"> {watermark('lockstep', OLD)}\n\nsee above")
    other = hub.say(ACTIONS, f"another workflow's\n\n{watermark('other', OLD)}")
    kept = [quoted["body"], other["body"]]
    assert post(passing).created
    assert [quoted["body"], other["body"]] == kept


@pytest.mark.parametrize(
    ("body", "is_it"),
    [
        (f"x\n\n{watermark('lockstep', OLD)}", True),
        (f"x\n\n{watermark('lockstep', LATER)}\r\n", True),
        (f"x\n\n{watermark('lockstep', None)}", True),
        ('x\n\n![](https://cml.dev/watermark.png "CML watermark lockstep")', True),  # CML's own without a commit
        (f"x\n\n{watermark('lockstep 2', OLD)}", False),
        (f"x\n\n`{watermark('lockstep', OLD)}`", False),
        (f"{watermark('lockstep', OLD)}\n\nx", False),
        ('![](https://cml.dev/watermark.png#zz "CML watermark lockstep")', False),
        ("", False),
    ],
)
def test_the_watermark_is_cmls_and_is_the_last_line(body: str, is_it: bool) -> None:
    assert is_marked(body, "lockstep") is is_it


def test_a_persons_token_writes_as_that_person(hub: StandIn, passing: Path) -> None:
    hub.faults.user = hub.author = "ada"
    hub.say(ACTIONS, f"old\n\n{watermark('lockstep', OLD)}")
    assert post(passing).created
    assert not post(passing).created
    assert len(hub.of("ada")) == 1


def test_an_app_of_a_teams_own_is_named(hub: StandIn, passing: Path) -> None:
    hub.author = "team[bot]"
    options = OPTIONS._replace(author="team[bot]")
    assert post(passing, options).created
    assert not post(passing, options).created


def test_a_token_that_is_no_apps_sets_a_status_and_says_so(hub: StandIn, passing: Path) -> None:
    hub.faults.checks_are_for_apps = True
    posted = post(passing)
    (status,) = hub.statuses
    assert (status["context"], status["state"], status["sha"]) == ("lockstep", "success", head(passing))
    assert posted.check == "status"
    assert "commit status" in posted.notes[0]


def test_no_check_is_set_when_none_is_asked_for(hub: StandIn, passing: Path) -> None:
    posted = post(passing, OPTIONS._replace(check=None))
    assert (posted.check, hub.checks, hub.statuses) == (None, [], [])


@pytest.mark.parametrize("kind", ["GET comments", "PATCH comments", "POST check-runs", "GET user"])
def test_a_server_that_stumbles_is_asked_again(hub: StandIn, passing: Path, kind: str) -> None:
    post(passing)
    hub.faults.fail[kind] = [(502, {}), (503, {"Retry-After": "0"})]
    assert not post(passing).created
    assert hub.faults.fail[kind] == []
    assert len(hub.comments) == 1


def test_a_comment_that_was_made_behind_a_failed_gateway_is_not_made_twice(hub: StandIn, passing: Path) -> None:
    hub.faults.after["POST comments"] = [502, 504]
    posted = post(passing)
    assert len(hub.comments) == 1
    assert posted.created
    hub.comments.clear()
    hub.faults.fail["POST comments"] = [(502, {}), (500, {})]
    assert post(passing).created
    assert len(hub.comments) == 1


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (429, {"Retry-After": "1"}),
        (403, {"Retry-After": "1"}),
        (403, {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "NOW+1"}),
    ],
)
def test_a_rate_limit_is_waited_for(hub: StandIn, passing: Path, status: int, headers: dict[str, str]) -> None:
    told = {name: str(int(time.time()) + 1) if text == "NOW+1" else text for name, text in headers.items()}
    hub.faults.fail["GET comments"] = [(status, told)]
    assert post(passing).created


def test_a_rate_limit_of_an_hour_is_not(hub: StandIn, passing: Path) -> None:
    reset = {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(int(time.time()) + 3600)}
    hub.faults.fail["GET comments"] = [(403, reset)] * 9
    before = time.monotonic()
    with pytest.raises(RemoteRefused, match="rate limit"):
        post(passing)
    assert time.monotonic() - before < 5


@pytest.mark.parametrize(
    ("kind", "status", "word"),
    [
        ("GET comments", 404, "404"),
        ("GET comments", 500, "500"),
        ("POST comments", 422, "422"),
        ("POST comments", 403, "docs/reference/comment.md"),
        ("POST check-runs", 500, "500"),
        ("POST check-runs", 422, "422"),
    ],
)
def test_a_refusal_says_what_was_asked_and_never_the_token(
    hub: StandIn, passing: Path, kind: str, status: int, word: str
) -> None:
    hub.faults.echo_token = True
    hub.faults.fail[kind] = [(status, {})] * 20
    with pytest.raises(RemoteRefused, match=word) as refused:
        post(passing)
    assert TOKEN not in f"{refused.value!r}{refused.value.__cause__!r}{refused.value.__context__!r}"
    assert "\n" not in str(refused.value)


def test_a_server_that_is_not_there_is_a_refusal(hub: StandIn, passing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_API_URL", "http://127.0.0.1:9")
    with pytest.raises(RemoteRefused, match="cannot be reached"):
        post(passing)


def test_neither_a_proxys_page_nor_a_redirect_is_believed(hub: StandIn, passing: Path) -> None:
    hub.faults.reply = (200, b"<html>a proxy")
    with pytest.raises(RemoteRefused, match="something else than a JSON"):
        post(passing)
    hub.faults.reply, hub.faults.redirect = None, f"{hub.url}/elsewhere"
    with pytest.raises(RemoteRefused, match="301"):
        post(passing)
    assert not any("elsewhere" in path for _, path in hub.asked)


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [
        ("GITHUB_TOKEN", None, "GITHUB_TOKEN"),
        ("GITHUB_TOKEN", "a b\r\nX: y", "GITHUB_TOKEN"),
        ("GITHUB_REPOSITORY", None, "GITHUB_REPOSITORY"),
        ("GITHUB_REPOSITORY", "octo/../x", "GITHUB_REPOSITORY"),
        ("GITHUB_REPOSITORY", "octo/..", "GITHUB_REPOSITORY"),
        ("GITHUB_API_URL", "http://api.example", "GITHUB_API_URL"),
        ("GITHUB_API_URL", "https://[", "GITHUB_API_URL"),
        ("GITHUB_API_URL", "https://user:pw@api.example", "GITHUB_API_URL"),
        ("GITHUB_EVENT_PATH", "/nowhere", "GITHUB_EVENT_PATH"),
        ("GITHUB_EVENT_PATH", None, "no pull request is named"),
    ],
)
def test_an_environment_that_does_not_say_is_refused_before_anything_is_sent(
    hub: StandIn, passing: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str | None, word: str
) -> None:
    if value is None:
        monkeypatch.delenv(name)
    else:
        monkeypatch.setenv(name, value)
    with pytest.raises(RemoteRefused, match=word):
        post(passing)
    assert hub.asked == []


def test_the_pull_request_is_named_by_its_ref_or_by_the_caller(
    hub: StandIn, passing: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GITHUB_EVENT_PATH")
    monkeypatch.setenv("GITHUB_REF", "refs/pull/7/merge")
    monkeypatch.setenv("GITHUB_SHA", head(passing))
    assert post(passing).created
    monkeypatch.delenv("GITHUB_REF")
    assert not post(passing, OPTIONS._replace(number=7)).created


def test_a_login_of_netrc_does_not_take_the_tokens_place(
    hub: StandIn, passing: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login a password b\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    assert post(passing).created
    assert {each["Authorization"] for each in hub.headers} == {f"Bearer {TOKEN}"}


def test_a_comment_of_an_account_that_is_gone_is_nobodys(hub: StandIn, passing: Path) -> None:
    hub.say(ACTIONS, f"old\n\n{watermark('lockstep', OLD)}")["user"] = None
    del hub.comments[0]["user"]
    assert post(passing).created


@pytest.fixture
def cml(hub: StandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The stand-in's log; the API has an address as GitHub's own."""
    return _install(hub, monkeypatch, tmp_path)


def _install(hub: StandIn, monkeypatch: pytest.MonkeyPatch, folder: Path, code: int = 0) -> Path:
    log = cml_standin.install(folder, hub, code)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(cml_module, "server", lambda _where: "https://github.com")
    return log


CML_OPTIONS = OPTIONS._replace(use_cml=True)


def test_cml_posts_where_the_runner_has_it_and_either_finds_the_others_comment(
    hub: StandIn, passing: Path, cml: Path
) -> None:
    first = post(passing, CML_OPTIONS)
    by_rest = post(passing)
    again = post(passing, CML_OPTIONS)
    assert [(each.by, each.created) for each in (first, by_rest, again)] == [
        ("cml", True),
        ("rest", False),
        ("cml", False),
    ]
    assert len(hub.comments) == 1
    assert first.notes == ()


def test_cml_has_a_home_of_its_own_and_no_token_among_its_arguments(
    hub: StandIn, passing: Path, cml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    post(passing, CML_OPTIONS)
    arguments, environment = json.loads(cml.read_text())
    assert TOKEN not in " ".join(arguments)
    assert environment["HOME"] != str(tmp_path / "home")
    assert not Path(environment["HOME"]).exists()
    assert not (tmp_path / "home" / ".gitconfig").exists()
    assert "GITHUB_TOKEN" not in environment
    assert arguments[:3] == ["--driver=github", f"--repo=https://github.com/{REPOSITORY}", "comment"]
    assert environment["GITHUB_SHA"] == head(passing)


@pytest.mark.parametrize("author", ["mallory", ACTIONS])
def test_cml_is_not_asked_where_it_would_do_the_wrong_thing(
    hub: StandIn, passing: Path, cml: Path, author: str
) -> None:
    """Another's look-alike, and a comment beyond its first page."""
    for i in range(0 if author == "mallory" else 40):
        hub.say("somebody", f"comment {i}")
    hub.say(author, f"old\n\n{watermark('lockstep', OLD)}")
    posted = post(passing, CML_OPTIONS)
    assert posted.by == "rest"
    assert any(note.startswith("cml: ") for note in posted.notes)
    assert not cml.exists()


def test_cml_is_not_asked_where_it_would_write_a_watermark_that_it_does_not_find_again(
    hub: StandIn, passing: Path, cml: Path, tmp_path: Path
) -> None:
    """Without a commit CML leaves out what tells its watermark."""
    (tmp_path / "event.json").write_text('{"number": 7}')
    assert [post(passing, CML_OPTIONS._replace(check=None)).created for _ in range(2)] == [True, False]
    assert not cml.exists()


def by_hand(title: str, commit: str | None, folder: Path, env: dict[str, str], repo: str) -> None:
    """CML as a step of a workflow runs it by itself: outside git it knows a commit only from GITHUB_SHA."""
    report = folder / "by-hand.md"
    report.write_text("another report\n")
    command = [str(folder / "bin" / "cml"), "--driver=github", f"--repo={repo}", "comment", "update", "--publish=false"]
    command += ["--target=pr/7", f"--watermark-title={title}", str(report)]
    more = {"GITHUB_SHA": commit} if commit else {}
    subprocess.run(command, env=env | more, cwd=folder, check=True, capture_output=True, timeout=120)


def orders(hub: StandIn, root: Path, folder: Path, env: dict[str, str], repo: str, title: str) -> None:
    """Whoever writes first, second and third: CML with a commit, without one, by us, or we: one comment."""
    writers: dict[str, Callable[[], object]] = {
        "hand": lambda: by_hand(title, OLD, folder, env, repo),
        "bare": lambda: by_hand(title, None, folder, env, repo),
        "cml": lambda: post(root, CML_OPTIONS._replace(title=title)),
        "rest": lambda: post(root, OPTIONS._replace(title=title)),
    }
    for order in ORDERS:
        hub.comments.clear()
        for name in order.split():
            writers[name]()
        assert len(hub.comments) == 1, (order, [each["body"][-120:] for each in hub.comments])
        assert is_marked(hub.comments[0]["body"], title), order


# "bare bare" is CML alone, which then writes two.
ORDERS = ("hand cml rest hand", "bare cml hand rest bare", "cml hand bare rest", "rest bare cml", "bare rest cml hand")


@pytest.mark.parametrize("title", ["lockstep", "a_b"])
def test_every_order_of_cml_and_us_gives_one_comment(
    hub: StandIn, passing: Path, cml: Path, tmp_path: Path, title: str
) -> None:
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "REPO_TOKEN": TOKEN}
    orders(hub, passing, tmp_path, env, f"https://github.com/{REPOSITORY}", title)


@pytest.mark.parametrize(
    ("arguments", "token", "why"),
    [
        (["--target=pr/7", f"--commit-sha={OLD}"], TOKEN, "mutually exclusive"),
        (["--target=pr/7", "--pr=true"], TOKEN, "mutually exclusive"),
        (["--target=pr/7", "--unknown=1"], TOKEN, "unrecognized arguments"),
        (["--target=7"], TOKEN, "unsupported comment target"),
        (["--target=pr/7"], "", "token not found"),
    ],
)
def test_the_stand_in_refuses_what_cml_refuses(
    cml: Path, tmp_path: Path, arguments: list[str], token: str, why: str
) -> None:
    (tmp_path / "report.md").write_text("a report")
    command = [str(tmp_path / "bin" / "cml"), "--driver=github", f"--repo=https://github.com/{REPOSITORY}", "comment"]
    command += ["update", "--publish=false", *arguments, str(tmp_path / "report.md")]
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "REPO_TOKEN": token}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, why in done.stderr) == (1, True), done.stderr


REAL = os.environ.get("LOCKSTEP_CML") or shutil.which("cml")


@pytest.mark.skipif(REAL is None, reason="CML is not installed: set LOCKSTEP_CML to its executable")
def test_the_real_cml_posts_and_either_finds_the_others_comment(
    hub: StandIn, passing: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert REAL is not None
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "cml").symlink_to(REAL)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    authority, url = cml_standin.enterprise(hub, tmp_path)  # CML speaks https, below /api/v3 of any host but GitHub's
    for name in ("NODE_EXTRA_CA_CERTS", "REQUESTS_CA_BUNDLE"):
        monkeypatch.setenv(name, str(authority))
    monkeypatch.setenv("GITHUB_API_URL", url)
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "REPO_TOKEN": TOKEN,
        "NODE_EXTRA_CA_CERTS": str(authority),
    }
    orders(hub, passing, tmp_path, env, f"{url.removesuffix('/api/v3')}/{REPOSITORY}", "a_b")
    hub.comments.clear()
    posted = [post(passing, options) for options in (CML_OPTIONS, OPTIONS, CML_OPTIONS)]
    assert [(each.by, each.created, each.notes) for each in posted] == [
        ("cml", True, ()),
        ("rest", False, ()),
        ("cml", False, ()),
    ]
    (only,) = hub.comments
    assert is_marked(only["body"], "lockstep")


def test_rest_posts_where_cml_fails(
    hub: StandIn, passing: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _install(hub, monkeypatch, tmp_path, code=3)
    posted = post(passing, CML_OPTIONS)
    assert (posted.by, posted.created, len(hub.comments)) == ("rest", True, 1)
    assert posted.notes == ("cml: ended with 3; posted by REST",)


@pytest.mark.parametrize(
    ("api", "server"),
    [
        ("https://api.github.com", "https://github.com"),
        ("https://git.example/api/v3", "https://git.example"),
        ("http://127.0.0.1:80", None),
        ("https://git.example/other", None),
        ("https://api.tenant.ghe.com", None),
    ],
)
def test_cml_gets_an_address_only_where_it_makes_the_same_api_of_it(api: str, server: str | None) -> None:
    assert cml_module.server(github.Place(api, REPOSITORY, 7, OLD, None)) == server
