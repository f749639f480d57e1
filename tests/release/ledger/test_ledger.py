"""The ledger: what environments run is read from commits, and a move arrives whole or not at all."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from checks.formats import pointer
from checks.process.errors import EvidenceRefused, ParamsRefused, PromotionRefused, RemoteRefused
from checks.storage import layout
from release.ledger import Change, Ledger, compose, disagreements, missing, tags_for, untagged
from tests import ledger_tree as tree
from tests.git_service import Service
from tests.ledger_tree import PROMOTE, at, git, promote, refs

pytestmark = pytest.mark.slow

nobodys_configuration, work, remote, service, laptop = (
    tree.nobodys_configuration, tree.work, tree.remote, tree.service, tree.laptop,
)  # fmt: skip


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every byte of a work tree, its index, its HEAD, and its own branches and tags."""
    files = {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and ".git" not in path.parts}
    inside = Path(git(folder, "rev-parse", "--absolute-git-dir"))
    own = {name: (inside / name).read_bytes() for name in ("index", "HEAD")}
    everything = git(folder, "for-each-ref", "--exclude=refs/lockstep", "--exclude=refs/remotes")
    return files | own | {"refs": everything.encode()}


# Moving


@pytest.mark.parametrize("way", ["file", "http"])
def test_a_move_is_one_commit_with_its_tags_at_the_remote(work: Path, remote: Path, way: str) -> None:
    with Service(remote.parent) as running:
        if way == "http":
            git(work, "remote", "set-url", "origin", running.address("origin.git"))
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
        assert (found and found.version) == "v0.1.0"
        assert ledger.pointer(made, "production") is None


