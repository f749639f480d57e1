"""Extracts a part of a zip archive (a wheel is one), without trusting what the archive says about itself."""

import difflib
import shutil
import stat
import zipfile
import zlib
from pathlib import Path

from checks.process.errors import MachineRefused, SourceRefused
from stages import progress
from stages.sources import uris

_BLOCK = 1 << 20
_LARGEST_RATIO = 100  # Bytes unpacked for one byte of the archive. Text packs about 5 to 1.
_ALWAYS_ALLOWED = 100_000_000  # bytes, whatever the ratio


def extract(archive: Path, inside: str, target: Path) -> Path:
    """Unpack the file or folder ``inside`` into the empty folder ``target``; return the file, or ``target``.

    Files of a folder keep their path below it. Raises SourceRefused if the archive is not a zip, is damaged or
    encrypted, or has no such path, a link, a repeated name, a name outside ``target``, or far more bytes than its size
    explains; MachineRefused if the disk is too small.
    """
    try:
        with zipfile.ZipFile(archive) as source:
            entries = {}
            for entry in source.infolist():
                if entry.is_dir() or not f"{entry.filename}/".startswith(f"{inside}/"):
                    continue
                name = entry.filename[len(inside) + 1 :] or entry.filename.rpartition("/")[2]
                if not uris.is_safe(name) or stat.S_ISLNK(entry.external_attr >> 16):
                    raise _refused(archive, f"{entry.filename!r} is a link, or leaves its folder")
                if name in entries:
                    raise _refused(archive, f"{entry.filename!r} is there twice")
                entries[name] = entry
            if not entries:
                raise _absent(archive, inside, source.namelist())
            _refuse_bomb(archive, entries, target)
            with progress.of_bytes(f"unpack {inside.rpartition('/')[2]}", _size(entries)) as bar:
                for name, entry in entries.items():
                    path = target / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    # zipfile stops at the announced size and checks the CRC.
                    with source.open(entry) as packed, path.open("xb") as unpacked:
                        shutil.copyfileobj(packed, unpacked, _BLOCK)
                    bar.update(entry.file_size)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise _refused(archive, f"cannot be unpacked ({error})") from error
    single = next(iter(entries.values()))
    return target / next(iter(entries)) if single.filename == inside else target


def _size(entries: dict[str, zipfile.ZipInfo]) -> int:
    return sum(entry.file_size for entry in entries.values())


def _refuse_bomb(archive: Path, entries: dict[str, zipfile.ZipInfo], target: Path) -> None:
    size = _size(entries)
    if size > max(_ALWAYS_ALLOWED, _LARGEST_RATIO * archive.stat().st_size):
        raise _refused(
            archive, f"would unpack to {size:,} bytes, over {_LARGEST_RATIO} times its own size"
        )
    free = shutil.disk_usage(target).free
    if size > free:
        raise MachineRefused(
            f"{target}: {size:,} bytes to unpack, {free:,} free", "free disk space"
        )


def _absent(archive: Path, inside: str, names: list[str]) -> SourceRefused:
    folders = {
        "/".join(name.split("/")[:depth])
        for name in names
        for depth in range(1, name.count("/") + 1)
    }
    near = difflib.get_close_matches(inside, sorted(folders | set(names)), n=1)
    near = near or sorted({name.partition("/")[0] for name in names})[:5]
    return SourceRefused(
        f"{archive.name}: holds no {inside!r}",
        f"name a path that it has, such as {', '.join(near)}",
    )


def _refused(archive: Path, what: str) -> SourceRefused:
    return SourceRefused(
        f"{archive.name}: {what}", "use another release of the package, or a source you trust"
    )
