"""The modules that the stages ran, by dvc.lock: their paths, and their MD5 as DVC makes it."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from release.record import pipeline_lock
from release.record.pipeline_lock import Stages

SUFFIX = ".py"
CODE = ("checks/", "stages/")  # a folder below one of them that a stage depends on holds modules
_NO_CODE = "__pycache__"  # as .dvcignore has it


def ran(lock: Stages) -> dict[Path, str]:
    """The modules that the stages ran, with their MD5, from a dvc.lock.

    Includes folders of modules; see ``folder_md5`` for their MD5.
    """
    named = dict(each for stage in lock.values() for each in pipeline_lock.files(stage))
    return {Path(path): md5 for path, md5 in sorted(named.items()) if path.endswith(SUFFIX) or is_folder(path, md5)}


def files(root: Path, lock: Stages) -> list[Path]:
    """The modules that the stages ran; folders are expanded to the files in them below ``root``."""
    found = []
    for path, md5 in ran(lock).items():
        is_here = is_folder(path.as_posix(), md5) and ".." not in path.parts
        found += [path / name for name in below(root / path)] if is_here else [path]
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


def is_folder(path: str, md5: str) -> bool:
    """Whether a dependency is a folder of modules, as for stages that discover kinds."""
    return md5.endswith(".dir") and path.startswith(CODE)


def below(folder: Path) -> list[str]:
    """The files in a folder of modules, by path below it."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir())
    return sorted(path.as_posix() for path in found if _NO_CODE not in path.parts)
