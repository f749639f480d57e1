"""Puts the files of a thin repository, which Lockstep is installed for, into a folder of a team.

No file of the folder is replaced. The files are written below ``.lockstep`` first and then linked to their places, the
launcher last. If this is killed, the next call removes the links and starts again.

Those that Lockstep writes again in an upgrade begin with the digest of their other lines, so that a file that a person
changed is known (``is_edited``).
"""

import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from checks.formats.placeholder_cards import PLACEHOLDERS
from checks.process import distribution
from checks.process.errors import MachineRefused, ParamsRefused
from checks.process.text import redact
from checks.storage import files, layout
from release import thin
from release.adapters import pin
from release.adapters.folder_lock import alone
from release.adapters.git import Git, has_repository

LAUNCHER = "lockstep"
_STAGED, _DONE = Path(".lockstep/init"), Path(".lockstep/init-done")
# These files of the package are not written: constraints.txt is read from the wheel.
_OF_THE_PACKAGE = ("__init__.py", "constraints.txt")
# A folder cannot be used if it has files of these names that Lockstep did not write.
_NEEDED = (LAUNCHER, pin.PATH.as_posix(), layout.PIPELINE.as_posix(), layout.PARAMS.as_posix())
_YAML = (".yaml", ".yml")
MERGED = (".gitignore", ".dvcignore", ".gitattributes")  # lines that are missing are added
_WORKFLOWS = ".github/workflows/"
# The folder of the folders of several models in one repository.
PROJECTS = "projects"
# What the pipeline and people write later, and commit.
_COMMITTED = tuple(
    path.as_posix()
    for path in (layout.PARAMS, layout.LOCK, layout.CODE_LOCK, layout.VERDICT, *PLACEHOLDERS)
)
_CALLED = re.compile(rb"OWNER/lockstep(/\.github/workflows/[\w.-]+)@0{40}")
_MARK = "# Lockstep writes this file anew in an upgrade; sha256 of the lines below: "
_STAMP = re.compile(rf"^{_MARK}([0-9a-f]{{64}})\n".encode(), re.MULTILINE)
_SHOWN = 8


class Plan(NamedTuple):
    """The files to write, below ``top``, the top of the repository of ``folder``. ``contents``: by path.

    ``added``: missing lines, by file. ``kept``: files of the team with the name of one of these.
    """

    top: Path
    folder: Path
    contents: Mapping[str, bytes]
    added: Mapping[str, bytes]
    kept: tuple[str, ...]


def templates() -> dict[str, bytes]:
    """Return every file of a thin repository, by path. YAML names pages of the documentation by their addresses."""
    home = Path(thin.__file__).parent
    paths = sorted(path for path in home.rglob("*") if path.is_file() and path.suffix != ".pyc")
    # The names keep DVC and ``projects`` from taking the package's folder for a pipeline.
    names = {path.relative_to(home).as_posix().replace(".template", ""): path for path in paths}
    return {name: _linked(path) for name, path in names.items() if name not in _OF_THE_PACKAGE}


def _linked(path: Path) -> bytes:
    data = path.read_bytes()
    return distribution.linked(data.decode()).encode() if path.suffix in _YAML else data


def names() -> list[str]:
    """Return the names of the generated files, without their folders."""
    return sorted({Path(name).name for name in generated("OWNER/lockstep@COMMIT")})


def projects(top: Path) -> list[Path]:
    """Return the folders of a repository that have a params.yaml: its top, and those of ``projects``."""
    folders = [top, *sorted((top / PROJECTS).glob("*"))]
    return [folder for folder in folders if (folder / layout.PARAMS).is_file()]


def generated(workflows: str | None) -> dict[str, bytes]:
    """Return the files that an upgrade writes anew, by path.

    ``workflows``: the repository and commit of the called workflows, ``OWNER/NAME@COMMIT``; None: without workflows.
    """
    contents = dict[str, bytes]()
    for name, data in templates().items():
        if name.startswith(_WORKFLOWS) and workflows is not None:
            repository, _, commit = workflows.partition("@")
            called = rf"{repository}\1@{commit}".encode()
            contents[name] = stamped(_CALLED.sub(called, data))
        elif name in (LAUNCHER, layout.PIPELINE.as_posix()):
            contents[name] = stamped(data)
    return contents


def completed(top: Path) -> dict[str, bytes]:
    """Return the files of git and DVC that lack lines of Lockstep, with these lines at their end, by path.

    What is no plain file is left to people.
    """
    contents = dict[str, bytes]()
    wanted = templates()
    for name in MERGED:
        path = top / name
        if not os.path.lexists(path):
            contents[name] = wanted[name]
        elif _is_plain(path) and (lines := _missing_lines(path, wanted[name])):
            contents[name] = _with_lines(path, lines)
    return contents


