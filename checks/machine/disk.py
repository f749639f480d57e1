"""Reports a full disk as such, with the disk and the fix, and not as a fault of the repository or a file."""

import errno
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from checks.process.errors import MachineRefused, Refusal

_CODES = (errno.ENOSPC, errno.EDQUOT)
# What programs print for these codes in the C locale.
_WORDS = tuple(os.strerror(code) for code in _CODES)
_FULL = 1 << 20  # bytes: a disk with fewer is called full


def full(error: OSError, places: Iterable[Path]) -> MachineRefused | None:
    """The refusal for an error that means a full disk; None for any other. ``places`` as for ``refusal``.

    If the error names the file that was written, its disk is the full one. A copy names the source first, and the file
    that was written second.
    """
    if error.errno not in _CODES:
        return None
    for name in (error.filename2, error.filename):
        if isinstance(name, str):
            return of_file(Path(name))
    return refusal("writing a file", places)


def of_file(path: Path) -> MachineRefused:
    """The refusal for a disk that became full while ``path`` was written."""
    return _refusal(f"writing {path}", _existing(path.parent))


def said(text: str) -> bool:
    """Whether a program's message says that a disk is full."""
    return any(word in text for word in _WORDS)


def refusal(doing: str, places: Iterable[Path]) -> MachineRefused:
    """The refusal for a full disk, where the file is unknown: ``places`` and the folder of temporary files are asked.

    It names the fullest one. If none is full any more, it names them all, since it could be each.
    """
    sizes = {
        place: size
        for place in (*places, Path(tempfile.gettempdir()))
        if (size := _free(place)) is not None
    }
    place = min(sizes, key=lambda place: sizes[place], default=None)
    if place is not None and sizes[place] < _FULL:
        return _refusal(doing, place)
    listed = " ".join(dict.fromkeys(str(place.resolve()) for place in sizes))
    return MachineRefused(
        f"a disk is full: {doing}", f"free space there (df -h {listed}), then run it again"
    )


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise OSError about ``path`` if the block fails and the disk of ``path`` is full.

    Libraries such as torch and safetensors raise errors of their own, which often do not say that.
    """
    try:
        yield
    except Refusal:
        raise
    except Exception as error:
        code = error.errno if isinstance(error, OSError) and error.errno in _CODES else errno.ENOSPC
        free = _free(_existing(path))
        if said(str(error)) or (free is not None and free < _FULL):
            raise OSError(code, os.strerror(code), str(path)) from error
        raise


def _refusal(doing: str, place: Path) -> MachineRefused:
    free = "" if (size := _free(place)) is None else f", {size:,} bytes are free"
    return MachineRefused(
        f"the disk of {place.resolve()} is full{free}: {doing}",
        f"free space there (df -h {place.resolve()}), then run it again",
    )


def _existing(place: Path) -> Path:
    """The folder, or the nearest one above it that is still there: a temporary folder is deleted when writing fails."""
    while not place.exists() and place != place.parent:
        place = place.parent
    return place


def _free(place: Path) -> int | None:
    """Bytes that this user can still write; 0 if no more files can be created; None if unknown."""
    try:
        status = os.statvfs(place)
    except OSError:
        return None
    return 0 if status.f_files and not status.f_favail else status.f_bavail * status.f_frsize
