"""Reading git: a commit is the one that is meant, whatever branches, tags and replacements somebody made."""

from pathlib import Path

import pytest

from checks.process.errors import EvidenceRefused
from checks.process.text import redact
from release.adapters import commits
from release.ledger.versions import next_version, parse
from tests.ledger_tree import git, identify, keep

pytestmark = pytest.mark.slow


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository with two commits, whose file says which."""
    git(tmp_path, "init", "--quiet", "--initial-branch=main", ".")
    identify(tmp_path, "Ada")
    for number in ("one", "two"):
        (tmp_path / "file").write_text(number)
        git(tmp_path, "add", "file")
        git(tmp_path, "commit", "--quiet", "-m", number)
    return tmp_path


def _hash(root: Path, name: str) -> str:
    return git(root, "rev-parse", name).strip()


def test_a_branch_named_like_a_commit_is_not_the_commit(root: Path) -> None:
    tip, old = _hash(root, "HEAD"), _hash(root, "HEAD~1")
    git(root, "update-ref", f"refs/heads/{tip}", old)
    git(root, "update-ref", f"refs/remotes/{tip}", old)
    assert commits.resolve(root, tip) == tip
    assert commits.read(root, tip, Path("file")) == b"two"


@pytest.mark.parametrize("name", ["refs/remotes/origin/HEAD", "HEAD"])
def test_a_branch_named_like_a_ref_is_not_the_ref(root: Path, name: str) -> None:
    tip, old = _hash(root, "main"), _hash(root, "main~1")
    if name != "HEAD":
        git(root, "update-ref", name, tip)
    git(root, "update-ref", f"refs/heads/{name}", old)
    git(root, "update-ref", f"refs/remotes/{name}", old)
    assert commits.resolve(root, name) == tip


@pytest.mark.parametrize(
    ("name", "real", "made"),
    [
        ("main", "refs/heads/main", "refs/tags/main"),
        ("main", "refs/heads/main", "refs/tags/refs/remotes/main"),
        ("main", "refs/heads/main", "refs/tags/refs/heads/main"),
        ("main", "refs/heads/main", "refs/heads/refs/remotes/main"),
        ("origin/main", "refs/remotes/origin/main", "refs/tags/refs/remotes/origin/main"),
        ("origin/main", "refs/remotes/origin/main", "refs/tags/origin/main"),
        ("remotes/origin/main", "refs/remotes/origin/main", "refs/tags/remotes/origin/main"),
        ("refs/heads/main", "refs/heads/main", "refs/tags/refs/heads/main"),
        ("main~0", "refs/heads/main", "refs/tags/main"),
    ],
)
def test_no_name_that_somebody_may_push_shadows_a_branch(root: Path, name: str, real: str, made: str) -> None:
    tip, evil = _hash(root, "HEAD"), _hash(root, "HEAD~1")
    git(root, "update-ref", real, tip)
    git(root, "update-ref", made, evil)
    assert commits.resolve(root, name) == tip
    assert commits.target(root, name) == (name, tip)


@pytest.mark.parametrize("name", ["refs/remotes/origin/main", "refs/heads/main", "HEAD"])
def test_a_tag_called_like_a_ref_is_not_taken_where_that_ref_is_lacking(root: Path, name: str) -> None:
    evil = _hash(root, "HEAD")
    git(root, "update-ref", f"refs/tags/{name}", evil)
    git(root, "update-ref", f"refs/heads/{name}", evil)
    git(root, "checkout", "--quiet", "--orphan", "unborn")
    git(root, "branch", "-D", "main")
    assert commits.resolve(root, name) is None


def test_a_tag_called_like_a_usual_branch_is_not_the_target(root: Path) -> None:
    tip, evil = _hash(root, "main"), _hash(root, "main~1")
    git(root, "update-ref", "refs/remotes/origin/master", tip)
    for name in ("origin/HEAD", "origin/main"):
        git(root, "update-ref", f"refs/tags/refs/remotes/{name}", evil)
    assert commits.target(root) == ("origin/master", tip)


def _tag(root: Path, name: str, commit: str) -> None:
    """An annotated tag of a tag, of whatever name: git's own command refuses some that it fetches."""
    kind = "commit"
    for _ in range(2):
        text = f"object {commit}\ntype {kind}\ntag x\ntagger A <a@b> 1 +0000\n\nx\n"
        commit, kind = git(root, "hash-object", "-t", "tag", "-w", "--stdin", given=text), "tag"
    git(root, "update-ref", f"refs/tags/{name}", commit)


