"""Files of the record in a commit: what git has itself, and outputs that DVC has of it, here or on a remote."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from checks.process.errors import EvidenceRefused
from checks.storage import layout
from stages.tools import guarded_dvc

REMEDY = "push the data of that commit to a DVC remote (docs/explanation/references.md)"


@contextmanager
def brought(root: Path, name: str, commit: str, path: Path) -> Iterator[Path]:
    """A temporary copy of an output as it was in ``commit``."""
    home = root / layout.STATE / "references" / name
    shutil.rmtree(home, ignore_errors=True)  # A killed run leaves it.
    home.mkdir(parents=True)
    place = home / path.name
    try:
        get(root, commit, path, place)
        yield place
    finally:
        shutil.rmtree(home, ignore_errors=True)


def get(root: Path, commit: str, path: Path, place: Path) -> None:
    """Copy an output as it was in ``commit`` to ``place``. Raises EvidenceRefused if DVC does not have it."""
    # The command, not the library: it shares this repository's cache and remotes, and takes none of the locks that
    # `dvc repro` holds around this stage. What goes wrong it says on standard error itself.
    wanted, to = (_below_git(root) / path).as_posix(), str(place.resolve())
    command = [sys.executable, "-m", guarded_dvc.__name__, "get", ".", wanted, "--rev", commit]
    done = subprocess.run([*command, "-o", to], cwd=root, stdout=subprocess.DEVNULL, check=False)
    if done.returncode != 0:
        raise EvidenceRefused(f"DVC has no {path} of that commit, here or on a remote", REMEDY)


def committed(root: Path, commit: str, path: Path) -> bytes | None:
    """A file that git itself has, as it was in ``commit``; None where it is not there."""
    # GitPython does not import without git.
    with suppress(ImportError, OSError, ValueError, KeyError, EvidenceRefused):
        import git

        with suppress(git.GitError), git.Repo(root, search_parent_directories=True) as repository:
            blob = repository.commit(commit).tree / (_below_git(root) / path).as_posix()
            data: bytes = blob.data_stream.read()
            return data
    return None


def _below_git(root: Path) -> Path:
    """The folder of ``root`` in its git repository: for a past commit, DVC expects paths from the top."""
    with suppress(ImportError, OSError, ValueError):  # GitPython does not import without git
        import git

        with suppress(git.GitError), git.Repo(root, search_parent_directories=True) as repository:
            return root.resolve().relative_to(Path(repository.working_dir).resolve())
    raise EvidenceRefused("git finds no repository here", "install git, fix the clone")
