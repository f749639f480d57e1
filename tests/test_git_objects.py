"""git's objects as bytes: git reads what is written here, and reads here as it does itself."""

import random
import subprocess
from pathlib import Path

import pytest

from checks.errors import EvidenceRefused, PromotionRefused
from release.adapters import commits, git_objects
from release.adapters.git import Git
from release.adapters.git_objects import Entry
from release.ledger import trees
from tests.ledger_tree import git, identify, keep

NAMES = ("a", "a.b", "a-b", "ab", "B", "ü", "\udcff", "with blank", "-f", "x" * 200)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    git(tmp_path, "init", "--quiet", "--initial-branch=main", ".")
    identify(tmp_path, "Ada")
    for path in ("one", "folder/two", "folder/below/three", "a.b", "a/b"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(path)
    (tmp_path / "folder" / "run").write_text("#!/bin/sh\n")
    (tmp_path / "folder" / "run").chmod(0o755)
    (tmp_path / "link").symlink_to("folder")
    keep(tmp_path, "all kinds of entries")
    return tmp_path


def test_git_sorts_names_and_checks_trees_as_is_done_here(root: Path) -> None:
    asked = Git(root, 60)
    blob = git_objects.made("blob", b"x")
    below = git_objects.tree({"y": Entry("100755", "blob", blob.name)})
    kinds = [
        Entry("100644", "blob", blob.name),
        Entry("120000", "blob", blob.name),
        Entry("040000", "tree", below.name),
    ]
    many = {name: kinds[at % 3] for at, name in enumerate(NAMES)}
    new = [git_objects.tree(many), git_objects.tree(dict(reversed(many.items()))), git_objects.tree({})]
    assert new[0] == new[1]
    asked.ask("unpack-objects", "-q", "--strict", given=git_objects.pack([blob, below, *new]))
    for each in (blob, below, *new):
        assert asked.batch([each.name]) == [each]
    assert asked.entries(new[0].name) == many == git_objects.entries(new[0].data)
    git(root, "fsck", "--strict")


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 2047, 2048, 2049, 70_000])
def test_blobs_of_any_size_arrive(root: Path, size: int) -> None:
    blob = git_objects.made("blob", random.Random(size).randbytes(size))
    Git(root, 60).ask("unpack-objects", "-q", given=git_objects.pack([blob, blob]))
    assert Git(root, 60).objects([blob.name]) == {blob.name: blob.data}


def test_a_tree_of_the_repository_is_read_as_ls_tree_reads_it(root: Path) -> None:
    asked = Git(root, 60)
    for name in ("HEAD:", "HEAD:folder", "HEAD:folder/below"):
        (found,) = asked.batch([name])
        assert found is not None
        assert git_objects.entries(found.data) == asked.entries(found.name)
        assert git_objects.tree(git_objects.entries(found.data)) == found


def test_old_permissions_are_read_as_git_reads_them(root: Path) -> None:
    blob = git_objects.made("blob", b"one")
    old = git_objects.tree({"a": Entry("100664", "blob", blob.name), "b": Entry("100777", "blob", blob.name)})
    Git(root, 60).ask("unpack-objects", "-q", given=git_objects.pack([blob, old]))
    assert git_objects.entries(old.data) == Git(root, 60).entries(old.name)


@pytest.mark.parametrize(
    ("path", "kind", "above"),
    [
        ("one", "blob", None),
        ("folder", "tree", None),
        ("folder/below/three", "blob", None),
        ("link", "blob", None),
        ("link/two", None, "link"),
        ("one/two/three", None, "one"),
        ("none", None, None),
        ("none/two", None, None),
        ("folder/none/two", None, None),
    ],
)
def test_what_a_commit_holds_at_a_path(root: Path, path: str, kind: str | None, above: str | None) -> None:
    (found,) = Git(root, 60).held("HEAD:", [path])
    assert (found.entry and found.entry.kind, found.object and found.object.kind, found.above) == (kind, kind, above)


@pytest.mark.parametrize("gone", ["HEAD:folder", "HEAD:folder/below", "HEAD:folder/below/three"])
def test_an_object_that_is_not_here_is_never_taken_for_a_file_that_is_not_there(root: Path, gone: str) -> None:
    """Else a damaged clone would show an environment that runs nothing."""
    name, head = (git(root, "rev-parse", each).strip() for each in (gone, "HEAD"))
    path = root / ".git" / "objects" / name[:2] / name[2:]
    path.chmod(0o600)
    path.unlink()
    for ask in (
        lambda: trees.read(Git(root, 60), head, "folder/below/three"),
        lambda: commits.read(root, head, Path("folder/below/three")),
    ):
        with pytest.raises(EvidenceRefused, match="is not in this clone"):
            ask()
    if not gone.endswith("three"):
        with pytest.raises(EvidenceRefused, match="is not in this clone"):
            trees.changed(Git(root, 60), git(root, "rev-parse", "HEAD^{tree}").strip(), {"folder/below/new": b""})


def test_of_a_folder_that_a_commit_has_not_nothing_is_read_and_of_no_commit_nothing_is_said(root: Path) -> None:
    head = git(root, "rev-parse", "HEAD").strip()
    (root / "new").mkdir()
    assert commits.read(root / "new", head, Path("one")) is None
    for top in (root, root / "new"):
        with pytest.raises(EvidenceRefused, match="is not in this clone"):
            commits.read(top, "0" * 40, Path("one"))


def test_names_with_line_breaks_are_refused_not_misread(root: Path) -> None:
    with pytest.raises(EvidenceRefused, match="line break"):
        commits.read(root, "HEAD", Path("one\nfolder/two"))
    with pytest.raises(PromotionRefused, match="not a path"):
        trees.changed(Git(root, 60), "HEAD^{tree}", {"one\nx": b""})


def test_a_change_writes_what_git_itself_would_write(root: Path) -> None:
    base = git(root, "rev-parse", "HEAD^{tree}").strip()
    changes = {"a/b": None, "folder/run": b"new", "folder/new/four": b"4", "a.b": b"", "one": None}
    for path, data in changes.items():
        if data is None:
            (root / path).unlink()
        else:
            (root / path).parent.mkdir(exist_ok=True)
            (root / path).write_bytes(data)
    made = trees.changed(Git(root, 60), base, changes)
    keep(root, "the same by git")
    assert made == git(root, "rev-parse", "HEAD^{tree}").strip()
    assert subprocess.run(["git", "fsck", "--strict"], cwd=root, check=False).returncode == 0
