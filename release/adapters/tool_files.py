"""Copies Lockstep's own files, from the current commit of a clone, into a folder that has none of them.

No file of the folder is replaced. The files are written below ``.lockstep`` first and then linked to their places, the
launcher last. If this is killed, the next call removes the links and starts again.
"""

import io
import os
import shutil
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import release
from checks.process.errors import MachineRefused, ParamsRefused
from checks.process.text import redact
from checks.storage import files, layout
from release.adapters.folder_lock import alone
from release.adapters.git import Git, has_repository

# Names the commit of Lockstep that the files came from, for a later update.
ORIGIN = Path(".lockstep-commit")
_LAUNCHER = "lockstep"
_STAGED, _DONE = Path(".lockstep/init"), Path(".lockstep/init-done")
# The record of the clone's own model, which is left out. Only the noise is copied, because the stage gate needs this
# file. It is of another task, so the gates then ask to measure it again.
_RECORD = (layout.LOCK, layout.CODE_LOCK, layout.REPORTS, Path("release/policy"))
# These stay as they are if the folder has them.
_KEPT = ("README.md", "LICENSE", "CHANGELOG.md", ".pre-commit-config.yaml", ".gitattributes")
_MERGED = (".gitignore", ".dvcignore")  # lines that are missing are added
_SHOWN = 8


class Plan(NamedTuple):
    """The files to copy. ``contents``: by path. ``added``: missing lines, by file. ``kept``: files of the folder."""

    clone: Path
    commit: str
    folder: Path
    contents: Mapping[str, bytes]
    executable: frozenset[str]
    added: Mapping[str, bytes]
    kept: tuple[str, ...]


def exist_in(folder: Path) -> bool:
    """Whether ``folder`` has all of Lockstep's code, not just the part that a killed call left."""
    code = ("stages/prepare.py", "checks/config/params.py")
    return all((folder / path).is_file() for path in code) and not (folder / _STAGED).exists()


def plan(folder: Path, data: Path) -> Plan:
    """Plan which files to copy into ``folder``, which may have the file ``data``. Removes what a killed call left.

    Raises ParamsRefused if this command does not run from a clone, if the folder is neither empty nor the top of a
    repository, and for files that are in the way; MachineRefused if another call works there.
    """
    folder = folder.resolve()
    clone = Path(release.__file__).resolve().parent.parent
    if not exist_in(clone) or not (clone / ".git").exists():
        raise ParamsRefused(
            f"{folder}: has no {layout.PIPELINE}, and this lockstep is installed without the files to put there",
            "clone the repository of Lockstep, and run that clone's ./lockstep init in this folder",
        )
    with alone(folder, "lockstep init"):
        _remove_partial(folder)
    _check_folder(folder, data)
    git = Git(clone, None)
    commit = git.line("rev-parse", "HEAD^{commit}")
    contents, executable = _committed(git, commit)
    if released := [name for name in contents if PurePosixPath(name).name == layout.POINTER]:
        raise ParamsRefused(
            f"{clone}: has a release of its own ({released[0]})",
            "use a clone of Lockstep in which nothing was released",
        )
    kept = tuple(name for name in _KEPT if os.path.lexists(folder / name))
    lines = {
        name: _missing_lines(folder / name, contents[name])
        for name in _MERGED
        if _is_plain(folder / name)
    }
    for name in (*kept, *lines):
        contents.pop(name, None)
    _check_free(folder, contents)
    added = {name: text for name, text in lines.items() if text}
    return Plan(clone, commit, folder, contents, executable, added, kept)


def install(its: Plan, more: Mapping[Path, str]) -> None:
    """Write the files of the plan; ``more`` replaces or adds some. Makes a git repository if there is none.

    Raises ParamsRefused if a file appeared since the plan was made; MachineRefused if another call works there, or if
    the disk has no hard links.
    """
    with alone(its.folder, "lockstep init"):
        _install(its, more)


def _install(its: Plan, more: Mapping[Path, str]) -> None:
    staged = its.folder / _STAGED
    contents = {**its.contents, ORIGIN.as_posix(): f"{its.commit}\n".encode()}
    contents |= {path.as_posix(): text.encode() for path, text in more.items()}
    if not has_repository(its.folder):
        Git(its.folder, None).ask("init", "--quiet", "--initial-branch=main")
    for name, lines in its.added.items():
        old = (its.folder / name).read_bytes()
        with files.replacing(its.folder / name) as stream:
            stream.write(old + b"\n" * (bool(old) and not old.endswith(b"\n")) + lines)
    for name, data in contents.items():
        (staged / name).parent.mkdir(parents=True, exist_ok=True)
        (staged / name).write_bytes(data)
        (staged / name).chmod(0o755 if name in its.executable else 0o644)
    for name in sorted(contents, key=lambda name: name == _LAUNCHER):
        (its.folder / name).parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(staged / name, its.folder / name)
        except FileExistsError:
            if not _same(its.folder / name, contents[name]):
                _remove_partial(its.folder)
                raise _in_the_way([name]) from None
        except OSError as error:
            _remove_partial(its.folder)
            raise MachineRefused(
                f"{name}: {error.strerror}",
                "use a disk with a file system that supports hard links",
            ) from error
    done = its.folder / _DONE
    shutil.rmtree(done, ignore_errors=True)
    staged.rename(done)  # at once: a call that is killed among the removals has done its work
    shutil.rmtree(done)


