"""Whether a commit holds the record that lies here: a check on any other commit would speak of another model."""

from pathlib import Path

from checks import layout
from checks.errors import EvidenceRefused
from release import commits, land, record
from release.reporting.facts import Lacking

_CODE = ("stages", "checks")  # the lock names their digests


def lacking(root: Path, commit: str) -> Lacking | None:
    """What ``commit``, a full hash, lacks of the record below ``root`` and of what that is about; None: nothing."""
    if not commits.has_repository(root) or commits.resolve(root, commit) != commit:
        return Lacking(commit, why="git does not know it here")
    try:
        paths = [layout.PARAMS, layout.PIPELINE, *land.record_files(root)]
        if (root / layout.APPROVALS).exists():  # counts for the verdict
            paths.append(layout.APPROVALS)
        paths += record.module_files(root, (root / layout.LOCK).read_bytes())
        others = [path.as_posix() for path in commits.uncommitted(root, commit, paths)]
        others += [folder for folder in _CODE if not commits.same(root, commit, (folder,))]
    except EvidenceRefused as refused:
        return Lacking(commit, why=refused.what)
    return Lacking(commit, tuple(others)) if others else None
