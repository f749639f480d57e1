"""Lines of an output of DVC as a record names it: from the work tree if a file there has the digest, else through DVC.

A file with another digest is never used.
"""

import shutil
import tempfile
import weakref
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from checks.storage import digest, files, layout
from release.adapters import dvc

M = TypeVar("M", bound=BaseModel)
_WHOLE = (layout.PREDICTIONS, layout.SUITES)  # one small file for each model or suite


class Folders:
    """Folders of outputs of one commit, each brought whole by one start of DVC; removed with this object."""

    def __init__(self, root: Path, commit: str) -> None:
        self._root, self._commit = root, commit
        self._brought: dict[Path, Path | None] = {}

    def file(self, path: Path) -> Path | None:
        """The output ``path`` as DVC brought it; None if its folder is not brought whole, or DVC lacks a part of it."""
        folder = path.parent
        if folder not in _WHOLE:
            return None
        if folder not in self._brought:
            home = Path(tempfile.mkdtemp(prefix="lockstep-"))
            weakref.finalize(self, shutil.rmtree, home, ignore_errors=True)
            to = home / folder.name
            self._brought[folder] = (
                to if dvc.get(self._root, self._commit, folder, to) is None else None
            )
        brought = self._brought[folder]
        return brought / path.name if brought and (brought / path.name).is_file() else None


def lines(
    root: Path,
    commit: str | None,
    path: Path,
    model: type[M],
    wanted: str,
    folders: Folders | None = None,
) -> list[M] | str:
    """The lines of the output ``path`` with the digest ``wanted``; a text says why they cannot be had.

    ``commit``: whose record names it, in full; None: the work tree's. An earlier model's answers are kept beside the
    candidate's, so every file of the folder may be it. ``folders``: for a caller that reads several files of a commit.
    Raises EvidenceRefused if a file cannot be read.
    """
    for here in sorted((root / path.parent).glob("*.jsonl")):
        if here.is_file() and digest.of_file(here).sha256 == wanted:
            return files.read_jsonl(here, model)
    if commit is None:
        if (root / path).exists():
            return f"{path} is not what the reports are about; `./lockstep run`"
        return f"{path} is not here; `./lockstep dvc pull {path.parent}` fetches it"
    whole = folders.file(path) if folders else None
    if whole and digest.of_file(whole).sha256 == wanted:
        return files.read_jsonl(whole, model)
    place = f"commit {commit[:12]}"
    with tempfile.TemporaryDirectory(prefix="lockstep-") as folder:
        brought = Path(folder) / path.name
        if why := dvc.get(root, commit, path, brought):
            return (
                f"{path} of {place} is not here, and DVC cannot fetch it ({why}); push it where it was made "
                f"(`./lockstep dvc push`), then `./lockstep dvc get . {dvc.from_top(root, path)} --rev {commit[:12]}`"
            )
        if digest.of_file(brought).sha256 != wanted:
            return f"{path} of {place} is not what its record names: it is not used"
        return files.read_jsonl(brought, model)
