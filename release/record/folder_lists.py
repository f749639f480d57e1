"""Checks the folders that dvc.lock names: DVC's list of a folder has its digest, and names exactly the files there.

dvc.lock names a folder by the MD5 of a list of its files, an object ``….dir`` in DVC's cache and remote. Whoever
fetches the folder writes the files that the list names. Where the list is in the cache of this machine, it is read, and
the verdict's own digests cover the contents. Where it is not, it is made again from the folder, byte by byte.
"""

import configparser
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from checks.storage import digest, layout

_SUFFIX = ".dir"
_IGNORED = "__pycache__"  # in .dvcignore


def differences(root: Path, stage: str, path: str, md5: str, may_read: bool) -> Iterator[str]:
    """Yield a line for what is wrong with the list ``md5`` of the folder ``path``, an output of ``stage``.

    Nothing is yielded for a folder that is not here. ``may_read``: whether the contents of the folder may be read if
    its list is not in the cache.
    """
    folder = root / path
    if not folder.is_dir():
        return
    is_other = f"{path}: is not what {layout.LOCK} says of {stage}"
    data = _cached(root, md5)
    if data is None:
        if may_read and made_again(folder) != md5:
            yield is_other
        return
    if f"{md5_of(data)}{_SUFFIX}" != md5:
        yield f"{path}: DVC's cache has another list than {md5}; remove it there, and `./lockstep dvc pull {path}`"
        return
    names = _names(data)
    if names is None or not all(map(digest.is_name, names)):
        yield f"{path}: its list {md5} names files outside of it: find out who made {layout.LOCK}"
    elif names != set(below(folder)):
        yield is_other


def md5_of(data: bytes) -> str:
    """Return DVC's MD5 of a file."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def below(folder: Path) -> list[str]:
    """Return the files in a folder that DVC would list, by path below it."""
    names, start = list[str](), len(f"{folder}/")
    for above, folders, files in os.walk(folder):  # pathlib takes five times as long
        folders[:] = [name for name in folders if name != _IGNORED]
        names += [f"{above}/{name}"[start:] for name in files if name != _IGNORED]
    return sorted(names)


def _cached(root: Path, md5: str) -> bytes | None:
    """Return the list ``md5`` from DVC's cache; None if it is not there."""
    try:
        return (cache(root) / "files" / "md5" / md5[:2] / md5[2:]).read_bytes()
    except (OSError, ValueError):
        return None


def cache(root: Path) -> Path:
    """Return the folder of DVC's cache. A process of DVC would need a second to name it."""
    settings = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        settings.read([root / ".dvc" / "config", root / ".dvc" / "config.local"])
    except (configparser.Error, UnicodeDecodeError):
        return root / ".dvc" / "cache"
    return root / ".dvc" / settings.get("cache", "dir", fallback="cache").strip("\"'")


def _names(data: bytes) -> set[str] | None:
    """Return the paths in a list; None if it is none, or names a path twice."""
    try:
        entries = json.loads(data)
        names = [entry["relpath"] for entry in entries]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    if (
        not isinstance(entries, list)
        or not all(isinstance(name, str) for name in names)
        or len({*names}) != len(names)
    ):
        return None
    return {*names}


def made_again(folder: Path) -> str | None:
    """Return the MD5 of the list that DVC would make of the folder; None if it has something else than files."""
    data = list_of(folder)
    return None if data is None else f"{md5_of(data)}{_SUFFIX}"


def list_of(folder: Path) -> bytes | None:
    """Return the list that DVC would make of the folder; None if it has something else than files."""
    if not all((folder / name).is_file() for name in below(folder)):
        return None
    entries = [{"md5": _md5(folder / name), "relpath": name} for name in below(folder)]
    return json.dumps(entries).encode()


def _md5(path: Path) -> str:
    with path.open("rb", buffering=0) as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
