"""Checks that Lockstep and the packages of kinds are the wheels that a thin repository pins, with the files they had.

The pin is a reviewed file of the repository, and has the digests of the code that judges and signs. pip notes the
digest of a wheel that it installs from a file, as the launcher lets it do, and RECORD has the digest of every file. Of
the libraries, the tested set names versions alone.
"""

import base64
import csv
import hashlib
import json
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from checks.kinds import plugins
from checks.process import distribution
from checks.process.errors import EvidenceRefused
from release.adapters import commits, pin, projects

_PACKAGES = ("checks", "release", "stages")
_REMEDY = "use the launcher: `./lockstep VERB`"


def check(root: Path, committed: bool) -> bool:
    """Compare Lockstep and packages of kinds with the pin in the work tree of ``root``, or in HEAD if ``committed``.

    Return whether the repository pins anything; else nothing is compared. Raises EvidenceRefused, and ParamsRefused as
    ``pin.read``.
    """
    text = _pinned(root, committed)
    if text is None or distribution.home() == root.resolve():
        return False
    wanted = pin.read(text)
    here = distribution.origin().get("archive_info", {}).get("hashes", {}).get("sha256")
    if here not in wanted.hashes:
        origin = "was not installed by ./lockstep" if here is None else f"is the wheel {here[:12]}"
        raise EvidenceRefused(
            f"this Lockstep {distribution.version()} {origin}, and {pin.PATH} pins {wanted.version}, "
            f"{wanted.hashes[0][:12]}",
            _REMEDY,
        )
    if differing := _differing():
        raise EvidenceRefused(
            f"{differing[0]}: is not the file of the wheel that was installed",
            "remove .venv, and run ./lockstep",
            tuple(f"{path}: differs, too" for path in differing[1:]),
        )
    if unpinned := list(_unpinned(pin.hashes(text))):
        (what, todo), *others = unpinned
        raise EvidenceRefused(what, todo, tuple(f"{w}; {t}" for w, t in others))
    return True


def _unpinned(hashes: dict[str, frozenset[str]]) -> Iterator[tuple[str, str]]:
    """Yield (problem, fix) for each package that adds to Lockstep and is not the wheel of ``hashes``. Imports none."""
    own = pin.own_packages(metadata.requires(distribution.NAME) or ())
    for name, package in sorted(_packages_of_kinds().items()):
        start = f"package {name} {package.version}"
        origin = json.loads(package.read_text("direct_url.json") or "{}")
        here = origin.get("archive_info", {}).get("hashes", {}).get("sha256")
        differing = (
            path for path, sha256 in _recorded(package).items() if _differs(package, path, sha256)
        )
        if name not in hashes and name in own:
            yield (
                f"{start} adds to Lockstep, and {pin.PATH} does not pin it",
                f"name its extra there, and run `lockstep upgrade {distribution.version()}`, which pins it",
            )
        elif name not in hashes:
            line = f"{name}=={package.version} --hash=sha256:{here or '…'}"
            yield (
                f"{start} adds to Lockstep, and {pin.PATH} does not pin it",
                f"add `{line}` there (docs/how-to/kinds.md says how), or uninstall it",
            )
        elif here not in hashes[name]:
            yield f"{start} is not the wheel that {pin.PATH} pins", _REMEDY
        elif changed := next(differing, None):
            yield f"{changed}: is not the file of {start}", "remove .venv, and run ./lockstep"


def _packages_of_kinds() -> dict[str, metadata.Distribution]:
    """Return the packages that add kinds, sections or verbs, by canonical name."""
    points: Any = metadata.entry_points()  # Its type depends on the version of Python.
    groups = (group for group in points.groups if group.startswith(plugins.PREFIX))
    adding = (point.dist for group in groups for point in points.select(group=group) if point.dist)
    packages = {pin.canonical(package.name): package for package in adding}
    return {name: package for name, package in packages.items() if name != distribution.NAME}


def _recorded(package: metadata.Distribution) -> dict[str, str]:
    """Return the files of RECORD with their hashes.

    ``package.files`` is not asked: since Python 3.12 it leaves out the files that are gone.
    """
    lines = csv.reader((package.read_text("RECORD") or "").splitlines())
    named = ((line[0], line[1].partition("=")) for line in lines if len(line) > 1)
    return {path: value for path, (_, _, value) in named if value}


def _differs(package: metadata.Distribution, path: str, sha256: str) -> bool:
    file = Path(str(package.locate_file(path)))
    return not file.is_file() or _hash(file) != sha256


def _pinned(root: Path, committed: bool) -> str | None:
    """Return the file of the pin at the top of the repository; None if there is none."""
    top = projects.top(root)
    if not committed:
        path = top / pin.PATH
        return path.read_text(encoding="utf-8") if path.is_file() else None
    if commits.resolve(root, "HEAD") is None:
        return None  # The caller refuses what no commit has.
    data = commits.read(top, "HEAD", pin.PATH)
    return None if data is None else data.decode(errors="replace")


def _differing() -> list[str]:
    """Return the files of code below the installed packages that differ from RECORD, or are not in it."""
    recorded = _recorded(metadata.distribution(distribution.NAME))
    wanted = {
        path: sha256 for path, sha256 in recorded.items() if path.partition("/")[0] in _PACKAGES
    }
    home = distribution.home()
    here = {
        path.relative_to(home).as_posix(): path
        for package in _PACKAGES
        for path in (home / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    return sorted(
        name
        for name in wanted.keys() | here.keys()
        if name not in here or _hash(here[name]) != wanted.get(name)
    )


def _hash(path: Path) -> str:
    """Return the SHA-256 of a file as RECORD writes it (PEP 376)."""
    digest = hashlib.sha256(path.read_bytes()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
