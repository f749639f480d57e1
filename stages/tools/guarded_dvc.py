"""Runs DVC so that it writes only into the folders that hold data and models.

Run: python -m stages.tools.guarded_dvc pull            (`./lockstep dvc pull` does so)

DVC writes to names that it reads from files which people may change, or which come from the remote: ``outs`` of a
``.dvc`` file, digests in dvc.lock, and paths in the list of a folder (an object whose name ends in ``.dir``). Here each
of them is checked where DVC itself takes it up, so that no command can write around the check:

* a digest must be 32 hexadecimal digits, because DVC makes it a path in its cache, and so no name of an object may have
  a slash;
* a path in a list must stay below its folder and name no file that git or DVC obeys, and the list's bytes must have the
  digest that names it;
* no output is a symbolic link into a cache, whatever ``cache.type`` says, because the stages read none;
* what is written must lie below ``layout.DVC_FOLDERS``, and neither it nor a folder on the way may be a symbolic link.
  A stage of dvc.yaml may write below ``layout.REPORTS`` too, which DVC does where it knows the result of a stage.

``pull``, ``fetch`` and ``checkout`` without a target take the stages of dvc.yaml, and so read no other file of DVC's.
All other arguments are DVC's own. A refusal is DVC's line ``ERROR: …``, and its exit code. The folder of dvc.yaml is
the nearest one with params.yaml from the current folder up to LOCKSTEP_ROOT. Projects of one repository share DVC's
folder at the git root, and its lock: a command waits for that of another project.
"""

import contextlib
import functools
import hashlib
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path, PurePath
from typing import Any

import yaml

from checks.process import distribution
from checks.process.errors import MachineRefused
from checks.storage import digest, layout, plain_yaml

_DIGESTS = ("md5", "md5-dos2unix")  # the names that DVC gives to digests of which it makes paths
_DIGEST = re.compile(r"[0-9a-f]{32}(\.dir)?")
_OBEYED = {".git", "git~1", ".dvc", ".dvcignore"}  # git and DVC do what these say, in any folder
# Holds a copy of the repository for each `dvc exp run --temp`.
_EXPERIMENTS = (".dvc", "tmp", "exps", "standalone")
_FETCHING = ("pull", "fetch", "checkout")
_ALL = ("--all-branches", "-a", "--all-tags", "-T", "--all-commits", "-A")  # these take no target


def main(arguments: Sequence[str]) -> int:
    """Run DVC with ``arguments`` and return its exit code."""
    if arguments[:1] == ["--cd"] and len(arguments) > 1:
        os.chdir(arguments[1])
        arguments = arguments[2:]
    if importlib.util.find_spec("dvc") is None:
        sys.stderr.write(f"ERROR: DVC is not installed; {distribution.install('dvc')}\n")
        return MachineRefused.exit_code
    project = _project(Path.cwd())
    guard(project)
    from dvc.cli import main as dvc

    return int(dvc(["--wait-for-lock", *arguments, *_default_targets(project, arguments)]))


def status(targets: Sequence[str], *, with_deps: bool) -> dict[str, Any] | None:
    """Return what `dvc status --json` prints of ``targets``; None if DVC cannot say it.

    ``with_deps``: also of the stages that they depend on.
    """
    if importlib.util.find_spec("dvc") is None:
        return None
    guard(_project(Path.cwd()))
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo() as repo:
            return dict(repo.status(targets=list(targets), with_deps=with_deps))
    except DvcException:
        return None


def _project(here: Path) -> Path:
    """Return the folder of dvc.yaml."""
    root, here = Path(os.environ.get("LOCKSTEP_ROOT") or here).resolve(), here.resolve()
    if not here.is_relative_to(root):
        return here
    above = (folder for folder in (here, *here.parents) if folder.is_relative_to(root))
    return next((folder for folder in above if (folder / layout.PARAMS).is_file()), root)