def stamped(data: bytes) -> bytes:
    """Return a generated file with the digest of its lines, below the shebang if it has one."""
    shebang, _, rest = data.partition(b"\n") if data.startswith(b"#!") else (b"", b"", data)
    stamp = f"{_MARK}{hashlib.sha256(rest).hexdigest()}\n".encode()
    return (shebang + b"\n" if shebang else b"") + stamp + rest


def is_edited(data: bytes) -> bool:
    """Return whether a person changed a generated file, or wrote it."""
    stamp = _STAMP.search(data)
    return stamp is None or hashlib.sha256(data[stamp.end() :]).hexdigest() != stamp[1].decode()


def without_stamp(data: bytes) -> bytes:
    """Return the content of a generated file without the digest in it."""
    return _STAMP.sub(b"", data, count=1)


def exist_in(folder: Path) -> bool:
    """Return whether a folder has the files, and no killed call left them half-way."""
    try:
        pipeline = (folder / layout.PIPELINE).read_bytes()
    except OSError:
        return False
    has_stages = b"-m stages.code" in pipeline
    return has_stages and (folder / layout.PARAMS).is_file() and not (folder / _STAGED).exists()


def plan(folder: Path, data: Path, workflows: str | None) -> Plan:
    """Plan which files to write into ``folder``, which may have the file ``data``. Removes what a killed call left.

    The folder is empty, the top of a repository, or ``projects/NAME`` in one. Raises ParamsRefused for another one and
    for files that are in the way; MachineRefused if another call works there.
    """
    folder = folder.resolve()
    with alone(folder, "lockstep init"):
        _remove_partial(folder)
    top = _top(folder, data)
    templated = {
        name: data for name, data in templates().items() if not name.startswith(_WORKFLOWS)
    }
    contents = _placed(top, folder, templated | generated(workflows))
    lines = {
        name: _missing_lines(top / name, contents[name])
        for name in MERGED
        if name in contents and _is_plain(top / name)
    }
    kept = tuple(
        name
        for name in contents
        if os.path.lexists(top / name)
        and PurePosixPath(name).name not in (*_NEEDED, *MERGED)
        and not _same(top / name, contents[name])
    )
    for name in (*kept, *lines):
        contents.pop(name)
    written_later = _placed(top, folder, dict.fromkeys(_COMMITTED, b""))
    _check_free(top, contents)
    _check_committed(top, [*contents, *written_later])
    added = {name: text for name, text in lines.items() if text}
    return Plan(top, folder, contents, added, kept)


def install(its: Plan, more: Mapping[str, str]) -> tuple[str, ...]:
    """Write the files of the plan, and return their paths below ``its.top``.

    ``more`` replaces or adds some, by path in ``its.folder``.

    Makes a git repository if there is none. Raises ParamsRefused if a file appeared since the plan was made;
    MachineRefused if another call works there, or if the disk has no hard links.
    """
    with alone(its.folder, "lockstep init"):
        staged = its.folder / _STAGED
        placed = _placed(its.top, its.folder, {name: text.encode() for name, text in more.items()})
        contents = {
            **its.contents,
            **{name: data for name, data in placed.items() if name not in its.kept},
        }
        if not has_repository(its.folder):
            Git(its.folder, None).ask("init", "--quiet", "--initial-branch=main")
        for name, lines in its.added.items():
            content = _with_lines(its.top / name, lines)
            with files.replacing(its.top / name) as stream:
                stream.write(content)
        for name, data in contents.items():
            (staged / name).parent.mkdir(parents=True, exist_ok=True)
            (staged / name).write_bytes(data)
            (staged / name).chmod(0o755 if name == LAUNCHER else 0o644)
        for name in sorted(contents, key=lambda name: name == LAUNCHER):
            (its.top / name).parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(staged / name, its.top / name)
            except FileExistsError:
                if not _same(its.top / name, contents[name]):
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
        # The rename comes first: a call that is killed while it removes files has then done its work.
        staged.rename(done)
        shutil.rmtree(done)
        return tuple(sorted(contents))


