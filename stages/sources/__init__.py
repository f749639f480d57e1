"""Fetches a source of params.yaml and verifies its bytes.

``sha256`` pins what was downloaded: for ``pypi://`` the wheel; for ``join://`` the joined file; for ``sql://``,
``delta://`` and ``iceberg://`` the rows, as ``lockstep_lake.canonical`` writes them; for a URL, a path, a file in a
hub's repository or an artifact of a run that file; for a folder (local, a hub's snapshot, a prefix of an object store)
its manifest, as ``checks.storage.digest`` defines it.
Files that a hub's downloader adds (``.cache/huggingface`` and ``.gitattributes``) do not count.

Downloads are stored by digest in ``.lockstep/downloads/<sha256>/``, and hashed again at each use; a changed one is
deleted and downloaded again. Unfinished ones are in ``<sha256>.part/``. Projects below one ``.dvc`` share them, beside
it. Local sources are used where they are; DVC does
not track them, so `lockstep run` checks them first with ``stages.still_pinned``.
"""

import difflib
import fcntl
import hashlib
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from checks.config.params import Source
from checks.process.errors import EvidenceRefused, Refusal, SourceRefused
from checks.storage import digest, layout
from checks.storage.digest import FileDigest
from stages import progress
from stages.sources import parsing, uris
from stages.sources.location import Location

READABLE = "name a readable file, or a folder of plain files with names in UTF-8"


class Verified(NamedTuple):
    """A source whose bytes were hashed, and are the pinned ones once ``bring`` returns it.

    ``path``: the file or folder that was hashed; ``sha256``: 64 hex digits; ``files``: what was hashed, by path below
    ``path``, or the one file by its name; ``name``: its name in the URI; ``inside``: the requested part of the wheel at
    ``path``.
    """

    path: Path
    sha256: str
    files: dict[str, FileDigest]
    name: str = ""
    inside: str | None = None

    @property
    def size(self) -> int:
        """Return the number of bytes that were hashed."""
        return sum(file.size for file in self.files.values())


