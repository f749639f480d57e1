"""Whether dvc.lock is a record of what lies here: of this pipeline, these parameters, this code, these reports."""

import hashlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from checks import layout
from checks.errors import EvidenceRefused
from release.record import pipeline_lock
from release.record.pipeline_lock import Stages
from release.record.records import WorkTree

_MODULE = ".py"


def differences(tree: WorkTree, stages: Collection[str] = ()) -> list[str]:
    """One line for each thing that dvc.lock does not say as dvc.yaml asks it, and for each parameter, module or report
    that a stage did not run with as it is now; of ``stages`` alone, where some are named.

    Outputs that DVC caches are held by the verdict's own digests, but for the probes, which it does not judge. Raises
    ParamsRefused when params.yaml cannot be read.
    """
    said = tree.document
    try:
        pipeline, lock = (_only(found, stages) for found in (tree.pipeline, tree.lock))
    except EvidenceRefused as refused:
        return [refused.what]
    reads = {name: keys for name, keys in pipeline_lock.READS.items() if not stages or name in stages}
    found = [*pipeline_lock.incomplete(pipeline, lock, reads), *otherwise(said, lock)]
    for name, ran in lock.items():
        found += _changed(tree.root, name, ran)
    return list(dict.fromkeys(found))


def otherwise(said: Mapping[str, Any], lock: Stages) -> Iterator[str]:
    """One line for each parameter of ``said`` (params.yaml) that is not what a stage ran with, by the lock."""
    for name, ran in lock.items():
        for key, value in pipeline_lock.parameters(ran).items():
            if _at(said, str(key)) != value:
                yield f"{layout.PARAMS}: {key} is not what {name} ran with"


def modules(lock: Stages) -> dict[Path, str]:
    """The modules that the stages ran, and the MD5 of each, by a dvc.lock."""
    named = dict(each for ran in lock.values() for each in pipeline_lock.files(ran))
    return {Path(path): md5 for path, md5 in sorted(named.items()) if path.endswith(_MODULE)}


def _only(found: Stages, stages: Collection[str]) -> Stages:
    return {name: stage for name, stage in found.items() if name in stages} if stages else found


def _changed(root: Path, stage: str, ran: Mapping[str, Any]) -> list[str]:
    """Modules, reports and probes that are not what the stage read and wrote."""
    found = []
    for path, expected in pipeline_lock.files(ran):
        if not path.endswith(_MODULE) and not path.startswith((f"{layout.REPORTS}/", layout.PROBES.as_posix())):
            continue
        if expected.endswith(".dir"):
            continue
        try:
            if path.startswith("/") or ".." in Path(path).parts:
                raise ValueError("a way out of the repository, which no stage takes")
            now = hashlib.md5((root / path).read_bytes(), usedforsecurity=False).hexdigest()  # as DVC names files
        except (OSError, ValueError):
            now = None
        if now != expected:
            found.append(f"{path}: is not what {layout.LOCK} says of {stage}")
    return found


def _at(document: Any, path: str) -> Any:
    """The value at a dotted path; None where there is none."""
    for part in path.split("."):
        document = document.get(part) if isinstance(document, dict) else None
    return document
