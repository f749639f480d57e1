"""Lines of an output of DVC as a record names it: from the work tree if a file there has the digest, else through DVC.

A file with another digest is never used.
"""

import tempfile
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from checks import digest, files
from release.adapters import dvc

M = TypeVar("M", bound=BaseModel)


def lines(root: Path, commit: str | None, path: Path, model: type[M], wanted: str) -> list[M] | str:
    """The lines of the output ``path`` with the digest ``wanted``; a text says why they cannot be had.

    ``commit``: whose record names it, in full; None: the work tree's. An earlier model's answers are kept beside the
    candidate's, so every file of the folder may be it. Raises EvidenceRefused if a file cannot be read.
    """
    for here in sorted((root / path.parent).glob("*.jsonl")):
        if here.is_file() and digest.of_file(here).sha256 == wanted:
            return files.read_jsonl(here, model)
    if commit is None:
        if (root / path).exists():
            return f"{path} is not what the reports are about; `./lockstep run`"
        return f"{path} is not here; `./lockstep dvc pull {path.parent}` fetches it"
    where = f"commit {commit[:12]}"
    with tempfile.TemporaryDirectory(prefix="lockstep-") as folder:
        brought = Path(folder) / path.name
        if why := dvc.get(root, commit, path, brought):
            return (
                f"{path} of {where} is not here, and DVC cannot fetch it ({why}); push it where it was made "
                f"(`./lockstep dvc push`), then `./lockstep dvc get . {dvc.from_top(root, path)} --rev {commit[:12]}`"
            )
        if digest.of_file(brought).sha256 != wanted:
            return f"{path} of {where} is not what its record names: it is not used"
        return files.read_jsonl(brought, model)