def guard(project: Path) -> None:
    """Add the checks to the DVC that this process has imported, or is about to import.

    ``project``: the folder of dvc.yaml; ``layout.DVC_FOLDERS`` are below it.
    """
    import dvc_data.index.checkout as index_checkout
    from dvc.output import Output
    from dvc_data.hashfile.db.local import LocalHashFileDB
    from dvc_data.hashfile.hash_info import HashInfo
    from dvc_data.hashfile.tree import Tree
    from dvc_objects.db import ObjectDB

    HashInfo.__init__ = _guarded(HashInfo.__init__, after=_hold_digest)  # type: ignore[method-assign]
    LocalHashFileDB.__init__ = _guarded(LocalHashFileDB.__init__, after=_without_links)  # type: ignore[method-assign]
    for kind in (ObjectDB, LocalHashFileDB):
        kind.oid_to_path = _guarded(kind.oid_to_path, before=_hold_name)  # type: ignore[method-assign]
    Tree.from_list = classmethod(  # type: ignore[assignment]
        _guarded(Tree.from_list.__func__, before=_hold_paths)  # type: ignore[attr-defined]
    )
    Tree.load = classmethod(  # type: ignore[assignment]
        _guarded(Tree.load.__func__, after=_hold_bytes)  # type: ignore[attr-defined]
    )
    index_checkout.apply = _guarded(
        index_checkout.apply, before=functools.partial(_hold_changes, project)
    )
    Output._checkout = _guarded(Output._checkout, before=functools.partial(_hold_output, project))
    Output.ignore = _guarded(Output.ignore, before=_hold_ignore)


def problem(project: Path, path: str, allowed: Sequence[Path] = layout.DVC_FOLDERS) -> str | None:
    """Say why DVC may not write ``path``; None if it may."""
    inside = PurePath(os.path.relpath(path, project))
    # DVC's folder is that of the project, or lies above it.
    up = inside.parts.count("..")
    below = inside.parts[up:]
    if below[:4] == _EXPERIMENTS and len(below) > 5:
        top = project.parents[up - 1] if up else project
        return problem(top.joinpath(*below[:5]) / project.relative_to(top), path, allowed)
    if not any(folder == inside or folder in inside.parents for folder in allowed):
        folders = ", ".join(f"{folder}/" for folder in allowed)
        return f"'{inside}' is outside the folders that DVC may write ({folders}): remove the file that names it"
    for folder in [*inside.parents][:-1]:
        if (project / folder).is_symlink():
            return (
                f"'{inside}' leads through '{folder}', a symbolic link: remove the link "
                "(to keep outputs on another disk, use `./lockstep dvc cache dir`)"
            )
    return None


def _refuse(what: str) -> None:
    from dvc.exceptions import DvcException

    raise DvcException(f"refused by Lockstep: {what}")


def _no_check(*_args: Any, **_kwargs: Any) -> None:
    """Refuse nothing."""


def _guarded(
    call: Callable[..., Any],
    before: Callable[..., None] = _no_check,
    after: Callable[..., None] = _no_check,
) -> Callable[..., Any]:
    """Return ``call`` with a check of its arguments, or of its result and them."""

    @functools.wraps(call)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        before(*args, **kwargs)
        result = call(*args, **kwargs)
        after(result, *args, **kwargs)
        return result

    return guarded


def _hold_digest(_made: None, info: Any, *_args: Any, **_kwargs: Any) -> None:
    if info.name in _DIGESTS and info.value and not _DIGEST.fullmatch(str(info.value)):
        _refuse(
            f"{str(info.value)!r} is no MD5; restore dvc.lock from git, or remove the file that names it"
        )


def _without_links(_made: None, store: Any, *_args: Any, **_kwargs: Any) -> None:
    if "symlink" in store.cache_types:
        store.cache_types = ["reflink", "hardlink", "copy"]


def _hold_name(_store: Any, name: str) -> None:
    if "/" in name or ".." in name or "\0" in name:
        _refuse(
            f"{name!r} is no name of an object; restore dvc.lock from git, or remove the file that names it"
        )


