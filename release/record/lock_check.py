"""Checks dvc.lock against this pipeline, these parameters, this code and these reports."""

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from checks import layout
from checks.errors import EvidenceRefused
from release.record import pipeline_lock
from release.record.pipeline_lock import Stages
from release.record.records import WorkTree

_MODULE = ".py"
_CODE = ("checks/", "stages/")  # a folder below one of them that a stage depends on holds modules
_NO_CODE = "__pycache__"  # as .dvcignore has it
_MAKING = ("fetch", "prepare", "validate", "train", "merge")  # the stages that decide the model


def differences(tree: WorkTree, stages: Collection[str] = ()) -> list[str]:
    """One line for each difference between dvc.lock and dvc.yaml, the parameters, modules and reports.

    Of the stages ``stages`` only, if given. Outputs in DVC's cache are checked by the verdict's own digests, except the
    probes, which the verdict does not judge. Raises ParamsRefused if params.yaml cannot be read.
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


def makes_another_model(tree: WorkTree) -> bool:
    """Whether the pipeline would make another model than the record's. A changed gate, scorer or server does not."""
    return bool(differences(tree, _MAKING))


def otherwise(said: Mapping[str, Any], lock: Stages) -> Iterator[str]:
    """One line for each parameter of ``said`` (params.yaml) that a stage did not run with, by the lock."""
    for name, ran in lock.items():
        for key, value in pipeline_lock.parameters(ran).items():
            if _at(said, str(key)) != value:
                yield f"{layout.PARAMS}: {key} is not what {name} ran with"


def modules(lock: Stages) -> dict[Path, str]:
    """The modules that the stages ran, with their MD5, from a dvc.lock.

    Includes folders of modules; see ``folder_md5`` for their MD5.
    """
    named = dict(each for ran in lock.values() for each in pipeline_lock.files(ran))
    return {Path(path): md5 for path, md5 in sorted(named.items()) if path.endswith(_MODULE) or _is_folder(path, md5)}


def module_files(tree: WorkTree) -> list[Path]:
    """The modules that the stages ran, from dvc.lock; folders are expanded to the files in them here."""
    found = []
    for path, md5 in modules(tree.lock).items():
        is_here = _is_folder(path.as_posix(), md5) and ".." not in path.parts
        found += [path / name for name in _below(tree.root / path)] if is_here else [path]
    return sorted(found)


def folder_md5(contents: Mapping[str, bytes]) -> str:
    """DVC's MD5 of a folder: that of the JSON list of its files with their MD5, sorted by path.

    ``contents``: path below the folder to content.
    """
    listed = [
        {"md5": md5_of(data), "relpath": name}
        for name, data in sorted(contents.items())
        if _NO_CODE not in Path(name).parts
    ]
    return f"{md5_of(json.dumps(listed).encode())}.dir"


def md5_of(data: bytes) -> str:
    """DVC's MD5 of a file."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _only(found: Stages, stages: Collection[str]) -> Stages:
    return {name: stage for name, stage in found.items() if name in stages} if stages else found


def _changed(root: Path, stage: str, ran: Mapping[str, Any]) -> list[str]:
    """Modules, reports and probes that differ from what the stage read and wrote."""
    found = []
    for path, expected in pipeline_lock.files(ran):
        if not path.endswith(_MODULE) and not path.startswith((f"{layout.REPORTS}/", layout.PROBES.as_posix(), *_CODE)):
            continue
        if expected.endswith(".dir") and not _is_folder(path, expected):
            continue
        try:
            if path.startswith("/") or ".." in Path(path).parts:
                raise ValueError("a way out of the repository, which no stage takes")
            if _is_folder(path, expected):
                now = folder_md5({name: (root / path / name).read_bytes() for name in _below(root / path)})
            else:
                now = md5_of((root / path).read_bytes())
        except (OSError, ValueError):
            now = None
        if now != expected:
            found.append(f"{path}: is not what {layout.LOCK} says of {stage}")
    return found


def _is_folder(path: str, md5: str) -> bool:
    """Whether a dependency is a folder of modules, as for stages that discover kinds."""
    return md5.endswith(".dir") and path.startswith(_CODE)


def _below(folder: Path) -> list[str]:
    """The files in a folder of modules, by path below it."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir())
    return sorted(path.as_posix() for path in found if _NO_CODE not in path.parts)


def _at(document: Any, path: str) -> Any:
    """The value at a dotted path; None if there is none."""
    for part in path.split("."):
        document = document.get(part) if isinstance(document, dict) else None
    return document
