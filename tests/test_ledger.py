"""The ledger: what environments run is read from commits, and a move arrives whole or not at all."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from checks import layout, pointer, quarantine
from checks.errors import EvidenceRefused, Outrun, ParamsRefused, PromotionRefused, Refusal
from release.ledger import Change, Ledger, Person, disagreements, missing
from tests import ledger_tree as tree
from tests.conftest import REPOSITORY
from tests.git_service import Service, serving
from tests.ledger_tree import PROMOTE, at, git, promote, refs

ENTRY = quarantine.Entry(image=tree.sha("i"), model=tree.sha("m"), version="v0.1.0", by="Ada <a@b>", why="it is bad")


@pytest.fixture(autouse=True)
def nobodys_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in tree.CLEAN.items():
        monkeypatch.setenv(name, value)
    for name in tree.ADA:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A clone whose origin is a bare repository beside it."""
    folder = tmp_path / "work folder ü"
    tree.begin(folder)
    (tmp_path / "remotes").mkdir()
    tree.bare(tmp_path / "remotes" / "origin.git", folder)
    return folder


@pytest.fixture
def remote(work: Path) -> Path:
    return work.parent / "remotes" / "origin.git"


@pytest.fixture
def service(work: Path) -> Iterator[Service]:
    """The same remote by HTTP, which is the clone's origin now."""
    with serving(work.parent / "remotes") as running:
        git(work, "remote", "set-url", "origin", running.url("origin.git"))
        yield running


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every byte of a work tree, its index, its HEAD, and its own branches and tags."""
    files = {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and ".git" not in path.parts}
    inside = Path(git(folder, "rev-parse", "--absolute-git-dir"))
    own = {name: (inside / name).read_bytes() for name in ("index", "HEAD")}
    return files | own | {"refs": json.dumps(refs(folder)).encode()}


# Moving


@pytest.mark.parametrize("way", ["file", "http"])
def test_a_move_is_one_commit_with_its_tags_at_the_remote(work: Path, remote: Path, way: str) -> None:
    with serving(remote.parent) as running:
        if way == "http":
            git(work, "remote", "set-url", "origin", running.url("origin.git"))
        before = refs(remote)["refs/heads/main"]
        made = promote(work, "staging", "A")
        assert refs(remote)["refs/heads/main"] == made
        assert {name for name in refs(remote) if "tags" in name} == {
            "refs/tags/router@v0.1.0",
            "refs/tags/router#staging#1",
        }
        assert git(remote, "rev-parse", "main^") == before
        assert git(remote, "diff", "--name-only", before, made) == "release/environments/staging/pointer.yaml"
        ledger = Ledger.open(work, PROMOTE)
        assert ledger.tip() == made
        found = ledger.pointer(made, "staging")
        assert found is not None
        assert found.version == "v0.1.0"
        assert ledger.pointer(made, "production") is None


def test_the_clone_is_left_as_it_was_byte_for_byte(work: Path) -> None:
    (work / "params.yaml").write_text("a: 2\n")
    (work / "new").write_text("untracked")
    (work / "staged").write_text("staged")
    git(work, "add", "staged")
    before = snapshot(work)
    promote(work, "staging", "A")
    assert snapshot(work) == before


@pytest.mark.parametrize("state", ["detached", "other branch", "worktree", "ahead", "behind"])
def test_where_the_clone_stands_plays_no_part(work: Path, remote: Path, state: str) -> None:
    root = work
    if state == "detached":
        git(work, "checkout", "--quiet", "--detach")
    elif state == "other branch":
        git(work, "checkout", "--quiet", "-b", "other")
        tree.keep(work, "mine")
    elif state == "worktree":
        root = work.parent / "linked"
        git(work, "worktree", "add", "--quiet", str(root))
    elif state == "ahead":
        tree.keep(work, "not pushed")
    else:
        other = tree.clone(work.parent / "other", str(remote), "Bob")
        tree.keep(other, "theirs")
        git(other, "push", "--quiet")
    old, before = refs(remote)["refs/heads/main"], snapshot(root)
    made = promote(root, "staging", "A")
    assert refs(remote)["refs/heads/main"] == made
    assert git(remote, "rev-list", "--count", f"{old}..{made}") == "1"
    assert snapshot(root) == before


def test_a_root_below_the_top_of_its_repository_has_its_environments_there(work: Path, remote: Path) -> None:
    (work / "models" / "router").mkdir(parents=True)
    made = promote(work / "models" / "router", "staging", "A")
    assert git(remote, "ls-tree", "-r", "--name-only", made).splitlines()[0] == f"models/router/{at('staging')}"
    ledger = Ledger.open(work / "models" / "router", PROMOTE)
    assert len(ledger.moves(ledger.tip(), "staging")) == 1
    assert list(ledger.files(made, layout.ENVIRONMENTS)) == [at("staging")]


def test_environments_may_live_in_another_repository(work: Path, remote: Path, tmp_path: Path) -> None:
    other = tmp_path / "environments of all"
    tree.begin(other)
    git(other, "branch", "-m", "main", "live")
    git(tmp_path, "clone", "--quiet", "--bare", str(other), "live.git")
    using = PROMOTE.model_copy(update={"repository": str(tmp_path / "live.git"), "branch": "live"})
    before, here = refs(remote), snapshot(work)
    made = promote(work, "staging", "A", using)
    assert refs(tmp_path / "live.git")["refs/heads/live"] == made
    assert refs(remote) == before
    assert snapshot(work) == here
    ledger = Ledger.open(work, using)
    assert [move.number for move in ledger.moves(ledger.tip(), "staging")] == [1]


def test_several_files_go_in_one_commit_and_an_empty_folder_goes_too(work: Path, remote: Path) -> None:
    ledger = Ledger.open(work, PROMOTE)
    tip = ledger.tip()
    folder = layout.ENVIRONMENTS / "staging"
    files = {folder / "a b.yaml": b"x\0\xff", folder / "déjà" / "vu": "ü".encode(), layout.QUARANTINE: b"[]\n"}
    made = ledger.commit(tip, Change(files, "several"))
    assert ledger.files(made, folder) == {path: data for path, data in files.items() if path != layout.QUARANTINE}
    again = ledger.commit(made, Change(dict.fromkeys(files), "none"))
    assert git(remote, "ls-tree", "-r", "--name-only", again) == "params.yaml"


def test_what_is_so_already_makes_no_commit(work: Path, remote: Path) -> None:
    ledger = Ledger.open(work, PROMOTE)
    made = promote(work, "staging", "A")
    assert ledger.commit(made, Change({at("staging"): ledger.read(made, at("staging"))}, "again")) == made
    assert refs(remote)["refs/heads/main"] == made


def test_the_author_may_be_another_and_words_are_only_data(work: Path, remote: Path) -> None:
    ledger = Ledger.open(work, PROMOTE)
    author = Person("--exec=x <evil>\nX", "-é@example.org")
    made = ledger.commit(ledger.tip(), Change({Path("-f"): b"1"}, "--amend\n\nü\n", author=author))
    assert (
        git(remote, "log", "-1", "--format=%an|%ae|%cn|%B", made) == "--exec=x evil X|-é@example.org|Ada|--amend\n\nü"
    )
    assert ledger.read(made, Path("-f")) == b"1"


@pytest.mark.parametrize("path", ["../x", "/etc/x", "a/../../x", ".git/config", "a/.GIT/x", "params.yaml/x", "link/x", "link", "release"])  # fmt: skip
def test_a_path_that_leads_elsewhere_refuses(work: Path, remote: Path, path: str) -> None:
    (work / "link").symlink_to("/tmp")
    (work / "release").mkdir()
    (work / "release" / "x").write_text("")
    tree.keep(work, "a link")
    git(work, "push", "--quiet", "origin", "main")
    ledger, before = Ledger.open(work, PROMOTE), refs(remote)
    with pytest.raises(PromotionRefused):
        ledger.commit(ledger.tip(), Change({Path(path): b"x"}, "x"))
    assert refs(remote) == before


def test_nobody_commits_as_nobody(work: Path, remote: Path) -> None:
    git(work, "config", "--unset", "user.email")
    with pytest.raises(PromotionRefused, match=r"git does not know who commits; git config user.name"):
        promote(work, "staging", "A")
    assert len(refs(remote)) == 1


def test_commits_are_signed_when_git_is_configured_so(work: Path, remote: Path, tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key"], check=True)
    allowed = tmp_path / "allowed"
    allowed.write_text(f"ada@example.org {(tmp_path / 'key.pub').read_text()}")
    for name, value in {"gpg.format": "ssh", "user.signingKey": f"{tmp_path}/key.pub", "commit.gpgSign": "yes"}.items():
        git(work, "config", name, value)
    made = promote(work, "staging", "A")
    assert (
        git(remote, "-c", f"gpg.ssh.allowedSignersFile={allowed}", "log", "-1", "--format=%G? %GS", made)
        == "G ada@example.org"
    )
    (tmp_path / "key").unlink()
    with pytest.raises(PromotionRefused, match="the commit cannot be made"):
        promote(work, "staging", "B")
    assert refs(remote)["refs/heads/main"] == made


def test_hooks_of_the_clone_are_not_run(work: Path, remote: Path) -> None:
    for name in ("pre-push", "reference-transaction", "pre-commit", "commit-msg"):
        path = work / ".git" / "hooks" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\ntouch {work.parent}/ran\nexit 1\n")
        path.chmod(0o755)
    promote(work, "staging", "A")
    assert not (work.parent / "ran").exists()


def test_a_repository_that_runs_lockstep_in_a_hook_does_not_leak_in(
    work: Path, remote: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GIT_DIR", "GIT_INDEX_FILE", "GIT_WORK_TREE"):
        monkeypatch.setenv(name, str(work.parent / "nowhere"))
    assert Ledger.open(work, PROMOTE).tip()


# Where it is


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("https://ada:hunter2@example.org/x", "holds a password"),
        ("https://ghp_token@example.org/x", "holds a password"),
        ("-oProxyCommand=x", "no address"),
        ("ext::sh -c x", "no address"),
        ("a\nb", "no address"),
    ],
)
def test_an_address_that_is_a_secret_or_a_command_refuses(work: Path, address: str, problem: str) -> None:
    with pytest.raises(ParamsRefused, match=problem) as refused:
        Ledger.open(work, PROMOTE.model_copy(update={"repository": address}))
    assert "hunter2" not in str(refused.value)
    assert "ghp_" not in str(refused.value)


def test_the_upstream_of_the_branch_is_asked_before_origin(work: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "--quiet", "--bare", str(work), "hub.git")
    git(work, "remote", "add", "hub", str(tmp_path / "hub.git"))
    git(work, "fetch", "--quiet", "hub")
    git(work, "branch", "--quiet", "--set-upstream-to", "hub/main", "main")
    assert Ledger.open(work, PROMOTE).shown == "main of hub"


def test_remotes_that_leave_it_open_refuse(work: Path) -> None:
    git(work, "remote", "set-url", "--add", "origin", "/elsewhere")
    with pytest.raises(EvidenceRefused, match="several addresses"):
        Ledger.open(work, PROMOTE)
    git(work, "remote", "rename", "origin", "hub")
    with pytest.raises(
        EvidenceRefused, match="which remote holds main is not known: hub; git branch --set-upstream-to"
    ):
        Ledger.open(work, PROMOTE)


def test_no_repository_and_no_branch_refuse(work: Path, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    with pytest.raises(EvidenceRefused, match="not a git repository"):
        Ledger.open(tmp_path / "plain", PROMOTE)
    with pytest.raises(EvidenceRefused, match="live of origin: there is no such branch; make it"):
        Ledger.open(work, PROMOTE.model_copy(update={"branch": "live"})).tip()


# Reading


def test_a_link_on_the_way_is_not_followed(work: Path) -> None:
    elsewhere = work / "elsewhere"
    (elsewhere / "staging").mkdir(parents=True)
    (elsewhere / "staging" / "pointer.yaml").write_bytes(pointer.write(tree.target("A", "1" * 40)))
    (work / "release").mkdir()
    (work / "release" / "environments").symlink_to("../elsewhere")
    commit = tree.keep(work, "a link")
    ledger = Ledger.open(work, PROMOTE)
    for ask in (lambda: ledger.pointer(commit, "staging"), lambda: ledger.files(commit, layout.ENVIRONMENTS)):
        with pytest.raises(EvidenceRefused, match=r"release/environments at [0-9a-f]{12}: is a link"):
            ask()


def test_a_link_in_the_place_of_a_file_refuses(work: Path) -> None:
    (work / at("staging")).parent.mkdir(parents=True)
    (work / at("staging")).symlink_to("/etc/hostname")
    commit = tree.keep(work, "a link")
    ledger = Ledger.open(work, PROMOTE)
    with pytest.raises(EvidenceRefused, match=r"pointer.yaml at .* is a link"):
        ledger.pointer(commit, "staging")
    with pytest.raises(EvidenceRefused, match=r"pointer.yaml at .* is a link"):
        ledger.files(commit, layout.ENVIRONMENTS)
    assert "not a regular file" in ledger.moves(commit, "staging")[0].problem


def test_a_quarantine_that_is_gone_refuses_and_one_that_never_was_is_empty(work: Path) -> None:
    ledger = Ledger.open(work, PROMOTE)
    tip = ledger.tip()
    assert ledger.quarantine(tip) == ()
    made = ledger.commit(tip, Change({layout.QUARANTINE: quarantine.write((ENTRY,))}, "held"))
    assert ledger.quarantine(made) == (ENTRY,)
    gone = ledger.commit(made, Change({layout.QUARANTINE: None}, "gone"))
    with pytest.raises(EvidenceRefused, match=f"was there, and is gone .see commit {gone[:12]}"):
        ledger.quarantine(gone)


def test_an_environment_that_params_does_not_name_refuses(work: Path) -> None:
    ledger = Ledger.open(work, PROMOTE)
    for ask in (ledger.pointer, ledger.moves, ledger.since):
        with pytest.raises(
            EvidenceRefused, match=r"'../x': params.yaml names no such one; use one of staging, production"
        ):
            ask(ledger.tip(), "../x")


def test_a_shallow_clone_refuses_to_tell_the_history_and_names_the_command(work: Path, remote: Path) -> None:
    for label in "AB":
        promote(work, "staging", label)
    git(work.parent, "clone", "--quiet", "--depth=1", remote.as_uri(), "shallow")
    shallow = work.parent / "shallow"
    ledger = Ledger.open(shallow, PROMOTE)
    tip = ledger.tip()
    assert ledger.pointer(tip, "staging")
    with pytest.raises(EvidenceRefused, match=r"the clone is shallow: .*; git fetch --unshallow"):
        ledger.moves(tip, "staging")
    git(shallow, "fetch", "--quiet", "--unshallow")
    assert len(ledger.moves(tip, "staging")) == 2


def test_a_partial_clone_tells_the_same_history(work: Path, remote: Path) -> None:
    for label in "AB":
        promote(work, "staging", label)
    git(remote, "config", "uploadpack.allowFilter", "true")
    git(work.parent, "clone", "--quiet", "--filter=blob:none", "--no-checkout", remote.as_uri(), "partial")
    one, other = (Ledger.open(root, PROMOTE) for root in (work, work.parent / "partial"))
    assert one.moves(one.tip(), "staging") == other.moves(other.tip(), "staging")


# Two at once


def race(first: Path, second: Path, label: str) -> list[str | Refusal]:
    """Two clones move staging at once, each to its own; what came of it."""

    def go(root: Path, name: str) -> str | Refusal:
        ledger = Ledger.open(root, PROMOTE)
        try:
            return ledger.commit(tips[root], tree.change(ledger, tips[root], "staging", name))
        except Refusal as refusal:
            return refusal

    tips = {root: Ledger.open(root, PROMOTE).tip() for root in (first, second)}
    with ThreadPoolExecutor(2) as pool:
        return [*pool.map(go, (first, second), (f"{label} of Ada", f"{label} of Bob"))]


def races(work: Path, remote: Path, count: int) -> None:
    other = tree.clone(work.parent / "other", git(work, "remote", "get-url", "origin"), "Bob")
    wins = {"Ada": 0, "Bob": 0}
    for number in range(count):
        ended = race(work, other, str(number))
        made = [each for each in ended if isinstance(each, str)]
        lost = [each for each in ended if isinstance(each, Refusal)]
        assert len(made) == 1, ended
        assert len(lost) == 1, ended
        assert isinstance(lost[0], Outrun)
        winner = ("Ada", "Bob")[ended.index(made[0])]
        wins[winner] += 1
        assert f"{winner} <{winner.lower()}@example.org> committed {made[0][:7]}" in str(lost[0])
        assert f"staging runs v0.{number + 1}.0 (sha256:" in str(lost[0])
        assert refs(remote)["refs/heads/main"] == made[0]
    ledger = Ledger.open(work, PROMOTE)
    tip = ledger.tip()
    moves = ledger.moves(tip, "staging")
    assert [move.number for move in moves] == [*range(count, 0, -1)]
    assert len(ledger.tags()) == 2 * count
    assert disagreements("router", ledger.tags(), moves) == []
    print(wins)


def test_of_two_at_once_one_wins_and_the_other_is_told_who(work: Path, remote: Path) -> None:
    races(work, remote, 10)


def test_of_two_at_once_by_http_one_wins_and_the_other_is_told_who(work: Path, remote: Path, service: Service) -> None:
    races(work, remote, 10)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["file", "http"])
def test_of_two_at_once_one_wins_every_time(work: Path, remote: Path, way: str) -> None:
    with serving(remote.parent) as running:
        if way == "http":
            git(work, "remote", "set-url", "origin", running.url("origin.git"))
        races(work, remote, 200)


def test_a_branch_that_moved_for_another_reason_says_so_too(work: Path, remote: Path) -> None:
    ledger = Ledger.open(work, PROMOTE)
    tip = ledger.tip()
    wanted = tree.change(ledger, tip, "staging", "A")
    other = tree.clone(work.parent / "other", str(remote), "Bob\x1b[31m")
    tree.keep(other, "Fix \x1b[2Jthe readme", env={"GIT_AUTHOR_NAME": "Bob \x1b[31m"})
    git(other, "push", "--quiet")
    with pytest.raises(Outrun) as refused:
        ledger.commit(tip, wanted)
    assert str(refused.value).isprintable()
    assert "Bob [31m <ada@example.org> committed" in str(refused.value)
    assert "Fix [2Jthe readme; look at" in str(refused.value)


# GTO


def test_gto_reads_the_tags(work: Path, remote: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moves = [("staging", "A"), ("production", "A"), ("staging", "B"), ("production", "B"), ("production", "A")]
    for second, (environment, label) in enumerate(moves):
        monkeypatch.setenv("GIT_COMMITTER_DATE", f"{1_700_000_000 + second} +0000")
        promote(work, environment, label)
    clone = tree.clone(work.parent / "clone", str(remote), "Bob")

    def gto(*args: str) -> Any:
        command = [str(Path(sys.executable).parent / "gto"), *args, "--json"]
        return json.loads(subprocess.run(command, cwd=clone, capture_output=True, text=True, check=True).stdout)

    assert gto("show", "router#staging")[0]["version"] == "v0.2.0"
    assert gto("show", "router#production")[0]["version"] == "v0.1.0"
    told = [(each["event"], each["version"], each["stage"], each["ref"]) for each in gto("history", "--ascending")]
    assert [each for each in told if each[0] == "assignment"] == [
        ("assignment", "v0.1.0", "staging", "router#staging#1"),
        ("assignment", "v0.1.0", "production", "router#production#1"),
        ("assignment", "v0.2.0", "staging", "router#staging#2"),
        ("assignment", "v0.2.0", "production", "router#production#2"),
        ("assignment", "v0.1.0", "production", "router#production#3"),
    ]


def test_a_tag_that_is_taken_stops_a_move_and_one_that_lies_is_reported(work: Path, remote: Path) -> None:
    made = promote(work, "staging", "A")
    ledger = Ledger.open(work, PROMOTE)
    git(remote, "tag", "-a", "-m", "x", "router#staging#2", "main^")
    git(remote, "tag", "-f", "router@v9.0.0", "main^")
    tip = ledger.tip()
    assert len(disagreements("router", ledger.tags(), ledger.moves(tip, "staging"))) == 3
    with pytest.raises(
        PromotionRefused, match=r"router#staging#2: is there, .*; .* git push REMOTE :refs/tags/router#staging#2"
    ):
        tree.change(ledger, tip, "staging", "B")
    git(remote, "tag", "-d", "router#staging#2")
    ledger.tip()
    wanted = tree.change(ledger, tip, "staging", "B")
    assert [tag.name for tag in wanted.tags] == ["router@v9.1.0", "router#staging#2"]  # above what is taken
    git(remote, "tag", "-a", "-m", "x", "router#staging#2", "main")
    with pytest.raises(PromotionRefused, match="tag router#staging#2: is there already: nothing was moved"):
        ledger.commit(tip, wanted)
    assert refs(remote)["refs/heads/main"] == made


def test_tags_that_were_taken_away_are_made_again_without_a_commit(work: Path, remote: Path) -> None:
    for environment, label in [("staging", "A"), ("production", "A"), ("staging", "B")]:
        promote(work, environment, label)
    before = {name: git(remote, "rev-parse", f"{name}^{{}}") for name in refs(remote)}
    for name in before:
        if "tags" in name:
            git(remote, "tag", "-d", name.removeprefix("refs/tags/"))
    ledger = Ledger.open(work, PROMOTE)
    tip = ledger.tip()
    moves = [move for name in PROMOTE.environments for move in ledger.moves(tip, name)]
    assert len(disagreements("router", ledger.tags(), moves)) == 5
    assert ledger.commit(tip, Change({}, "", missing("router", ledger.tags(), moves))) == tip
    assert {name: git(remote, "rev-parse", f"{name}^{{}}") for name in refs(remote)} == before
    assert disagreements("router", ledger.tags(), moves) == []


# Without a remote


@pytest.fixture
def laptop(tmp_path: Path) -> Path:
    tree.begin(tmp_path / "laptop")
    return tmp_path / "laptop"


def test_without_a_remote_the_branch_is_the_ledger_and_the_files_follow(laptop: Path) -> None:
    (laptop / "params.yaml").write_text("a: 2\n")
    (laptop / "staged").write_text("staged")
    git(laptop, "add", "staged")
    made = promote(laptop, "staging", "A")
    assert refs(laptop)["refs/heads/main"] == made
    assert set(refs(laptop)) == {"refs/heads/main", "refs/tags/router@v0.1.0", "refs/tags/router#staging#1"}
    assert b"v0.1.0" in (laptop / at("staging")).read_bytes()
    assert git(laptop, "status", "--porcelain") == "M params.yaml\nA  staged".replace("M", " M", 1)
    promote(laptop, "staging", "B")
    assert b"v0.2.0" in (laptop / at("staging")).read_bytes()


def test_without_a_remote_an_edited_pointer_refuses_before_anything_moves(laptop: Path) -> None:
    made = promote(laptop, "staging", "A")
    (laptop / at("staging")).write_text("mine")
    with pytest.raises(PromotionRefused, match="files that this moves are edited there"):
        promote(laptop, "staging", "B")
    assert refs(laptop)["refs/heads/main"] == made
    assert (laptop / at("staging")).read_text() == "mine"


def test_without_a_remote_a_killed_run_is_finished_by_the_next(laptop: Path) -> None:
    promote(laptop, "staging", "A")
    shutil.copytree(laptop, laptop.parent / "before")
    made = promote(laptop, "staging", "B")
    for name in (".git/index", str(at("staging"))):  # as it is when the branch was moved and nothing else yet
        shutil.copy2(laptop.parent / "before" / name, laptop / name)
    assert git(laptop, "status", "--porcelain") == f"M  {at('staging')}"
    ledger = Ledger.open(laptop, PROMOTE)
    ledger.settle(ledger.tip())
    assert git(laptop, "status", "--porcelain") == ""
    assert ledger.tip() == made
    assert b"v0.2.0" in (laptop / at("staging")).read_bytes()


def test_without_a_remote_other_branches_and_work_trees_are_as_they_should_be(laptop: Path) -> None:
    git(laptop, "checkout", "--quiet", "-b", "other")
    git(laptop, "worktree", "add", "--quiet", str(laptop.parent / "linked tree"), "main")
    promote(laptop, "staging", "A")
    assert not (laptop / at("staging")).exists()
    assert (laptop.parent / "linked tree" / at("staging")).exists()
    for root in (laptop, laptop.parent / "linked tree"):
        assert git(root, "status", "--porcelain") == ""


def test_without_a_remote_one_of_two_wins(laptop: Path) -> None:
    for number in range(10):
        ended = race(laptop, laptop, str(number))
        assert [type(each) for each in ended if isinstance(each, Refusal)] == [Outrun], ended
        assert git(laptop, "status", "--porcelain") == ""


# Killed

WRITER = """
import sys
from pathlib import Path
from tests import ledger_tree
print(ledger_tree.promote(Path(sys.argv[1]), "staging", sys.argv[2]))
"""
# Counts the calls of git of one run, and kills the writer before or after the one that is asked for.
SHIM = """#!/bin/sh
n=$(($(cat "$COUNT" 2>/dev/null || echo 0) + 1)); echo $n > "$COUNT"
if [ "$n" = "$KILL" ] && [ "$WHEN" = before ]; then kill -9 $PPID; exit 1; fi
"{git}" "$@"; code=$?
if [ "$n" = "$KILL" ] && [ "$WHEN" = after ]; then kill -9 $PPID; fi
exit $code
"""


def write(root: Path, label: str, kill: int = 0, when: str = "", **env: str) -> int:
    """Move staging in a process of its own; its exit code."""
    shim = root.parent / "shim" / "git"
    shim.parent.mkdir(exist_ok=True)
    if not shim.exists():
        shim.write_text(SHIM.replace("{git}", shutil.which("git") or ""))
        shim.chmod(0o755)
    count = root.parent / "count"
    count.unlink(missing_ok=True)
    env = {"PATH": f"{shim.parent}:{os.environ['PATH']}", "COUNT": str(count), "KILL": str(kill), "WHEN": when, **env}
    command = [sys.executable, "-c", WRITER, str(root), label]
    return subprocess.run(
        command, cwd=REPOSITORY, env={**os.environ, **env, "PYTHONPATH": str(REPOSITORY)}, check=False,
        capture_output=True,
    ).returncode  # fmt: skip


def kill_everywhere(root: Path, ledger_at: Path, stride: int) -> None:
    assert write(root, "begin") == 0
    points = int((root.parent / "count").read_text())
    assert points > 20
    number = 1
    for point in range(1, points + 1, stride):
        for when in ("before", "after"):
            old = refs(ledger_at)
            assert write(root, f"{point} {when}", point, when) == -9
            now = refs(ledger_at)
            ledger = Ledger.open(root, PROMOTE)
            tip = ledger.tip()
            moves = ledger.moves(tip, "staging")
            if now != old:
                assert len(set(now) - set(old)) == 2, "the branch moved, and both tags came with it"
                assert now["refs/heads/main"] != old["refs/heads/main"]
                assert len(moves) == number + 1
                number += 1
            assert disagreements("router", ledger.tags(), moves) == []
            if point % (4 * stride) == 1:
                assert write(root, f"{point} {when}, again") == 0
                number += 1


def test_killed_at_calls_of_git_the_remote_is_old_or_new(work: Path, remote: Path) -> None:
    kill_everywhere(work, remote, 6)


def test_killed_at_calls_of_git_a_laptop_is_old_or_new(laptop: Path) -> None:
    kill_everywhere(laptop, laptop, 6)
    assert git(laptop, "status", "--porcelain") == "" or write(laptop, "last") == 0
    assert git(laptop, "status", "--porcelain") == ""


@pytest.mark.slow
def test_killed_at_every_call_of_git_the_remote_is_old_or_new(work: Path, remote: Path) -> None:
    kill_everywhere(work, remote, 1)


@pytest.mark.slow
def test_killed_at_every_call_of_git_a_laptop_is_old_or_new(laptop: Path) -> None:
    kill_everywhere(laptop, laptop, 1)


def test_a_killed_run_leaves_nothing_in_the_clone_but_objects(work: Path) -> None:
    write(work, "A")
    before = {path for path in work.rglob("*") if "objects" not in path.parts}
    for point in (8, 15, 20):
        assert write(work, f"{point}", point, "before") == -9
    assert {path for path in work.rglob("*") if "objects" not in path.parts} == before
