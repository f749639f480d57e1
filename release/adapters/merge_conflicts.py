"""Finds what a merge left unsettled in the record, the commits that are merged, and takes the record of one of them.

git never merges the lines of these files (``.gitattributes``): a record is of one run, and mixed lines are of none.
"""

import re
from pathlib import Path

from checks.process.errors import EvidenceRefused
from checks.storage import layout
from release.adapters.git import Git, has_repository

HAS = "has conflict markers of a merge"
RECORD = tuple(path.as_posix() for path in (layout.CODE_LOCK, layout.LOCK, layout.REPORTS))
_MARKER = re.compile(rb"^<{7} ", re.MULTILINE)
# What git calls the other commit, and how the merge is ended. A rebase may have both of the last two.
_ENDS = {
    "MERGE_HEAD": "git commit --no-edit",
    "REBASE_HEAD": "GIT_EDITOR=true git rebase --continue",
    # Nothing is left of a commit that changed the record alone, if the other record is taken.
    "CHERRY_PICK_HEAD": "git commit --no-edit --allow-empty",
}


def check(root: Path) -> None:
    """Check that no lock and no report below ``root`` has conflict markers. Raises EvidenceRefused."""
    paths = (
        root / layout.CODE_LOCK,
        root / layout.LOCK,
        *sorted((root / layout.REPORTS).rglob("*.json")),
    )
    names = [
        path.relative_to(root).as_posix()
        for path in paths
        if path.is_file() and _MARKER.search(path.read_bytes())
    ]
    if names:
        raise EvidenceRefused(
            f"{names[0]}: {HAS}",
            _resolved_by(root),
            tuple(f"{name}: has them, too" for name in names[1:]),
        )


def other_commit(git: Git) -> tuple[str, str] | None:
    """Return the commit that is merged, rebased or picked into HEAD, and the command that ends that; None: none is."""
    for name, ends in _ENDS.items():
        commit = git.found("rev-parse", "--quiet", "--verify", f"{name}^{{commit}}")
        if commit and (name != "REBASE_HEAD" or _is_rebasing(git)):
            return commit, ends
    return None


def unsettled(git: Git) -> list[str]:
    """Return the files below the root that have a conflict in git's index, by path below it."""
    listed = git.ask("ls-files", "--unmerged", "-z").decode(errors="surrogateescape")
    return list(dict.fromkeys(line.partition("\t")[2] for line in filter(None, listed.split("\0"))))


def take(git: Git, commit: str) -> None:
    """Make the record in the work tree and in git's index that of ``commit``, and no other file."""
    there = [
        path
        for path in RECORD
        if git.ask("ls-files", "--", path) or git.ask("ls-tree", commit, "--", path)
    ]
    git.ask("restore", f"--source={commit}", "--staged", "--worktree", "--", *there)


def _is_rebasing(git: Git) -> bool:
    folders = ("rebase-merge", "rebase-apply")
    return any((git.root / git.line("rev-parse", "--git-path", name)).exists() for name in folders)


def _resolved_by(root: Path) -> str:
    """Return what brings back one side of the record."""
    if has_repository(root) and unsettled(Git(root, None)):
        return "`./lockstep resolve` takes the record of one side whole"
    record = " ".join(path for path in RECORD if (root / path).exists())
    return f"restore the record from an earlier commit: `git checkout COMMIT -- {record}`; then `./lockstep run`"
