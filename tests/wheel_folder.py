"""Wheels of what is installed here: a folder that pip installs from, without an index and without a download."""

import functools
import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path, PurePosixPath
from zipfile import ZipFile

from packaging.requirements import Requirement
from packaging.tags import sys_tags
from packaging.utils import canonicalize_name

from tests.conftest import REPOSITORY
from tests.pipeline_repository import git

# pip writes these files for each installation anew.
_OF_INSTALLATION = ("INSTALLER", "REQUESTED", "direct_url.json")


def source(folder: Path) -> Path:
    """Copy the files of this repository that git has or would take: setuptools writes into the tree that it builds."""
    for name in git(REPOSITORY, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0"):
        if name and os.path.lexists(REPOSITORY / name):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, folder / name, follow_symlinks=False)
    return folder


def built(work: Path) -> Path:
    """Return the wheel of this repository, built below ``work``."""
    build = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(work / "wheel")]
    subprocess.run([sys.executable, *build, str(source(work / "source"))], check=True, capture_output=True)
    (path,) = (work / "wheel").glob("*.whl")
    return path


def needed(requirements: list[str]) -> set[str]:
    """Return the names of the distributions that ``requirements`` need, themselves and what they need in turn."""
    extras: dict[str, set[str]] = {}
    pending = [Requirement(text) for text in requirements]
    while pending:
        requirement = pending.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        name = canonicalize_name(requirement.name)
        if name in extras and requirement.extras <= extras[name]:
            continue
        extras.setdefault(name, set()).update(requirement.extras)
        for text in metadata.requires(name) or []:
            further = Requirement(text)
            if further.marker is None or any(
                further.marker.evaluate({"extra": extra}) for extra in ("", *extras[name])
            ):
                further.marker = None
                pending.append(further)
    return set(extras)


def pack(names: set[str], folder: Path) -> None:
    """Write a wheel of each installed distribution into ``folder``, with its scripts left out."""
    for name in sorted(names):
        distribution = metadata.distribution(name)
        record = distribution.read_text("RECORD") or ""
        lines = [line for line in record.splitlines() if _is_of_wheel(line.rsplit(",", 2)[0].strip('"'))]
        paths = [line.rsplit(",", 2)[0].strip('"') for line in lines]
        (info,) = {path.partition("/")[0] for path in paths if path.endswith(".dist-info/WHEEL")}
        tags = [line[5:] for line in (distribution.read_text("WHEEL") or "").splitlines() if line.startswith("Tag: ")]
        tag = next(tag for tag in tags if tag in _tags())
        with ZipFile(folder / f"{info.removesuffix('.dist-info')}-{tag}.whl", "w") as wheel:
            for path in paths:
                if not path.endswith(".dist-info/RECORD"):
                    wheel.write(str(distribution.locate_file(path)), path)
            wheel.writestr(f"{info}/RECORD", "\n".join(lines) + "\n")


@functools.cache
def _tags() -> frozenset[str]:
    return frozenset(map(str, sys_tags()))


def _is_of_wheel(path: str) -> bool:
    parts = PurePosixPath(path).parts
    is_of_installation = parts[0].endswith(".dist-info") and parts[-1] in _OF_INSTALLATION
    return parts[0] != ".." and "__pycache__" not in parts and not is_of_installation
