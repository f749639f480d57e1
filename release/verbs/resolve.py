"""resolve: takes the record of one side of a merge whole, instead of merging its lines.

A record (code.lock, dvc.lock and reports/) is of one run: its digests name one another. So it is never merged. The side
is taken whose run is the one that the merged parameters, pipeline and code would give. If neither is, the side is taken
of which the fewest stages must run again, and a run has to make the record anew. The choice depends on the two records
alone, not on which of them is merged into the other.
"""

from pathlib import Path
from typing import NamedTuple

from checks.process.errors import EvidenceRefused
from checks.records.rows import Record
from checks.storage import layout
from release.adapters import merge_conflicts
from release.adapters.git import Git, has_repository
from release.record import lock_check
from release.record.records import Commit, Records


class ResolvedMerge(Record):
    """The record is now that of ``commit``. ``differences``: why it does not fit what was merged; empty: it fits.

    ``stale``: the stages that must run again, from the first. ``ends``: the command that ends the merge.
    """

    commit: str
    differences: tuple[str, ...]
    stale: tuple[str, ...]
    ends: str


class _Side(NamedTuple):
    """The record of one side. ``content``: what it holds, by which two records that fit alike are put in order."""

    commit: str
    differences: tuple[str, ...]
    stale: tuple[str, ...]
    content: bytes


def resolve(root: Path) -> ResolvedMerge:
    """Take the record that fits the merge at work in ``root``, and stage it.

    Raises EvidenceRefused if no merge is at work, another file below ``root`` has a conflict, dvc.yaml cannot be read,
    or a run made the record anew meanwhile; ParamsRefused if the merged params.yaml is invalid.
    """
    git = Git(root, None)
    merging = merge_conflicts.other_commit(git) if has_repository(root) else None
    records = Records(root)
    if merging is None or records.head is None:
        raise EvidenceRefused(
            f"{root.resolve()}: no merge, rebase or cherry-pick is at work here",
            "run this where one stopped at a conflict",
        )
    other, ends = merging
    _settled(git)
    commits = [records.at(commit) for commit in (records.head, other)]
    _no_run_since(records, commits)
    sides = [_side(records, git, commit) for commit in commits]
    side = min(sides, key=lambda side: (len(side.stale), len(side.differences), side.content))
    merge_conflicts.take(git, side.commit)
    return ResolvedMerge(
        commit=side.commit, differences=side.differences, stale=side.stale, ends=ends
    )


def _settled(git: Git) -> None:
    """Check that every conflict left is one of the record. Raises EvidenceRefused with the others."""
    record = tuple(map(Path, merge_conflicts.RECORD))
    sources = [
        path
        for path in merge_conflicts.unsettled(git)
        if not any(Path(path).is_relative_to(part) for part in record)
    ]
    if sources:
        raise EvidenceRefused(
            f"{sources[0]}: has a conflict that only a person can settle",
            f"edit it, `git add {' '.join(sources)}`, then `lockstep resolve` again",
            tuple(f"{path}: has one, too" for path in sources[1:]),
        )


def _no_run_since(records: Records, commits: list[Commit]) -> None:
    """Raise EvidenceRefused if the record here fits and is of neither side: it would be lost."""
    try:
        here = (records.root / layout.LOCK).read_bytes()
        is_new = all(commit.data(layout.LOCK) != here for commit in commits)
        is_new = is_new and not lock_check.differences(records.work_tree)
    except (EvidenceRefused, OSError):
        return
    if is_new:
        raise EvidenceRefused(
            f"{layout.LOCK}: is of neither side and fits what is here: a run made it anew",
            f"keep it: `git add {' '.join(merge_conflicts.RECORD)}`; or drop it: `git checkout HEAD -- {layout.LOCK}`",
        )


def _side(records: Records, git: Git, commit: Commit) -> _Side:
    """Return how far the record of a commit fits the merged parameters, pipeline and code."""
    tree = records.work_tree
    content = git.ask("ls-tree", "-r", commit.name, "--", *merge_conflicts.RECORD)
    pipeline = tuple(tree.pipeline)
    try:
        differing = lock_check.of_commit(tree, commit)
    except EvidenceRefused as refused:
        return _Side(commit.name, (refused.what,), pipeline, content)
    stages = tuple(differing)
    first = next((number for number, name in enumerate(stages) if differing[name]), len(stages))
    lines = tuple(line for listed in differing.values() for line in listed)
    return _Side(commit.name, lines, stages[first:], content)