def _remove_partial(folder: Path) -> None:
    """Remove the links and the copies that a killed call left."""
    staged = folder / _STAGED
    for path in (staged.parent, staged):
        if os.path.lexists(path) and (path.is_symlink() or not path.is_dir()):
            raise _in_the_way([path.relative_to(folder).as_posix()])
    if not staged.is_dir():
        return
    for path in (path for path in staged.rglob("*") if path.is_file()):
        placed = folder / path.relative_to(staged)
        if os.path.lexists(placed) and not placed.is_symlink() and placed.samefile(path):
            placed.unlink()
    shutil.rmtree(staged)


def _check_folder(folder: Path, data: Path) -> None:
    """Refuse a folder with other files, so that a wrong folder is not filled with a thousand files."""
    if (folder / ".git").exists():
        return
    if has_repository(folder):
        raise ParamsRefused(
            f"{folder}: lies inside a git repository",
            "run this at its top, or in a folder elsewhere",
        )
    its = (
        data.resolve().relative_to(folder).parts[0] if data.resolve().is_relative_to(folder) else ""
    )
    if others := sorted(
        path.name for path in folder.iterdir() if path.name != its and not path.name.startswith(".")
    ):
        raise ParamsRefused(
            f"{folder}: is neither empty nor a git repository: {_listed(others)}",
            "use an empty folder, or run git init here first if these files belong to the model's repository",
        )


def _committed(git: Git, commit: str) -> tuple[dict[str, bytes], frozenset[str]]:
    """The files of the commit, without its record."""
    contents: dict[str, bytes] = {}
    executable = set()
    with tarfile.open(fileobj=io.BytesIO(git.ask("archive", "--format=tar", commit))) as archive:
        for member in archive:
            path = Path(member.name)
            of_record = path != layout.NOISE and any(
                path == each or each in path.parents for each in _RECORD
            )
            if not member.isfile() or of_record:
                continue
            if (stream := archive.extractfile(member)) is not None:
                contents[member.name] = stream.read()
            if member.mode & 0o100:
                executable.add(member.name)
    return contents, frozenset(executable)


def _check_free(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Refuse if a path of ``contents`` is taken by another file or passes through one, or if git ignores it."""
    taken = {name for name, data in contents.items() if not _free(folder / name, data)}
    for parent in sorted(
        {parent for name in contents for parent in PurePosixPath(name).parents} - {PurePosixPath()}
    ):
        path = folder / parent
        if os.path.lexists(path) and (path.is_symlink() or not path.is_dir()):
            taken = {name for name in taken if parent not in PurePosixPath(name).parents} | {
                str(parent)
            }
    if taken:
        raise _in_the_way(sorted(taken))
    if (folder / ".git").exists():
        said = Git(folder, None).run(
            "check-ignore", "--no-index", "-z", "--stdin", given="\0".join(contents).encode()
        )
        if ignored := sorted(name for name in os.fsdecode(said.out).split("\0") if name):
            raise ParamsRefused(
                f"{folder}: git ignores files of Lockstep: {_listed(ignored)}",
                "change .gitignore, then run this again",
            )


def _free(path: Path, data: bytes) -> bool:
    return not os.path.lexists(path) or _same(path, data)


def _same(path: Path, data: bytes) -> bool:
    return _is_plain(path) and path.stat().st_size == len(data) and path.read_bytes() == data


def _is_plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _missing_lines(path: Path, wanted: bytes) -> bytes:
    """The wanted lines that the file has not, with its own line ends; git reads it in any encoding."""
    old = path.read_bytes()
    end = b"\r\n" if b"\r\n" in old else b"\n"
    have = set(old.splitlines())
    return b"".join(line + end for line in wanted.splitlines() if line not in have)


def _in_the_way(names: list[str]) -> ParamsRefused:
    return ParamsRefused(
        f"Lockstep has files with names of yours: {_listed(names)}",
        "rename yours, or keep the model in a repository of its own",
    )


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return redact(", ".join(names[:_SHOWN]), 500) + more