@pytest.mark.parametrize("name", ["main", "master", "origin/next", "live", "short"])
def test_a_tag_that_may_be_taken_for_a_branch_or_a_commit_is_named_in_full(root: Path, name: str) -> None:
    """As in a clone of a workflow, which has the tags, and of branches only those of the remote, or not even them."""
    tip, evil = _hash(root, "HEAD"), _hash(root, "HEAD~1")
    git(root, "checkout", "--quiet", "--detach")
    git(root, "branch", "-D", "main")
    git(root, "remote", "add", "origin", "nowhere")
    git(root, "update-ref", "refs/remotes/origin/live", tip)
    name = tip[:8] if name == "short" else name
    _tag(root, name, evil)
    with pytest.raises(EvidenceRefused, match=rf"tag {name}: .* refs/tags/{name}"):
        commits.target(root, name)
    assert commits.resolve(root, f"refs/tags/{name}") == evil
    assert commits.resolve(root, f"tags/{name}") == evil


def test_commits_branches_and_tags_are_found_by_their_names(root: Path) -> None:
    tip, old = _hash(root, "HEAD"), _hash(root, "HEAD~1")
    git(root, "update-ref", "refs/remotes/origin/main", tip)
    git(root, "branch", "feature/x", old)
    git(root, "branch", "odd/\u2028x", old)
    git(root, "tag", "light", old)
    _tag(root, "v1.0", old)
    git(root, "update-ref", "refs/tags/file", _hash(root, "HEAD:file"))
    for name in ("HEAD", "main", "origin/main", "heads/main", "remotes/origin/main", "refs/heads/main", tip, tip[:7]):
        assert commits.resolve(root, name) == tip, name
    for name in ("feature/x", "light", "v1.0", "tags/v1.0", "HEAD~1", "HEAD^", "main~", "v1.0~0", old, old[:7]):
        assert commits.resolve(root, name) == old, name
    unknown = (
        "",
        "-x",
        "--all",
        "*",
        "mai?",
        "HEAD~9",
        "nothing",
        "odd",
        "file",
        "refs/tags/file",
        "main@{0}",
        ":/two",
    )
    for name in (*unknown, "0" * 40, "0" * 7, _hash(root, "HEAD:file"), _hash(root, "HEAD:file")[:7]):
        assert commits.resolve(root, name) is None, name
    git(root, "checkout", "--quiet", "--detach", old)
    assert commits.resolve(root, "HEAD") == old


def test_a_tag_as_long_as_the_other_kind_of_hash_is_no_commit(root: Path) -> None:
    git(root, "update-ref", f"refs/tags/{'a' * 64}", _hash(root, "HEAD"))
    assert commits.resolve(root, "a" * 64) is None
    assert not commits.is_ancestor(root, "a" * 64, _hash(root, "HEAD"))


def test_a_branch_that_somebody_called_head_is_not_the_target(root: Path) -> None:
    tip, evil = _hash(root, "main"), _hash(root, "main~1")
    git(root, "update-ref", "refs/remotes/origin/main", tip)
    git(root, "update-ref", "refs/remotes/origin/HEAD", evil)  # what fetching all branches of such a remote leaves
    assert commits.target(root) == ("origin/main", tip)
    git(root, "symbolic-ref", "refs/remotes/origin/HEAD", "refs/remotes/origin/main")
    assert commits.target(root) == ("origin/main", tip), "by the name of the branch that it points to"


def test_the_target_is_that_of_the_only_remote_whatever_its_name(root: Path) -> None:
    """As after `git clone --origin team`: a local main, which nobody may have pushed, does not stand for it."""
    tip, theirs = _hash(root, "main"), _hash(root, "main~1")
    git(root, "remote", "add", "team", "../nowhere")
    assert commits.target(root) == ("main", tip), "nothing was fetched yet"
    git(root, "update-ref", "refs/remotes/team/main", theirs)
    assert commits.target(root) == ("team/main", theirs)
    git(root, "update-ref", "-d", "refs/remotes/team/main")
    git(root, "branch", "--quiet", "--move", "main", "work")
    with pytest.raises(EvidenceRefused, match="no branch of team is known as the one that releases are made on"):
        commits.target(root)
    git(root, "branch", "--quiet", "--move", "work", "main")
    git(root, "update-ref", "refs/remotes/team/main", theirs)
    git(root, "remote", "add", "backup", "../nowhere")
    assert commits.target(root) == ("main", tip), "which remote the team shares is not known"
    git(root, "update-ref", "refs/remotes/origin/main", theirs)
    assert commits.target(root) == ("origin/main", theirs)


def test_nothing_stands_for_another_object(root: Path) -> None:
    tip, old = _hash(root, "main:file"), _hash(root, "main~1:file")
    git(root, "replace", tip, old)
    assert commits.read(root, _hash(root, "main"), Path("file")) == b"two"


