"""Reading git: which commit a name means, what a file was there. Reads objects only, changes nothing.

Names are resolved to full hashes first and every later question is about hashes, so that no branch or file
name is taken for an option, and none moves between two questions.
"""

import os
import re
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from checks.errors import EvidenceRefused, MachineRefused

# Where releases are made, the first that exists: what pull requests are held against.
_TARGETS = (
    "refs/remotes/origin/HEAD",
    "refs/remotes/origin/main",
    "refs/remotes/origin/master",
    "refs/heads/main",
    "refs/heads/master",
)
_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
# Objects are what they are: nothing stands for another one, and no history is cut or grafted by a local file.
_AS_IT_IS = {"GIT_NO_REPLACE_OBJECTS": "1", "GIT_GRAFT_FILE": os.devnull}


def has_repository(root: Path) -> bool:
    """Whether ``root`` lies in a git work tree."""
    return any((folder / ".git").exists() for folder in (root.resolve(), *root.resolve().parents))


def resolve(root: Path, name: str) -> str | None:
    """The full hash of the commit that ``name`` means; None when there is none, as HEAD before the first commit."""
    if name.startswith("-"):
        return None
    # A branch before a tag of its name: git itself would take the tag, which is easier to push. What is exact already
    # is no branch's name, whatever branches there are.
    exact = name == "HEAD" or name.startswith("refs/") or _HASH.fullmatch(name)
    for full in (name,) if exact else (f"refs/remotes/{name}", f"refs/heads/{name}", name):
        found = _git(root, "rev-parse", "--verify", "--quiet", f"{full}^{{commit}}", may_fail=True)
        if found is not None:
            return found.decode().strip()
    return None


def target(root: Path, name: str | None = None) -> tuple[str, str | None]:
    """The target branch's name and commit: ``name``, else origin's default branch, else a local main, else HEAD.

    The commit is None before the first one. Raises EvidenceRefused when git knows no ``name``, or a remote and none
    of its usual branches.
    """
    if name is not None:
        if (commit := resolve(root, name)) is None:
            raise EvidenceRefused(f"{name}: git knows no such commit here", "fetch the target branch, or name another")
        return name, commit
    for candidate in _TARGETS:
        # A branch that somebody called HEAD is fetched to the name of the default branch's pointer, and is none.
        if candidate.endswith("/HEAD") and _git(root, "symbolic-ref", "--quiet", candidate, may_fail=True) is None:
            continue
        if commit := resolve(root, candidate):
            return candidate.removeprefix("refs/remotes/").removeprefix("refs/heads/"), commit
    head = resolve(root, "HEAD")
    if head and (remotes := _read(root, "remote").decode().split()):
        # A branch that is held against itself would choose its own champion.
        raise EvidenceRefused(
            f"no branch of {remotes[0]} is known as the one that releases are made on",
            f"git fetch {remotes[0]}, then git remote set-head {remotes[0]} --auto; or name it",
        )
    return "HEAD", head


def prefix(root: Path) -> Path:
    """Where ``root`` lies in its repository: of a past commit, DVC takes paths from there."""
    return Path(_read(root, "rev-parse", "--show-prefix").decode().strip("\n"))


def is_shallow(root: Path) -> bool:
    """Whether the clone lacks history: a merge base may then be another, or none."""
    return _read(root, "rev-parse", "--is-shallow-repository") == b"true\n"


def merge_base(root: Path, one: str, two: str) -> str | None:
    """The commit where the histories of two commits part; None when they share none."""
    found = _git(root, "merge-base", one, two, may_fail=True)
    return None if found is None else found.decode().strip()


def is_ancestor(root: Path, old: str, new: str) -> bool:
    """Whether ``old`` is ``new`` or in its history; False when git lacks it."""
    if resolve(root, old) is None:
        return False
    return _git(root, "merge-base", "--is-ancestor", old, new, may_fail=True) is not None


