"""Which files make the record that git keeps, and whether a commit holds them as they are here.

A check on a commit that lacks them would speak of another model.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from checks import layout, plain_yaml
from checks.errors import EvidenceRefused
from release.adapters import commits
from release.record import lock_check

_PIPELINE = Path("dvc.yaml")
_CODE = ("stages", "checks")  # the lock names their digests


class Missing(NamedTuple):
    """What ``commit`` does not have of this record: ``paths``, or what cannot be told, for ``why``."""

    commit: str
    paths: tuple[str, ...] = ()
    why: str = ""


def missing(root: Path, commit: str) -> Missing | None:
    """What ``commit``, a full hash, does not have of the record below ``root`` and its inputs; None: it has all."""
    if not commits.has_repository(root) or commits.resolve(root, commit) != commit:
        return Missing(commit, why="git does not know it here")
    try:
        paths = [layout.PARAMS, layout.PIPELINE, *record_files(root)]
        if (root / layout.APPROVALS).exists():  # counts for the verdict
            paths.append(layout.APPROVALS)
        paths += lock_check.modules((root / layout.LOCK).read_bytes())
        others = [path.as_posix() for path in commits.uncommitted(root, commit, paths)]
        others += [folder for folder in _CODE if not commits.same(root, commit, (folder,))]
    except EvidenceRefused as refused:
        return Missing(commit, why=refused.what)
    return Missing(commit, tuple(others)) if others else None


def record_files(root: Path) -> list[Path]:
    """The files that make the record: dvc.lock, outputs that dvc.yaml leaves to git, references, noise, and measures.

    Raises EvidenceRefused when one is not here, or dvc.yaml cannot be read.
    """
    try:
        document = plain_yaml.load((root / _PIPELINE).read_text(encoding="utf-8"))
        stages = document["stages"].values()
        outs = [out for stage in stages for kind in ("outs", "metrics", "plots") for out in stage.get(kind, [])]
    except (OSError, ValueError, yaml.YAMLError, AttributeError, KeyError, TypeError) as error:
        raise EvidenceRefused(f"{_PIPELINE}: is no pipeline: {type(error).__name__}", "restore it from git") from error
    kept = {Path(name) for out in outs if isinstance(out, Mapping) for name, said in out.items() if _left_to_git(said)}
    kept |= {Path(layout.LOCK), layout.REFERENCES}
    measured = (layout.NOISE, layout.TRAIN_MEASURED, layout.EVALUATE_MEASURED)
    kept |= {path for path in measured if (root / path).exists()}
    for path in sorted(kept):
        if path.is_absolute() or ".." in path.parts or (root / path).is_symlink() or not (root / path).is_file():
            raise EvidenceRefused(f"{path}: is no file here, and the record needs it", "run `lockstep run`")
    return sorted(kept)


def _left_to_git(said: Any) -> bool:
    return isinstance(said, Mapping) and said.get("cache") is False