@pytest.mark.parametrize("tag", ["router@v0.999999999.0", "router@v999999999.0.0", f"router@v0.{'9' * 4400}.0"])
def test_a_tag_that_leaves_no_number_above_it_stops_nobody(tag: str) -> None:
    from release.ledger import TagRef

    assert (
        next_version("router", {tag: TagRef("1" * 40, True)}, (), "sha256:" + "a" * 64, "sha256:" + "b" * 64)
        == "v0.1.0"
    )
    assert parse("router@v1.2.3") is not None


@pytest.mark.parametrize(
    "address",
    ["https://u:s3cret@host/x", "https://u:s3cret/x@host/x", "https://host/x?private_token=s3cret", "git://s3cret@h/x"],
)
def test_a_password_in_an_address_is_not_shown(address: str) -> None:
    assert "s3cret" not in redact(f"fatal: {address}: not found")


@pytest.mark.parametrize("said", ["://" * 300_000 + "?", "://@" * 300_000, "://?@ " * 300_000])
def test_a_megabyte_of_addresses_is_one_short_line(said: str) -> None:
    """In a time that grows with their square they would take many minutes."""
    assert len(redact(said)) <= 400


def test_files_of_a_folder_are_those_of_the_commit_also_where_it_is_not_there_yet_or_gone(root: Path) -> None:
    before, folder = _hash(root, "HEAD"), root / "team ü"
    folder.write_text("a file")
    git(root, "add", "--all", ".")
    git(root, "commit", "--quiet", "-m", "a file of that name")
    as_file = _hash(root, "HEAD")
    folder.unlink()
    folder.mkdir()
    (folder / "file").write_text("inside")
    git(root, "add", "--all", ".")
    git(root, "commit", "--quiet", "-m", "a folder")
    tip = _hash(root, "HEAD")
    assert commits.read(folder, tip, Path("file")) == b"inside"
    assert commits.below(root, tip, Path("team ü")) == [Path("team ü/file")]
    assert commits.uncommitted(folder, tip, [Path("file"), Path("other")]) == [Path("other")]
    assert commits.read(folder, tip, Path("../file")) == commits.read(root, tip, Path("file")) == b"two"
    with pytest.raises(EvidenceRefused, match="leads out of the repository"):
        commits.read(folder, tip, Path("../../file"))
    for commit in (before, as_file):
        assert commits.read(folder, commit, Path("file")) is None
        assert commits.below(root, commit, Path("team ü")) == []
    with pytest.raises(EvidenceRefused, match="is not in this clone"):
        commits.read(folder, "0" * 40, Path("file"))
    tree = _hash(root, f"{tip}:team ü")
    (root / ".git" / "objects" / tree[:2] / tree[2:]).unlink()
    for ask in (lambda: commits.read(folder, tip, Path("file")), lambda: commits.below(root, tip, Path("team ü"))):
        with pytest.raises(EvidenceRefused, match="is not in this clone"):
            ask()


def test_a_bare_repository_is_read_from_its_top(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    bare = tmp_path_factory.mktemp("bare") / "origin.git"
    git(root, "clone", "--quiet", "--bare", str(root), str(bare))
    assert commits.read(bare, _hash(root, "HEAD"), Path("file")) == b"two"


def test_a_parent_that_a_shallow_clone_lacked_is_found_once_it_was_fetched(
    root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    clone = tmp_path_factory.mktemp("shallow") / "clone"
    git(root, "clone", "--quiet", "--depth=1", root.as_uri(), str(clone))
    tip, parent = _hash(root, "HEAD"), _hash(root, "HEAD~1")
    assert (commits.resolve(clone, tip), commits.resolve(clone, f"{tip}~1")) == (tip, None)
    git(clone, "fetch", "--quiet", "--unshallow")
    assert commits.resolve(clone, f"{tip}~1") == parent


def test_what_a_branch_was_before_it_had_a_commit(root: Path) -> None:
    began, first = _hash(root, "HEAD~1"), _hash(root, "HEAD")
    git(root, "switch", "--quiet", "--create", "proposal")
    one, two = keep(root, "one"), keep(root, "two")
    git(root, "switch", "--quiet", "main")
    meanwhile = keep(root, "meanwhile")
    git(root, "merge", "--quiet", "--no-ff", "-m", "merge", "proposal")
    merge, last = _hash(root, "HEAD"), keep(root, "last")
    befores = {commit: commits.before(root, commit, last) for commit in (first, one, two, meanwhile, merge, last)}
    assert befores == {first: began, one: meanwhile, two: meanwhile, meanwhile: first, merge: meanwhile, last: merge}
    assert commits.before(root, began, last) is None
    assert commits.before(root, last, merge) is None
    assert commits.before(root, "0" * 40, last) is None
