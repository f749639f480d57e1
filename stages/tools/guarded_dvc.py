"""Runs DVC so that it writes only into the folders that hold data and models.

Run: python -m stages.tools.guarded_dvc pull            (`./lockstep dvc pull` does so)

DVC writes to names that it reads from files which people may change, or which come from the remote: ``outs`` of a
``.dvc`` file, digests in dvc.lock, and paths in the list of a folder (an object whose name ends in ``.dir``). Here each
of them is checked where DVC itself takes it up, so that no command can write around the check:

* a digest must be 32 hexadecimal digits, because DVC makes it a path in its cache;
* a path in a list must stay below its folder, and the list's bytes must have the digest that names it;
* what is written must lie below ``layout.DVC_FOLDERS``, and no folder on the way may be a symbolic link. A stage of
  dvc.yaml may write below ``layout.REPORTS`` too, which DVC does where it knows the result of a stage.

``pull``, ``fetch`` and ``checkout`` without a target take the stages of dvc.yaml, and so read no other file of DVC's.
All other arguments are DVC's own. A refusal is DVC's line ``ERROR: …``, and its exit code.
"""

import contextlib
import functools
import hashlib
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePath
from typing import Any

from checks import digest, layout, plain_yaml

_DIGESTS = ("md5", "md5-dos2unix")  # the names that DVC gives to digests of which it makes paths
_DIGEST = re.compile(r"[0-9a-f]{32}(\.dir)?")
_EXPERIMENTS = (".dvc", "tmp", "exps", "standalone")  # has a copy of the repository for each `dvc exp run --temp`
_FETCHING = ("pull", "fetch", "checkout")
_ALL = ("--all-branches", "-a", "--all-tags", "-T", "--all-commits", "-A")  # these take no target


def main(arguments: Sequence[str]) -> int:
    """Run DVC with ``arguments`` and return its exit code."""
    guard(Path.cwd())
    from dvc.cli import main as dvc

    return int(dvc([*arguments, *_default_targets(arguments)]))


def guard(project: Path) -> None:
    """Add the checks to the DVC that this process has imported, or is about to import.

    ``project``: the folder of dvc.yaml; ``layout.DVC_FOLDERS`` are below it.
    """
    import dvc_data.index.checkout as index_checkout
    from dvc.output import Output
    from dvc_data.hashfile.hash_info import HashInfo
    from dvc_data.hashfile.tree import Tree

    HashInfo.__init__ = _checking_digest(HashInfo.__init__)  # type: ignore[method-assign]
    Tree.from_list = classmethod(_checking_paths(Tree.from_list.__func__))  # type: ignore[assignment, attr-defined]
    Tree.load = classmethod(_checking_bytes(Tree.load.__func__))  # type: ignore[assignment, attr-defined]
    index_checkout.apply = _checking_changes(index_checkout.apply, project)
    Output._checkout = _checking_output(Output._checkout, project)


def problem(project: Path, path: str, allowed: Sequence[Path] = layout.DVC_FOLDERS) -> str | None:
    """Say why DVC may not write ``path``; None if it may."""
    inside = PurePath(os.path.relpath(path, project))
    if inside.parts[:4] == _EXPERIMENTS and len(inside.parts) > 5:
        return problem(project.joinpath(*inside.parts[:5]), path, allowed)
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


def _checking_digest(make: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(make)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> None:
        make(self, *args, **kwargs)
        if self.name in _DIGESTS and self.value and not _DIGEST.fullmatch(str(self.value)):
            _refuse(f"{str(self.value)!r} is no MD5; restore dvc.lock from git, or remove the file that names it")

    return wrapped


def _checking_paths(from_list: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(from_list)
    def wrapped(cls: Any, entries: Iterable[dict[str, Any]], *args: Any, **kwargs: Any) -> Any:
        listed = list(entries)
        for entry in listed:
            path = entry.get(cls.PARAM_RELPATH)
            if not isinstance(path, str) or not digest.is_name(path):
                _refuse(f"the list of a folder names {path!r}, which is not in that folder; find out who made it")
        return from_list(cls, listed, *args, **kwargs)

    return wrapped


def _checking_bytes(load: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(load)
    def wrapped(cls: Any, store: Any, info: Any, *args: Any, **kwargs: Any) -> Any:
        listed = load(cls, store, info, *args, **kwargs)
        with listed.fs.open(listed.path, "rb") as stream:
            there = hashlib.md5(stream.read(), usedforsecurity=False).hexdigest()
        if info.value != f"{there}.dir":
            _refuse(
                f"{listed.path} has the MD5 {there}: it is not the list {info.value}; remove it, and fetch it again"
            )
        return listed

    return wrapped


def _checking_changes(apply: Callable[..., None], project: Path) -> Callable[..., None]:
    @functools.wraps(apply)
    def wrapped(changes: Any, path: str, *args: Any, **kwargs: Any) -> None:
        entries = (
            entry
            for kind in ("files_delete", "dirs_delete", "files_create", "dirs_create", "files_chmod")
            for entry in getattr(changes, kind)
        )
        # What holds for one file of a folder holds for all, so a million files cost one check for each folder.
        problem_in = functools.lru_cache(None)(lambda folder: problem(project, str(folder / "file")))
        for entry in entries:
            place = Path(path).joinpath(*(entry.key or ()))
            if problem_in(place.parent) and (why := problem(project, str(place))):
                _refuse(why)
        apply(changes, path, *args, **kwargs)

    return wrapped


def _checking_output(checkout: Callable[..., Any], project: Path) -> Callable[..., Any]:
    @functools.wraps(checkout)
    def wrapped(self: Any, path: str, *args: Any, **kwargs: Any) -> Any:
        is_of_stage = Path(self.stage.path).name == layout.PIPELINE.name
        allowed = (*layout.DVC_FOLDERS, layout.REPORTS) if is_of_stage else layout.DVC_FOLDERS
        if why := problem(project, path, allowed):
            _refuse(why)
        return checkout(self, path, *args, **kwargs)

    return wrapped


def _default_targets(arguments: Sequence[str]) -> list[str]:
    """The stages of dvc.yaml, if the command fetches and is given no target."""
    if not arguments or arguments[0] not in _FETCHING or any(word in _ALL for word in arguments):
        return []
    from dvc.cli.parser import get_main_parser

    # DVC itself says what is wrong with its arguments.
    with contextlib.suppress(SystemExit), Path(os.devnull).open("w") as nowhere, contextlib.redirect_stderr(nowhere):
        if get_main_parser().parse_args([*arguments]).targets:
            return []
    pipeline = plain_yaml.load(layout.PIPELINE.read_text())
    return [f"{layout.PIPELINE}:{name}" for name in pipeline["stages"]]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
