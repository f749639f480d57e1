"""Which files make the record in git, and whether a commit contains them as they are here.

A check on a commit without them would be about another model.
"""

from pathlib import Path
from typing import NamedTuple

from checks.process.errors import EvidenceRefused
from checks.storage import layout
from release.adapters import commits
from release.record import kept_answers, pipeline_lock, target_policy
from release.record.records import Records, WorkTree

_CODE = ("stages", "checks", layout.KINDS.name)  # code.lock has their digests
_MEASURED = {layout.TRAIN_MEASURED, layout.EVALUATE_MEASURED, layout.SUITES_MEASURED}
_OPTIONAL = {layout.NOISE, *_MEASURED, *kept_answers.PATHS}


class Missing(NamedTuple):
    """The files of this record that ``commit`` lacks: ``paths``, or the reason ``why`` that cannot be determined."""

    commit: str
    paths: tuple[str, ...] = ()
    why: str = ""


def missing(records: Records, commit: str) -> Missing | None:
    """Return what ``commit``, a full hash, lacks of the work tree's record and its inputs; None if nothing."""
    root = records.root
    if not commits.has_repository(root) or commits.resolve(root, commit) != commit:
        return Missing(commit, why="git does not know it here")
    try:
        paths = [layout.PARAMS, layout.PIPELINE, *record_files(records.work_tree)]
        # An approval counts for the verdict.
        approvals = target_policy.unmerged_approvals(root, commit)
        others = [
            *(path.as_posix() for path in (*commits.uncommitted(root, commit, paths), *approvals)),
            *(folder for folder in _CODE if not commits.same(root, commit, (folder,))),
        ]
    except EvidenceRefused as refused:
        return Missing(commit, why=refused.what)
    return Missing(commit, tuple(others)) if others else None


def record_paths(tree: WorkTree) -> set[Path]:
    """Where the files of the record are: dvc.lock, outputs that dvc.yaml leaves to git, what git said, measurements.

    Noise, measurements and kept answers may be missing. Raises EvidenceRefused if dvc.yaml cannot be read.
    """
    return (
        pipeline_lock.left_to_git(tree.pipeline)
        | {layout.LOCK, layout.REFERENCES, layout.LOOKS}
        | _OPTIONAL
    )


def record_files(tree: WorkTree) -> list[Path]:
    """The files of the record that are here. Raises EvidenceRefused as ``record_paths``, or if one is missing."""
    root = tree.root
    kept = {path for path in record_paths(tree) if path not in _OPTIONAL or (root / path).exists()}
    for path in sorted(kept):
        if (
            path.is_absolute()
            or ".." in path.parts
            or (root / path).is_symlink()
            or not (root / path).is_file()
        ):
            raise EvidenceRefused(
                f"{path}: is not a regular file here, and the record needs it", "run `lockstep run`"
            )
    return sorted(kept)
