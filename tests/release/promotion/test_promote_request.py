"""promote --pr: the same commit on a branch of its own, and a pull request; nothing moves until it is merged."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from checks.process.errors import PromotionRefused, RemoteRefused
from checks.storage import layout
from release.promotion import context
from tests import ledger_tree
from tests import promotion_tree as tree
from tests.github_api_standin import TOKEN, StandIn
from tests.ledger_tree import git, refs
from tests.promotion_tree import move

pytestmark = pytest.mark.slow

alone = tree.alone
BRANCH = "refs/heads/lockstep/staging-v0.1.0"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    tree.make(folder / "work")
    ledger_tree.packed(folder / "work")
    ledger_tree.bare(folder / "origin.git", folder / "work")
    return folder


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    return tree.copy(made, tmp_path / "copy") / "work"


@pytest.fixture
def remote(root: Path) -> Path:
    return root.parent / "origin.git"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    with StandIn("team/router") as running:
        monkeypatch.setenv("GITHUB_API_URL", running.url)
        monkeypatch.setenv("GITHUB_REPOSITORY", "team/router")
        monkeypatch.setenv("GITHUB_TOKEN", TOKEN)
        yield running


def test_a_pull_request_is_opened_and_nothing_moves(root: Path, remote: Path, server: StandIn) -> None:
    before = refs(remote)
    proposed = move(root, "staging", pr=True)
    assert (proposed.done, proposed.url, proposed.tags) == ("proposed", "https://github.com/team/router/pull/1", ())
    assert refs(remote) == before | {BRANCH: proposed.commit}
    (opened,) = server.pulls.values()
    assert (opened["head"]["ref"], opened["base"]["ref"]) == ("lockstep/staging-v0.1.0", "main")
    assert opened["title"] == "promote staging to v0.1.0"
    assert "better on rare services" in opened["body"]
    assert "Lockstep-Kind: promote" in opened["body"]


def test_again_it_is_the_same_pull_request(root: Path, remote: Path, server: StandIn) -> None:
    first = move(root, "staging", pr=True)
    again = move(root, "staging", pr=True)
    assert (again.url, again.done) == (first.url, "proposed")
    method, path = server.asked[-1]
    assert method == "GET"
    assert path.startswith("/repos/team/router/pulls?state=open&head=team:lockstep/staging-v0.1.0")


@pytest.mark.parametrize("how", ["--ff-only", "--no-ff"])
def test_merged_it_is_a_move_and_its_tags_come_with_the_next_run(
    root: Path, remote: Path, server: StandIn, how: str
) -> None:
    proposed = move(root, "staging", pr=True)
    clone = ledger_tree.clone(root.parent / "merging", str(remote), "Bob")
    git(clone, "merge", "--quiet", how, "-m", "Merge pull request #1", "origin/lockstep/staging-v0.1.0")
    git(clone, "push", "--quiet")
    where = context.find(root)
    (made,) = where.ledger.moves(where.tip, "staging")
    assert (made.kind, made.commit, made.problem) == ("promote", proposed.commit, "")
    again = move(root, "staging")
    assert (again.done, again.tags) == ("already", ("azure-cli-router@v0.1.0", "azure-cli-router#staging#1"))
    assert move(root, "production").done == "moved"


def test_what_is_lacking_is_not_proposed(root: Path, remote: Path, server: StandIn) -> None:
    (root / layout.VERDICT).write_text("{}\n")
    before = refs(remote)
    with pytest.raises(PromotionRefused):
        move(root, "staging", pr=True)
    assert refs(remote) == before
    assert server.pulls == {}


def test_without_a_token_the_address_to_open_one_is_given(
    root: Path, remote: Path, server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GITHUB_TOKEN")
    proposed = move(root, "staging", pr=True)
    assert proposed.url == "https://github.com/team/router/compare/main...lockstep/staging-v0.1.0?expand=1"
    assert server.asked == []
    assert BRANCH in refs(remote)


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("https://github.com/team/router.git", "https://github.com/team/router/compare/main...x?expand=1"),
        ("git@github.com:team/router.git", "https://github.com/team/router/compare/main...x?expand=1"),
        ("ssh://git@github.com/team/router", "https://github.com/team/router/compare/main...x?expand=1"),
        ("https://git.example/team/router", None),
        ("https://github.com/team/../../etc", None),
        ("/srv/router.git", None),
    ],
)
def test_the_repository_is_known_by_the_address_of_its_remote(root: Path, address: str, url: str | None) -> None:
    from release.promotion import move_commit

    where = context.find(root)
    git(root, "remote", "set-url", "origin", address)
    named = move_commit._repository(where)
    assert (named is not None) == (url is not None)
    assert named in ("team/router", None)


@pytest.mark.parametrize(
    ("status", "body", "cause"),
    [
        (401, b'{"message": "Bad credentials"}', ": 401 Bad credentials: opens no pull request"),
        (403, b'{"message": "Resource not accessible\\u001b[31m"}', ": 403 Resource not accessible"),
        (422, b'{"message": "No commits"}', ": 422 No commits: opens no pull request"),
        (500, b"<html>", ": 500: opens no pull request"),
        (302, b"{}", ": 302"),
        (201, b"[]", "something else than a JSON object"),
        (201, b'{"html_url": "javascript:alert(1)"}', "says nothing of the pull request"),
    ],
)
def test_a_github_that_refuses_or_lies_is_told_and_the_branch_is_there(
    root: Path, remote: Path, server: StandIn, status: int, body: bytes, cause: str
) -> None:
    server.faults.reply = (status, body)
    before = refs(remote)
    with pytest.raises(RemoteRefused) as found:
        move(root, "staging", pr=True)
    assert cause in str(found.value)
    assert TOKEN not in str(found.value)
    assert str(found.value).isprintable()
    assert refs(remote).keys() == before.keys() | {BRANCH}
    assert refs(remote)["refs/heads/main"] == before["refs/heads/main"]


def test_a_github_that_says_nothing_is_left_in_time(
    root: Path, server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("release.adapters.rest._TIMES", (1, 1))
    server.faults.silent, began = True, time.monotonic()
    with pytest.raises(RemoteRefused, match="does not answer within 1 s"):
        move(root, "staging", pr=True)
    assert time.monotonic() - began < 20


def test_without_a_remote_there_is_nobody_to_propose_to(root: Path, server: StandIn) -> None:
    git(root, "remote", "remove", "origin")
    with pytest.raises(PromotionRefused, match="there is no remote to propose a move to"):
        move(root, "staging", pr=True)
