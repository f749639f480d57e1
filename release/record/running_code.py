"""Checks that the code of Lockstep that runs here is the code in git, before it judges or signs.

Where the tool is a part of the repository that it releases, a file below its packages is code of the next command. So
each file there must be as git has it, and git must have each file there that Python would import. The interpreter must
take its modules from nowhere else in the work tree. Where the tool lies elsewhere, only the team's own kinds in the
work tree are code; ``installed_code`` compares the tool with the pin of the repository.
"""

import hashlib
import importlib.machinery
import os
import stat
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import release
from checks.process.errors import EvidenceRefused
from checks.storage import layout
from release.adapters import pin, projects
from release.adapters.git import Git, has_repository
from release.record import installed_code

PACKAGES = ("checks", "release", "stages")
_LAUNCHER = "lockstep"
_IMPORTED = tuple(importlib.machinery.all_suffixes())
_CACHE = "__pycache__"
# What lies below `release` and is no code: promotions check it by itself.
_NO_CODE = (layout.ENVIRONMENTS.as_posix() + "/", layout.APPROVALS.parent.as_posix() + "/")
_LINK, _SUBMODULE = "120000", "160000"  # modes of git


def check(root: Path, committed: bool = False) -> None:
    """Check the code in the work tree ``root`` against git's index, or against HEAD if ``committed``.

    Raises EvidenceRefused with every file that differs, or if this interpreter also imports modules from ``root``; and
    as ``installed_code.check``.
    """
    root = root.resolve()
    if not has_repository(root):
        return
    is_thin = installed_code.check(root, committed)
    top = projects.top(root).resolve()
    if top != root and Path(release.__file__).resolve().parent.parent == top:
        check(top, committed)  # The code of a clone, for a project below its git root.
    paths = [layout.KINDS.name]
    if Path(release.__file__).resolve().parent.parent == root:
        _refuse_ways_in(root)
        paths += [*PACKAGES, _LAUNCHER]
    elif is_thin or (root / layout.KINDS).exists():
        _refuse_ways_in(root)
    else:
        return
    known = _in_git(root, paths, "HEAD" if committed else None)
    differences = sorted({*_changed(root, known), *_foreign(root, paths, known)})
    keep = "commit it" if committed else "`git add` it"
    EvidenceRefused.raise_for(
        (f"{path}: is not the code that git has" for path in differences),
        f"{keep}, or restore it: `git status --ignored -- {' '.join(paths)}`",
    )


def check_target(root: Path, branch: str, commit: str, *, earlier: bool = False) -> None:
    """Check that HEAD has the code and the pin of ``commit``, the tip of the target branch ``branch``.

    The code of a pull request does not decide about it. ``earlier``: HEAD may also be where the branch was before,
    because an older record is released by the version that made it. A commit that a merge brought in does not count.
    Raises EvidenceRefused with every file that differs.
    """
    top = projects.top(root).resolve()
    git = Git(top, None)
    head = git.line("rev-parse", "HEAD")
    if earlier and head in git.line("rev-list", "--first-parent", commit).split("\n"):
        return
    kinds = root.resolve().relative_to(top) / layout.KINDS
    paths = [pin.PATH.as_posix(), kinds.as_posix()]
    if Path(release.__file__).resolve().parent.parent == top:
        paths += [*PACKAGES, _LAUNCHER]
    here, there = (_in_git(top, paths, name) for name in (head, commit))
    differences = [path for path in sorted(here | there) if here.get(path) != there.get(path)]
    if differences:
        raise EvidenceRefused(
            f"{differences[0]}: is not as on {branch}, whose code decides",
            f"run it in a checkout of {branch}: `git switch {branch} && git pull`",
            tuple(f"{path}: is not as on {branch}" for path in differences[1:]),
        )


def _refuse_ways_in(root: Path) -> None:
    """Raise EvidenceRefused if this interpreter imports from ``root``, or data may be written through a link."""
    if not sys.flags.safe_path and any(_is_of_people(Path(entry), root) for entry in sys.path):
        raise EvidenceRefused(
            f"this Python imports modules from {root}, where a file may take the place of a library",
            "use the launcher: `./lockstep VERB`",
        )
    if leading := leading_away(root, (*layout.DVC_FOLDERS, layout.REPORTS)):
        raise EvidenceRefused(
            f"{leading[0]}: is a link or another repository in git, below a folder that data is written to",
            f"`git rm --cached {leading[0]}`, remove it, and commit",
            tuple(f"{path}: is one, too" for path in leading[1:]),
        )


def _is_of_people(entry: Path, root: Path) -> bool:
    """Return whether a folder of modules is in the work tree, and neither the environment's nor the launcher's."""
    folder = entry.resolve()
    own = (Path(sys.prefix).resolve(), (root / layout.RUNNING.parent).resolve())
    # pip's hook of a clone is no path.
    return (
        folder.exists()
        and folder.is_relative_to(root)
        and not any(folder.is_relative_to(place) for place in own)
    )


def leading_away(root: Path, folders: Iterable[Path], commit: str | None = None) -> list[str]:
    """Return the links and submodules below ``folders`` that a file of data or of a report could be written through.

    ``commit``: None for git's index.
    """
    listed = _in_git(root, [folder.as_posix() for folder in folders], commit)
    return [path for path, (mode, _) in listed.items() if mode in (_LINK, _SUBMODULE)]


def _changed(root: Path, known: Mapping[str, tuple[str, str]]) -> Iterator[str]:
    """Yield the files of code that git has, and that are missing or have other bytes here."""
    for path, (mode, name) in known.items():
        if _CACHE in path.split("/") or _object_at(root / path, mode, len(name)) != name:
            yield path


def _foreign(root: Path, paths: Sequence[str], known: Collection[str]) -> Iterator[str]:
    """Yield the files that Python would import from the packages, and links there, that git does not have."""
    for top in paths:
        for folder, below, files in os.walk(root / top):
            here = Path(folder).relative_to(root)
            links = [name for name in below if (root / here / name).is_symlink()]
            below[:] = [name for name in below if name != _CACHE]
            for name in [*links, *files]:
                path = (here / name).as_posix()
                is_code = name in links or name.endswith(_IMPORTED) or (root / path).is_symlink()
                if is_code and path not in known and not path.startswith(_NO_CODE):
                    yield path


def _in_git(root: Path, paths: Sequence[str], commit: str | None) -> dict[str, tuple[str, str]]:
    """Return mode and object name of each file, by path below ``root``. ``commit``: None for git's index."""
    which = ["ls-tree", "-r", "-z", commit] if commit else ["ls-files", "--stage", "-z"]
    listed = os.fsdecode(Git(root, None).ask(*which, "--", *paths))
    blobs = {}
    for line in filter(None, listed.split("\0")):
        words, _, path = line.partition("\t")
        mode, *rest = words.split()
        if not path.startswith(_NO_CODE):
            blobs[path] = (mode, rest[1] if commit else rest[0])
    return blobs


def _object_at(path: Path, mode: str, length: int) -> str | None:
    """Return the name of git's object with the content of ``path``; None if it is missing, or not of this ``mode``."""
    try:
        is_link = stat.S_ISLNK(path.lstat().st_mode)
        data = os.fsencode(path.readlink()) if is_link else path.read_bytes()
    except OSError:
        return None
    if is_link != (mode == _LINK):
        return None
    algorithm = (
        "sha1" if length == hashlib.sha1(usedforsecurity=False).digest_size * 2 else "sha256"
    )
    return hashlib.new(
        algorithm, b"blob %d\0" % len(data) + data, usedforsecurity=False
    ).hexdigest()
