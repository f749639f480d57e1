"""Finds conflict markers of a merge in the record, and names the commands that resolve them."""

import re
from pathlib import Path

from checks.process.errors import EvidenceRefused
from checks.storage import layout
from release.adapters.git import Git, has_repository

HAS = "has conflict markers of a merge"
_MARKER = re.compile(rb"^<{7} ", re.MULTILINE)
_RECORD = (layout.CODE_LOCK, layout.LOCK, layout.REPORTS)


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
        others = tuple(f"{name}: has them, too" for name in names[1:])
        raise EvidenceRefused(f"{names[0]}: {HAS}", _resolved_by(root), others)


def _resolved_by(root: Path) -> str:
    """Return what brings back one side of the record.

    A run computes again what does not match the merged parameters.
    """
    git = Git(root, None)
    record = " ".join(path.as_posix() for path in _RECORD if (root / path).exists())
    if not has_repository(root) or not git.line("ls-files", "--unmerged", "--", *record.split()):
        return f"restore the record from an earlier commit: `git checkout COMMIT -- {record}`; then `./lockstep run`"
    states = [
        root / git.line("rev-parse", "--git-path", name)
        for name in ("rebase-merge", "rebase-apply")
    ]
    rebasing = any(path.exists() for path in states)
    side = "--theirs" if rebasing else "--ours"  # a rebase calls the branch's own side theirs
    finish = "GIT_EDITOR=true git rebase --continue" if rebasing else "git commit --no-edit"
    keep = f"git checkout {side} {record} && git add {record} && {finish}"
    return f"keep your own side: `{keep}`; then `./lockstep run`"