def _hold_paths(tree: Any, entries: Sequence[dict[str, Any]], *_args: Any, **_kwargs: Any) -> None:
    for entry in entries:
        path = entry.get(tree.PARAM_RELPATH)
        if (
            not isinstance(path, str)
            or not digest.is_name(path)
            or _OBEYED & {*path.casefold().split("/")}
        ):
            _refuse(
                f"the list of a folder names {path!r}, which no folder of data may have; find out who made it"
            )


def _hold_bytes(
    listed: Any, _tree: Any, _store: Any, info: Any, *_args: Any, **_kwargs: Any
) -> None:
    with listed.fs.open(listed.path, "rb") as stream:
        there = hashlib.md5(stream.read(), usedforsecurity=False).hexdigest()
    if info.value != f"{there}.dir":
        _refuse(
            f"{listed.path} has the MD5 {there}: it is not the list {info.value}; remove it, and fetch it again"
        )


def _hold_changes(project: Path, changes: Any, path: str, *_args: Any, **_kwargs: Any) -> None:
    if Path(path).is_absolute() and _holds_work(Path(path), project):
        _check_changes(changes, Path(path), project)


def _hold_output(project: Path, output: Any, path: str, *_args: Any, **_kwargs: Any) -> None:
    is_of_stage = Path(output.stage.path).name == layout.PIPELINE.name
    allowed = (*layout.DVC_FOLDERS, layout.REPORTS) if is_of_stage else layout.DVC_FOLDERS
    if why := problem(project, path, allowed):
        _refuse(why)


def _hold_ignore(output: Any) -> None:
    listing = Path(output.fs_path).parent / ".gitignore"
    if listing.is_symlink():
        _refuse(f"{listing} is a symbolic link: remove it")


def _holds_work(folder: Path, project: Path) -> bool:
    """Whether ``folder`` is a work tree, and no folder of DVC's cache or of a remote."""
    above = (project, *project.parents)
    return folder in above or any(folder.parent == top.joinpath(*_EXPERIMENTS) for top in above)


def _check_changes(changes: Any, folder: Path, project: Path) -> None:
    # What holds for one file of a folder holds for all, so a million files cost one check for each folder.
    problem_in = functools.lru_cache(None)(lambda parent: problem(project, str(parent / "file")))
    kinds = ("files_delete", "dirs_delete", "files_create", "dirs_create", "files_chmod")
    removed = {entry.key for entry in changes.files_delete}
    for kind in kinds:
        for entry in getattr(changes, kind):
            place = folder.joinpath(*(entry.key or ()))
            if problem_in(place.parent) and (why := problem(project, str(place))):
                _refuse(why)
            # DVC removes a file before it makes another in its place, but for one that a .dvcignore hides.
            if kind == "files_create" and entry.key not in removed and place.is_symlink():
                _refuse(f"'{os.path.relpath(place, project)}' is a symbolic link: remove it")


def _default_targets(project: Path, arguments: Sequence[str]) -> list[str]:
    """Return the stages of dvc.yaml if the command fetches and is given no target."""
    if not arguments or arguments[0] not in _FETCHING or any(word in _ALL for word in arguments):
        return []
    from dvc.cli import DvcParserError
    from dvc.cli.parser import get_main_parser

    with (
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        try:
            if get_main_parser().parse_args([*arguments]).targets:
                return []
        except (SystemExit, DvcParserError):  # DVC itself says what is wrong with its arguments
            return []
    try:
        stages = [*plain_yaml.load((project / layout.PIPELINE).read_text())["stages"]]
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError) as error:
        raise SystemExit(
            f"ERROR: refused by Lockstep: {layout.PIPELINE}: its stages cannot be read ({type(error).__name__}); "
            "restore it from git, or name what to fetch"
        ) from None
    place = os.path.relpath(project / layout.PIPELINE)
    return [f"{place}:{name}" for name in stages]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