def touching(root: Path, tip: str, path: Path) -> list[str]:
    """The commits up to ``tip``, the latest first, that changed ``path`` on the branch itself."""
    return _read(root, "log", "--first-parent", "--format=%H", tip, "--", path.as_posix()).decode().split()


def last_touching(root: Path, tip: str, paths: Sequence[Path]) -> str | None:
    """The commit in the history of ``tip`` that these files are as they are since; None when it has none of them.

    A branch that was merged is followed: the commit is the same one before and after the merge.
    """
    names = [path.as_posix() for path in paths]
    found = _read(root, "--no-replace-objects", "rev-list", "--max-count=1", tip, "--", *names)
    return found.decode().strip() or None


def committed_at(root: Path, commit: str) -> datetime:
    """When a commit was made (not when its change was written), in UTC."""
    text = _read(root, "--no-replace-objects", "cat-file", "commit", commit).partition(b"\n\n")[0]
    found = re.search(rb"^committer .*> (\d{1,10}) [+-]\d{4}$", text, re.MULTILINE)
    if found is None:
        raise EvidenceRefused(f"commit {commit[:12]}: has no time", "make the commit again")
    return datetime.fromtimestamp(int(found[1]), UTC)


def uncommitted(root: Path, commit: str, paths: Sequence[Path]) -> list[Path]:
    """Which of these files are not in ``commit`` byte for byte as they lie here.

    git's index is not asked: it can be told to overlook a change.
    """
    listed = _read(root, "--no-replace-objects", "ls-tree", "-z", commit, "--", *(path.as_posix() for path in paths))
    entries = (line.partition("\t") for line in listed.decode().split("\0") if line)
    blobs = {name: fields.split(" ")[2] for fields, _, name in entries if not fields.startswith("120000 ")}
    there = [path for path in paths if (root / path).is_file() and not (root / path).is_symlink()]
    hashed = _read(root, "hash-object", "--no-filters", "--", *(path.as_posix() for path in there)).decode().split()
    here = dict(zip(there, hashed, strict=True)) if there else {}
    return [path for path in paths if path not in here or blobs.get(path.as_posix()) != here[path]]


def same(root: Path, commit: str, paths: tuple[str, ...]) -> bool:
    """Whether the tracked files below ``paths`` are in the work tree as they are in ``commit``."""
    return _git(root, "diff", "--quiet", "--no-ext-diff", commit, "--", *paths, may_fail=True) is not None


def read(root: Path, commit: str, path: Path) -> bytes | None:
    """The bytes of ``path``, relative to ``root``, in ``commit``; None when it holds no such file."""
    # ls-tree tells a file that is not there from a commit that is not there; `git show` does not.
    listed = _read(root, "ls-tree", "-z", commit, "--", path.as_posix()).decode()
    if not listed:
        return None
    mode, kind, blob = listed.partition("\t")[0].split(" ")
    if kind != "blob" or mode == "120000":
        raise EvidenceRefused(f"{path} at {commit[:12]}: is not a regular file", "replace it with one, and commit that")
    return _read(root, "cat-file", "blob", blob)


def _read(root: Path, *args: str) -> bytes:
    found = _git(root, *args)
    assert found is not None  # else it was refused
    return found


def _git(root: Path, *args: str, may_fail: bool = False) -> bytes | None:
    """What git prints; None when it ends with 1, its way to say no, and ``may_fail``."""
    command = ["git", "-c", "core.quotePath=off", *args]
    try:
        done = subprocess.run(command, cwd=root, env=os.environ | _AS_IT_IS, capture_output=True, check=False)
    except OSError as error:
        raise MachineRefused(f"git: {error.strerror}", "install git") from error
    if done.returncode == 0:
        return done.stdout
    if may_fail and done.returncode == 1:
        return None
    said = done.stderr.decode(errors="replace").strip().partition("\n")[0] or f"ended with {done.returncode}"
    raise EvidenceRefused(f"git {args[0]}: {said}", "mend the repository (a clone with its whole history), then again")
