"""Checks that the installed Lockstep is the wheel that a thin repository pins, with the files that it came with.

The pin is a reviewed file of the repository, and its digest is that of all code that judges and signs. pip notes the
digest of a wheel that it installs from a file, as the launcher lets it do, and RECORD has the digest of every file.
"""

import base64
import hashlib
from importlib import metadata
from pathlib import Path

from checks.process import distribution
from checks.process.errors import EvidenceRefused
from release.adapters import commits, pin

_PACKAGES = ("checks", "release", "stages")
_REMEDY = "use the launcher: `./lockstep VERB`"


def check(root: Path, committed: bool) -> bool:
    """Compare what runs here with the pin in the work tree of ``root``, or in HEAD if ``committed``.

    Return whether the repository pins anything; else nothing is compared. Raises EvidenceRefused, and ParamsRefused as
    ``pin.read``.
    """
    text = _pinned(root, committed)
    if text is None or distribution.home() == root.resolve():
        return False
    wanted = pin.read(text)
    here = distribution.origin().get("archive_info", {}).get("hashes", {}).get("sha256")
    if here not in wanted.hashes:
        said = "was not installed by ./lockstep" if here is None else f"is the wheel {here[:12]}"
        raise EvidenceRefused(
            f"this Lockstep {distribution.version()} {said}, and {pin.PATH} pins {wanted.version}, "
            f"{wanted.hashes[0][:12]}",
            _REMEDY,
        )
    if differing := _differing():
        raise EvidenceRefused(
            f"{differing[0]}: is not the file of the wheel that was installed",
            "remove .venv, and run ./lockstep",
            tuple(f"{path}: differs, too" for path in differing[1:]),
        )
    return True


def _pinned(root: Path, committed: bool) -> str | None:
    """Return the file of the pin at the top of the repository; None if there is none."""
    top = root / Path(*[".."] * len(commits.prefix(root).parts))
    if not committed:
        path = top / pin.PATH
        return path.read_text(encoding="utf-8") if path.is_file() else None
    if commits.resolve(root, "HEAD") is None:
        return None  # The caller refuses what no commit has.
    data = commits.read(top, "HEAD", pin.PATH)
    return None if data is None else data.decode(errors="replace")


def _differing() -> list[str]:
    """Return the files of code below the installed packages that differ from RECORD, or are not in it."""
    wanted = {
        file.as_posix(): file.hash.value
        for file in metadata.distribution(distribution.NAME).files or ()
        if file.parts[0] in _PACKAGES and file.hash is not None
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