@contextmanager
def alone(root: Path) -> Iterator[None]:
    """Hold the downloads, and what a stage makes of them, alone; the lock goes with the process, however it ends."""
    store = _store(root)
    store.mkdir(parents=True, exist_ok=True)
    (store / ".gitignore").write_text("*\n")
    with (store / ".lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            tqdm.write("fetch: waiting for another fetch in this repository", file=sys.stderr)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _store(root: Path) -> Path:
    """Return the folder of downloads: that of the project, or of the folder above that has the projects' one cache."""
    folders = (root, *root.absolute().parents)
    return next((home for home in folders if (home / ".dvc").is_dir()), root) / layout.DOWNLOADS


def bring(source: Source, section: str, root: Path) -> Verified:
    """Fetch ``source``, unless it is on this machine, and verify it.

    ``section`` names it in messages: ``base``, ``data`` or a suite's file.

    Raises SourceRefused if the source cannot be read, is not pinned (the message has the digest to pin), or has other
    bytes (a wrong download is deleted); MachineRefused if the machine lacks what the scheme needs. The caller ensures
    that no other run uses the downloads meanwhile.
    """
    location = parsing.parse(source.uri, f"{section}.uri", root)
    if location.local is not None:
        path = place(location.local)
        if not lies_there(path, section):
            raise _absent(path, section)
        measured = measure(path, section)
        hold(source, section, measured.sha256)
    else:
        measured = _kept(source, section, root) or _downloaded(location, source, section, root)
    return measured._replace(name=location.name, inside=location.inside)


def place(local: Path) -> Path:
    """Return the path of a local source, with links resolved."""
    # Unlike Path.resolve, realpath leaves a loop of links to whoever opens it.
    return Path(os.path.realpath(local))


def lies_there(path: Path, section: str) -> bool:
    """Whether there is anything at ``path``; raises SourceRefused if that cannot be determined."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise unreadable(section, error) from error
    return True


def hold(source: Source, section: str, measured: str) -> None:
    """Compare a local source's SHA-256 with its pin; raises SourceRefused, with both, if they differ."""
    if measured != source.sha256:
        raise _refusal(source, section, measured, "nothing of it was used; restore it, or")


def unreadable(section: str, error: OSError) -> SourceRefused:
    """Return the refusal of a local source that may not be read."""
    return SourceRefused(
        f"{layout.PARAMS}: {section}.uri: {error.filename}: {error.strerror or error}", READABLE
    )


def _absent(path: Path, section: str) -> SourceRefused:
    """Return the refusal of a missing path, with a similar name from the last folder that exists."""
    missing = next(part for part in (path, *path.parents) if part.parent.is_dir())
    names: list[str] = []
    with suppress(OSError):
        names = sorted(entry.name for entry in missing.parent.iterdir() if uris.is_safe(entry.name))
    near = difflib.get_close_matches(missing.name, names, n=1)
    return SourceRefused(
        f"{layout.PARAMS}: {section}.uri: {path}: no such file or folder",
        f"did you mean {near[0]}?"
        if near
        else "bring it there, or fix the path; a relative one begins at the repository's root",
    )


def _kept(source: Source, section: str, root: Path) -> Verified | None:
    """Return the stored download with the pinned digest, if its bytes still match."""
    entry = _store(root) / (source.sha256 or "unpinned")
    if not entry.exists():
        return None
    try:
        measured = measure(entry, section)
    except SourceRefused:  # emptied, or with links in it
        measured = Verified(entry, "", {})
    if measured.sha256 == source.sha256:
        return measured
    for name, file in measured.files.items():
        if len(measured.files) == 1 and file.sha256 == f"sha256:{source.sha256}":
            return Verified(entry / name, source.sha256 or "", measured.files)
    shutil.rmtree(entry)
    return None


def _downloaded(location: Location, source: Source, section: str, root: Path) -> Verified:
    store = _store(root)
    work = (
        store
        / f"{source.sha256 or 'unpinned-' + hashlib.sha256(source.uri.encode()).hexdigest()[:32]}.part"
    )
    # Without a pin, parts of an earlier run could be those of a changed source.
    if source.sha256 is None:
        shutil.rmtree(work, ignore_errors=True)
    path, continued = _transferred(location, work, section)
    measured = measure(path, section)
    if source.sha256 not in (None, measured.sha256) and continued:
        # Old bytes and new ones may not belong together, so start once more.
        shutil.rmtree(work)
        path, _ = _transferred(location, work, section)
        measured = measure(path, section)
    if source.sha256 not in (None, measured.sha256):
        shutil.rmtree(work)
        raise _refusal(
            source, section, measured.sha256, "nothing of it was kept; find out what changed, and"
        )
    entry, is_file = store / measured.sha256, path.is_file()
    if not entry.exists():
        folder = path
        if is_file:
            folder = work / "entry"
            folder.mkdir()
            path.rename(folder / path.name)
        folder.rename(entry)
    shutil.rmtree(work)
    if source.sha256 is None:
        raise _refusal(source, section, measured.sha256, "")
    return Verified(entry / path.name if is_file else entry, measured.sha256, measured.files)


def _transferred(location: Location, work: Path, section: str) -> tuple[Path, bool]:
    work.mkdir(parents=True, exist_ok=True)
    try:
        return location.download(work, f"{section}.uri")
    except Refusal:
        if not any(path.is_file() for path in work.rglob("*")):  # nothing to continue
            shutil.rmtree(work)
        raise


def measure(path: Path, section: str) -> Verified:
    """Hash a file or folder as a pin does; raises SourceRefused if it cannot be read."""
    try:
        if path.is_file():
            with progress.of_bytes(f"hash {path.name}", path.stat().st_size) as bar:
                file = digest.of_file(path, bar.update)
            return Verified(path, file.sha256.removeprefix("sha256:"), {path.name: file})
        with progress.of_bytes(f"hash {path.name}") as bar:
            tree = digest.of_tree(path, bar.update)
        files = {
            name: file
            for name, file in tree.files.items()
            if not name.startswith(".cache/huggingface/") and name != ".gitattributes"
        }
        if not files:
            raise EvidenceRefused(f"{path}: holds no file of its own", "")
    except EvidenceRefused as error:
        raise SourceRefused(f"{layout.PARAMS}: {section}.uri: {error.what}", READABLE) from error
    return Verified(path, digest.of_manifest(files).removeprefix("sha256:"), files)


def _refusal(source: Source, section: str, measured: str, advice: str) -> SourceRefused:
    pin, shown = f"{layout.PARAMS}: {section}.sha256", uris.redact(source.uri)
    if source.sha256 is None:
        return SourceRefused(f"{pin}: {shown} is not pinned", f"pin it: sha256: {measured}")
    return SourceRefused(
        f"{pin}: {source.sha256} is pinned, but {shown} is {measured}",
        f"{advice} only if the new bytes are right pin sha256: {measured}",
    )