def test_what_was_read_of_a_commit_is_not_asked_of_git_again(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = promote(work, "staging", "A")
    ledger = Ledger.open(work, PROMOTE)
    first = ledger.pointer(made, "staging"), ledger.files(made, layout.ENVIRONMENTS)
    ledger.files(made, layout.ENVIRONMENTS).clear()
    monkeypatch.setenv("PATH", str(work))  # without git
    assert (ledger.pointer(made, "staging"), ledger.files(made, layout.ENVIRONMENTS)) == first
    assert first[0]
    assert first[1].keys() == {at("staging")}


def test_a_clone_whose_index_is_split_gets_no_part_of_the_ledgers_index(work: Path) -> None:
    git(work, "config", "core.splitIndex", "true")
    promote(work, "staging", "A")
    assert list((work / ".git").glob("sharedindex.*")) == []


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


@pytest.mark.parametrize("environments", [("staging",), ("staging", "production")])
def test_the_name_of_a_folder_is_no_pattern(work: Path, environments: tuple[str, ...]) -> None:
    folders = [work / name for name in ("r[ab]*?\\s", "ra1xs")]
    for folder in folders:
        folder.mkdir()
        promote(folder, "staging", "A")
    rules = PROMOTE.model_copy(update={"environments": {name: PROMOTE.environments[name] for name in environments}})
    ledger = Ledger.open(folders[0], rules)
    assert [move.number for move in ledger.moves(ledger.tip(), "staging")] == [1]


def test_a_root_below_a_folder_with_a_line_break_refuses(work: Path) -> None:
    (work / "in\nside").mkdir()
    with pytest.raises(EvidenceRefused, match=r"^in side/: the name of a folder has a line break; rename"):
        Ledger.open(work / "in\nside", PROMOTE)


def test_names_that_hold_other_ends_of_lines_are_names(work: Path, remote: Path) -> None:
    made = promote(work, "staging", "A")
    git(remote, "update-ref", "refs/tags/router@v9.0.0\u2028x", made)
    ledger = Ledger.open(work, PROMOTE)
    ledger.tip()
    assert "router@v9.0.0" not in ledger.tags()


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
    ledger, tip = tree.opened(work)
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


def test_words_of_a_change_are_only_data(work: Path, remote: Path) -> None:
    ledger = Ledger.open(work, PROMOTE)
    made = ledger.commit(ledger.tip(), Change({Path("-f"): b"1"}, "--amend\n\nü\n"))
    assert git(remote, "log", "-1", "--format=%an|%cn|%B", made) == "Ada|Ada|--amend\n\nü"
    assert ledger.read(made, Path("-f")) == b"1"


def test_a_proposal_is_a_commit_on_a_branch_of_its_own(work: Path, remote: Path) -> None:
    ledger, before = Ledger.open(work, PROMOTE), refs(remote)
    tip = ledger.tip()
    wanted = tree.change(ledger, tip, "staging", "A")
    made = ledger.propose(tip, wanted, "lockstep/staging-1")
    assert refs(remote) == before | {"refs/heads/lockstep/staging-1": made}
    assert (
        ledger.propose(tip, wanted, "lockstep/staging-1") == made
    )  # a run that was killed before it asked for a review
    with pytest.raises(RemoteRefused, match="already exists with another change; merge or close its pull request"):
        ledger.propose(tip, tree.change(ledger, tip, "staging", "B"), "lockstep/staging-1")
    git(remote, "update-ref", "refs/heads/main", made)
    move = ledger.moves(ledger.tip(), "staging")[0]
    assert (move.kind, move.commit) == ("promote", made)
    assert [tag.name for tag in missing("router", ledger.tags(), [move])] == ["router@v0.1.0", "router#staging#1"]
    ledger.commit(made, Change({}, "", missing("router", ledger.tags(), [move])))
    assert disagreements("router", ledger.tags(), [move]) == []


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
        ("-oProxyCommand=x", "is not an address"),
        ("ext::sh -c x", "is not an address"),
        ("a\nb", "is not an address"),
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
    with pytest.raises(ParamsRefused, match=r"promote.branch: a..b: is not a valid branch name"):
        Ledger.open(work, PROMOTE.model_copy(update={"branch": "a..b"}))
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


@pytest.mark.parametrize("gone", ["release", "release/environments", "release/environments/staging"])
def test_a_folder_that_a_damaged_clone_lacks_is_never_taken_for_one_that_is_not_there(work: Path, gone: str) -> None:
    """Else an environment would seem to run nothing, and nothing would be in quarantine."""
    (work / at("staging")).parent.mkdir(parents=True)
    (work / at("staging")).write_bytes(pointer.write(tree.target("A", "1" * 40)))
    commit = tree.keep(work, "a pointer")
    name = git(work, "rev-parse", f"{commit}:{gone}").strip()
    (work / ".git" / "objects" / name[:2] / name[2:]).unlink()
    ledger = Ledger.open(work, PROMOTE)
    for ask in (lambda: ledger.pointer(commit, "staging"), lambda: ledger.files(commit, at("staging").parent)):
        with pytest.raises(EvidenceRefused, match="fix the repository"):
            ask()


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
    ledger, tip = tree.opened(shallow)
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


# GTO


def test_gto_reads_that_an_environment_was_emptied(work: Path, remote: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def at_second(second: int) -> None:
        monkeypatch.setenv("GIT_COMMITTER_DATE", f"{1_700_000_000 + second} +0000")

    at_second(0)
    promote(work, "staging", "A")
    at_second(1)
    promote(work, "production", "A")
    at_second(2)
    ledger, tip = tree.opened(work)
    moves = [move for name in PROMOTE.environments for move in ledger.moves(tip, name)]
    message = compose("production", 2, "rollback", ledger.pointer(tip, "production"), None, "answers in French")
    tags = tags_for("router", ledger.tags(), moves, "production", None)
    assert [tag.name for tag in tags] == ["router#production!#2"]
    made = ledger.commit(tip, Change({at("production"): None}, message, tags))
    ledger.tip()
    every = [move for name in PROMOTE.environments for move in ledger.moves(made, name)]
    assert disagreements("router", ledger.tags(), every) == []
    last = ledger.moves(made, "production")[0]
    assert (last.kind, last.after, last.problem, last.why) == ("rollback", None, "", "answers in French")
    git(remote, "tag", "-d", "router#production!#2")
    ledger.tip()
    assert [tag.name for tag in missing("router", ledger.tags(), every)] == ["router#production!#2"]
    ledger.commit(made, Change({}, "", tags))
    clone = tree.clone(work.parent / "clone", str(remote), "Bob")
    for stage, versions in (("staging", ["v0.1.0"]), ("production", [])):
        command = [str(Path(sys.executable).parent / "gto"), "show", f"router#{stage}", "--json"]
        shown = json.loads(subprocess.run(command, cwd=clone, capture_output=True, text=True, check=True).stdout)
        assert [each["version"] for each in shown] == versions
    at_second(3)
    promote(work, "production", "B")
    assert "refs/tags/router#production#3" in refs(remote)


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


# Names that somebody else takes: before the move is planned, or between that and its push. A folder of the name takes
# it too. ``made``: the tags that the move to B has nevertheless.
SQUATTED = {
    "the move": ("router#staging#2", {"router@v0.2.0"}),
    "the version": ("router@v0.2.0", {"router#staging#2"}),
    "a folder of the move": ("router#staging#2/x", {"router@v0.2.0"}),
    "a folder of the version": ("router@v0.2.0/x", {"router#staging#2"}),
}


def squat(where: Path, tag: str) -> None:
    git(where, "tag", "-a", "-m", "x", tag, "main~1")


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("name", SQUATTED)
def test_no_move_waits_for_a_tag_and_a_foreign_one_is_reported(
    work: Path, remote: Path, name: str, alone: bool, late: bool
) -> None:
    tag, made = SQUATTED[name]
    promote(work, "staging", "A")
    if alone:
        git(work, "pull", "--quiet", "origin", "main")
        git(work, "fetch", "--quiet", "--tags", "origin")
        git(work, "remote", "remove", "origin")
    home = work if alone else remote
    ledger, tip = tree.opened(work)
    after = tree.target("B", "1" * 40, "v0.2.0")
    if not late:
        squat(home, tag)
        tip = ledger.tip()
    change = _to(ledger, tip, after)
    told = _untagged(ledger, tip, after)
    if late:
        squat(home, tag)
    commit = ledger.commit(tip, change)
    assert git(home, "rev-parse", "main") == commit
    told += ledger.untagged
    assert len(told) >= 1
    assert all(line.startswith("tag router") and "was not created" in line for line in told)
    found = {each.removeprefix("refs/tags/") for each in refs(home) if "tags" in each}
    # Where git does not say which tag was in the way, no tag is made; `lockstep reconcile --fix` makes what it can.
    assert {"router@v0.1.0", "router#staging#1", tag} <= found
    assert found - {"router@v0.1.0", "router#staging#1", tag} <= made
    tip = ledger.tip()
    ledger.commit(tip, Change({}, "", missing("router", ledger.tags(), ledger.moves(tip, "staging"))))
    found = {each.removeprefix("refs/tags/") for each in refs(home) if "tags" in each}
    assert found == {"router@v0.1.0", "router#staging#1", tag} | made
    ledger.tip()
    lines = disagreements("router", ledger.tags(), ledger.moves(tip, "staging"))
    assert [line.partition(" it: ")[0] for line in lines] == [f"tag {tag}: is foreign, no move made"]


def _to(ledger: Ledger, tip: str, after: pointer.Pointer) -> Change:
    moves = ledger.moves(tip, "staging")
    message = compose("staging", len(moves) + 1, "promote", ledger.pointer(tip, "staging"), after, "better")
    tags = tags_for("router", ledger.tags(), moves, "staging", after)
    return Change({tree.at("staging"): pointer.write(after)}, message, tags)


def _untagged(ledger: Ledger, tip: str, after: pointer.Pointer) -> list[str]:
    return untagged("router", ledger.tags(), ledger.moves(tip, "staging"), "staging", after)


@pytest.mark.parametrize("named", ["*", "*staging*"])
def test_a_remote_that_takes_no_tags_is_moved_without_them(work: Path, remote: Path, named: str) -> None:
    """As one whose rules let nobody make them: the branch is not theirs to hold up."""
    hook = remote / "hooks" / "update"
    hook.write_text(f"#!/bin/sh\ncase $1 in refs/tags/{named}) echo 'tags are for owners' >&2; exit 1;; esac\n")
    hook.chmod(0o755)
    ledger, tip = tree.opened(work)
    made = ledger.commit(tip, tree.change(ledger, tip, "staging", "A"))
    assert refs(remote) == {"refs/heads/main": made}
    assert len(ledger.untagged) == 2
    assert "tags are for owners" in ledger.untagged[0]


def test_a_number_above_what_is_taken_is_the_next_version(work: Path, remote: Path) -> None:
    promote(work, "staging", "A")
    git(remote, "tag", "-f", "router@v9.0.0", "main^")
    ledger, tip = tree.opened(work)
    wanted = tree.change(ledger, tip, "staging", "B")
    assert [tag.name for tag in wanted.tags] == ["router@v9.1.0", "router#staging#2"]
    assert len(disagreements("router", ledger.tags(), ledger.moves(tip, "staging"))) == 2


def test_tags_that_were_taken_away_are_made_again_without_a_commit(work: Path, remote: Path) -> None:
    for environment, label in [("staging", "A"), ("production", "A"), ("staging", "B")]:
        promote(work, environment, label)
    before = {name: git(remote, "rev-parse", f"{name}^{{}}") for name in refs(remote)}
    for name in before:
        if "tags" in name:
            git(remote, "tag", "-d", name.removeprefix("refs/tags/"))
    ledger, tip = tree.opened(work)
    moves = [move for name in PROMOTE.environments for move in ledger.moves(tip, name)]
    assert len(disagreements("router", ledger.tags(), moves)) == 5
    assert ledger.commit(tip, Change({}, "", missing("router", ledger.tags(), moves))) == tip
    assert {name: git(remote, "rev-parse", f"{name}^{{}}") for name in refs(remote)} == before
    assert disagreements("router", ledger.tags(), moves) == []
