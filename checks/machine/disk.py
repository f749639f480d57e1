"""Reports a full disk as such, with the disk and the fix, and not as a fault of the repository or a file."""

import errno
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from checks.errors import MachineRefused

_CODES = (errno.ENOSPC, errno.EDQUOT)
# What programs print for these codes in the C locale.
_WORDS = tuple(os.strerror(code) for code in _CODES)


def full(error: OSError, places: Iterable[Path]) -> MachineRefused | None:
    """The refusal for an error that means a full disk; None for any other. ``places`` as for ``refusal``."""
    if error.errno not in _CODES:
        return None
    named = error.filename if isinstance(error.filename, str) else None
    doing = f"writing {named}" if named else "writing a file"
    return refusal(doing, [Path(named).parent] if named else places)


def said(text: str) -> bool:
    """Whether a program's message says that a disk is full."""
    return any(word in text for word in _WORDS)


def refusal(doing: str, places: Iterable[Path]) -> MachineRefused:
    """The refusal for a full disk. It names the fullest of ``places`` and the folder of temporary files."""
    sizes = {place: size for place in (*places, Path(tempfile.gettempdir())) if (size := _free(place)) is not None}
    if not sizes:
        return MachineRefused(f"the disk is full: {doing}", "free space there, then run it again")
    place = min(sizes, key=lambda each: sizes[each])
    return MachineRefused(
        f"the disk of {place.resolve()} is full, {sizes[place]:,} bytes are free: {doing}",
        f"free space there (df -h {place.resolve()}), then run it again",
    )


def _free(place: Path) -> int | None:
    """Bytes that this user can still write; 0 if no more files can be created; None if unknown."""
    try:
        found = os.statvfs(place)
    except OSError:
        return None
    return 0 if found.f_files and not found.f_favail else found.f_bavail * found.f_frsize
