"""Reading git: a commit is the one that is meant, whatever branches, tags and replacements somebody made."""

from pathlib import Path

import pytest

from release import commits
from release.ledger.git import printable
from release.ledger.versions import next_version, parse
from tests.ledger_tree import git, identify


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


def test_a_branch_that_somebody_called_head_is_not_the_target(root: Path) -> None:
    tip, evil = _hash(root, "main"), _hash(root, "main~1")
    git(root, "update-ref", "refs/remotes/origin/main", tip)
    git(root, "update-ref", "refs/remotes/origin/HEAD", evil)  # what fetching all branches of such a remote leaves
    assert commits.target(root) == ("origin/main", tip)
    git(root, "symbolic-ref", "refs/remotes/origin/HEAD", "refs/remotes/origin/main")
    assert commits.target(root) == ("origin/HEAD", tip)


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
    assert "s3cret" not in printable(f"fatal: {address}: not found")
