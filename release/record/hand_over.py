"""The record of a run on another machine: what a job of a workflow or of a cluster leaves for the next.

A job of a workflow leaves the files in a folder. A cluster leaves two files: manifest.json and record.tar. Either way
only files that dvc.yaml leaves to git are taken. Weights and data are on the DVC remote already, and dvc.lock names
them.
"""

import os
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from checks.formats.refused import Refused
from checks.process.errors import EvidenceRefused
from checks.process.text import redact
from checks.records.record import Digest
from checks.records.rows import Record
from checks.storage import digest, files, layout
from release.adapters import commits
from release.record import committed, folder_lists
from release.record.records import WorkTree

# What the gates read besides the record. Where DVC has no remote, an artifact may have it.
_FOLDERS = (layout.SPLITS, layout.PREDICTIONS, layout.SUITES, layout.JUDGEMENTS)
_FILES = (layout.PROBES, layout.LEARNED_BEFORE)
READ_BY_GATES = (*_FOLDERS, *_FILES)
_MANIFEST, _ARCHIVE = "manifest.json", "record.tar"
_AGAIN = "run it again, with a task that runs `./lockstep run --hand-over` in the synced work tree"


class HandOver(Record):
    """manifest.json: what was run, and how it ended. ``refused``: the refusal of a stage, if one refused."""

    schema_version: Literal[1] = 1
    commit: Annotated[str, Field(pattern=r"^([0-9a-f]{40}|[0-9a-f]{64})$")]
    refused: Refused | None = None
    archive: Digest


def pack(tree: WorkTree, folder: Path, commit: str, refused: Refused | None) -> None:
    """Write the record of ``tree``, as far as the run came, into ``folder``."""
    archive = folder / _ARCHIVE
    with tarfile.open(archive, "w") as tar:
        for path in sorted(committed.record_paths(tree)):
            if (tree.root / path).is_file() and not (tree.root / path).is_symlink():
                tar.add(tree.root / path, path.as_posix())
    manifest = HandOver(commit=commit, refused=refused, archive=digest.of_file(archive).sha256)
    files.write_json(folder / _MANIFEST, manifest)


def unpack(tree: WorkTree, folder: Path, commit: str) -> HandOver | None:
    """Write the record in ``folder`` into ``tree``; None if there is none.

    Raises EvidenceRefused, and writes nothing, if it is of another commit than ``commit``, if the archive is not the
    one that the manifest names, or if it has a file that is not part of a record.
    """
    if not (folder / _MANIFEST).exists():
        return None
    manifest = files.read_json(folder / _MANIFEST, HandOver)
    if manifest.commit != commit:
        raise EvidenceRefused(
            f"the record that was handed over is of commit {manifest.commit[:12]}, and this is {commit[:12]}",
            _AGAIN,
        )
    if digest.of_file(folder / _ARCHIVE).sha256 != manifest.archive:
        raise EvidenceRefused(f"{_ARCHIVE}: is not the archive that its manifest names", _AGAIN)
    for path, data in _members(folder / _ARCHIVE, committed.record_paths(tree)).items():
        with files.replacing(tree.root / path) as stream:
            stream.write(data)
    return manifest


def take(root: Path, artifact: Path) -> None:
    """Copy the record, and why a stage refused, from the folder ``artifact`` into the project ``root``.

    What the gates read is copied, too, if it is there: the verdict holds only if dvc.lock has its digests. Paths in
    ``artifact`` begin at the git root. Its other files are not read: the job that made it may be anybody's. Raises
    EvidenceRefused, and writes nothing, if a file of these is a link or no regular file.
    """
    home = Path(os.path.realpath(artifact)) / commits.prefix(root)
    read = {folder / name for folder in _FOLDERS for name in folder_lists.below(home / folder)}
    paths = sorted(committed.record_paths(WorkTree(root)) | {layout.REFUSAL, *_FILES} | read)
    _copy(root, {path: home / path for path in paths if os.path.lexists(home / path)})


def take_reports(root: Path, artifact: Path, *reports: Path) -> None:
    """Copy ``reports`` into the project ``root`` from the folder ``artifact``, where each has its name alone.

    Its other files are not read. Raises EvidenceRefused, and writes nothing, if one is missing, a link or no regular
    file.
    """
    home = Path(os.path.realpath(artifact))
    _copy(root, {path: home / path.name for path in reports})


def _copy(root: Path, sources: Mapping[Path, Path]) -> None:
    taken = dict[Path, bytes]()
    for path, source in sources.items():
        is_plain = os.path.realpath(source) == str(source) and source.is_file()
        if not is_plain or source.stat().st_size > files.LARGEST:
            raise EvidenceRefused(
                f"{redact(str(source), 200)}: is not a regular file of a record",
                "find out what the job before did, and run it again",
            )
        taken[path] = source.read_bytes()
    for path, data in taken.items():
        with files.replacing(root / path) as stream:
            stream.write(data)


def _members(archive: Path, allowed: set[Path]) -> dict[Path, bytes]:
    members: dict[Path, bytes] = {}
    try:
        with tarfile.open(archive, "r:") as tar:
            for member in tar:
                stream = (
                    tar.extractfile(member)
                    if member.isreg() and Path(member.name) in allowed
                    else None
                )
                if stream is None or member.size > files.LARGEST:
                    raise EvidenceRefused(
                        f"{_ARCHIVE}: {redact(member.name, 100)} is not part of a record", _AGAIN
                    )
                members[Path(member.name)] = stream.read()
    except (
        tarfile.TarError,
        ValueError,
    ) as error:  # ValueError: a sparse file's map that is no map
        raise EvidenceRefused(f"{_ARCHIVE}: {error}", _AGAIN) from error
    return members