def _remove_partial(folder: Path) -> None:
    """Remove the links and the copies that a killed call left."""
    staged = folder / _STAGED
    for path in (staged.parent, staged):
        if os.path.lexists(path) and (path.is_symlink() or not path.is_dir()):
            raise _in_the_way([path.relative_to(folder).as_posix()])
    if not staged.is_dir():
        return
    top = top_of(folder) or folder
    for path in (path for path in staged.rglob("*") if path.is_file()):
        placed = top / path.relative_to(staged)
        if os.path.lexists(placed) and not placed.is_symlink() and placed.samefile(path):
            placed.unlink()
    shutil.rmtree(staged)


def top_of(folder: Path) -> Path | None:
    """Return the top of the repository of a folder; None outside git."""
    if not has_repository(folder):
        return None
    return Path(Git(folder, None).line("rev-parse", "--show-toplevel"))


def _top(folder: Path, data: Path) -> Path:
    """Return the top of the repository. Refuses a folder with other files, so that a wrong one is not filled."""
    top = top_of(folder)
    if top == folder or (top is not None and folder.parent == top / PROJECTS):
        return top
    if top is not None:
        raise ParamsRefused(
            f"{folder}: lies inside a git repository",
            f"run this at its top, in a folder {PROJECTS}/NAME there, or in a folder elsewhere",
        )
    data_entry = (
        data.resolve().relative_to(folder).parts[0] if data.resolve().is_relative_to(folder) else ""
    )
    if others := sorted(
        path.name
        for path in folder.iterdir()
        if path.name != data_entry and not path.name.startswith(".")
    ):
        raise ParamsRefused(
            f"{folder}: is neither empty nor a git repository: {_listed(others)}",
            "use an empty folder, or run git init here first if these files belong to the model's repository",
        )
    return folder


def _placed(top: Path, folder: Path, contents: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the contents by path below ``top``. The folder of a project holds what is about its model alone."""
    if folder == top:
        return dict(contents)
    # All models of a repository share these files.
    files = (LAUNCHER, pin.PATH.as_posix(), *MERGED)
    shared = {name for name in contents if name in files or name.startswith((".github/", ".dvc/"))}
    here = {
        f"{folder.relative_to(top).as_posix()}/{name}": contents[name]
        for name in contents
        if name not in shared
    }
    if (top / pin.PATH).is_file():
        return here
    return here | {name: contents[name] for name in shared}


def _check_free(top: Path, contents: Mapping[str, bytes]) -> None:
    """Refuse if a path of ``contents`` is taken by another file or passes through one."""
    taken = {
        name
        for name, data in contents.items()
        if os.path.lexists(top / name) and not _same(top / name, data)
    }
    for parent in sorted(
        {parent for name in contents for parent in PurePosixPath(name).parents} - {PurePosixPath()}
    ):
        path = top / parent
        if os.path.lexists(path) and (path.is_symlink() or not path.is_dir()):
            taken = {name for name in taken if parent not in PurePosixPath(name).parents} | {
                str(parent)
            }
    if taken:
        raise _in_the_way(sorted(taken))


def _check_committed(top: Path, names: Iterable[str]) -> None:
    """Refuse if git ignores one of these files, which are committed."""
    if (top / ".git").exists():
        answer = Git(top, None).run(
            "check-ignore", "--no-index", "-z", "--stdin", given="\0".join(names).encode()
        )
        if ignored := sorted(name for name in os.fsdecode(answer.out).split("\0") if name):
            raise ParamsRefused(
                f"{top}: git ignores files of Lockstep: {_listed(ignored)}",
                "change .gitignore, then run this again",
            )


def _same(path: Path, data: bytes) -> bool:
    return _is_plain(path) and path.stat().st_size == len(data) and path.read_bytes() == data


def _is_plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _with_lines(path: Path, lines: bytes) -> bytes:
    """Return the content of a file with ``lines`` at its end."""
    old = path.read_bytes()
    return old + b"\n" * (bool(old) and not old.endswith(b"\n")) + lines


def _missing_lines(path: Path, wanted: bytes) -> bytes:
    """Return the wanted lines that a file lacks, with its own line ends; nothing if it lacks comments alone.

    git reads the file in any encoding.
    """
    old = path.read_bytes()
    end = b"\r\n" if b"\r\n" in old else b"\n"
    have = set(old.splitlines())
    lines = [line for line in wanted.splitlines() if line not in have]
    return (
        b"".join(line + end for line in lines) if any(line[:1] != b"#" for line in lines) else b""
    )


def _in_the_way(names: list[str]) -> ParamsRefused:
    return ParamsRefused(
        f"Lockstep has files with names of yours: {_listed(names)}",
        "rename yours, or keep the model in a repository of its own",
    )


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return redact(", ".join(names[:_SHOWN]), 500) + more
