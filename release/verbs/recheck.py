"""recheck: says whether fetching the data of a release could have written files beside data and models.

Before stages.tools.guarded_dvc, a job that fetched the data of a commit wrote every file that the commit's files of DVC
and their lists name. So for each commit these names are looked at again, without writing any of them.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from checks.process.errors import EvidenceRefused, Refusal
from checks.process.text import escape
from checks.records.rows import Record
from checks.storage import layout, plain_yaml
from release.adapters import commits, dvc
from release.adapters.git import Git
from release.record import running_code
from release.verbs import history

_PIPELINE = layout.PIPELINE.name
_REFUSED = "refused by Lockstep"  # stages.tools.guarded_dvc refuses a list with these words.
_OUTPUTS = ("outs", "metrics", "plots")


class Rechecked(Record):
    """One commit. ``releases``: what ran of it, as ENVIRONMENT VERSION.

    ``unsafe``: a line for each name outside the folders of data and models. ``unknown``: why something could not be
    read; empty if everything was.
    """

    commit: str
    releases: tuple[str, ...]
    unsafe: tuple[str, ...]
    unknown: tuple[str, ...]


def recheck(root: Path, names: Sequence[str] = ()) -> tuple[Rechecked, ...]:
    """Check the commits ``names``, or those of all releases that ever ran in an environment, newest first.

    Raises EvidenceRefused for a name of no commit, and as ``history.history``.
    """
    ran = _ran(root) if not names else {_resolved(root, name): () for name in names}
    return tuple(_checked(root, commit, releases) for commit, releases in ran.items())


def refusal(checked: Sequence[Rechecked]) -> Refusal | None:
    """Return the refusal if a commit has unsafe names, or could not be read whole; None otherwise."""
    unsafe = [f"{result.commit[:12]}: {line}" for result in checked for line in result.unsafe]
    if unsafe:
        return EvidenceRefused(
            unsafe[0],
            "fetching it may have written code: docs/explanation/advisory-2026-11.md says what to do",
        )
    unknown = [f"{result.commit[:12]}: {line}" for result in checked for line in result.unknown]
    if unknown:
        return EvidenceRefused(
            unknown[0], "run it where the DVC remote can be reached, with the whole history"
        )
    return None


def _ran(root: Path) -> dict[str, tuple[str, ...]]:
    """Return the commits of all releases, each with the environments that ran it."""
    ran: dict[str, tuple[str, ...]] = {}
    for environment, moves in history.history(root).environments.items():
        for move in moves:
            if move.after:
                name = f"{environment} {move.after.version}"
                ran[move.after.commit] = tuple(
                    dict.fromkeys((*ran.get(move.after.commit, ()), name))
                )
    return ran


def _resolved(root: Path, name: str) -> str:
    commit = commits.resolve(root, name)
    if commit is None:
        raise EvidenceRefused(
            f"{escape(name[:80])}: is no commit of this clone", "git fetch, or name another"
        )
    return commit


def _checked(root: Path, commit: str, releases: tuple[str, ...]) -> Rechecked:
    unsafe, unknown = list[str](), list[str]()
    try:
        unsafe += (
            f"{escape(path)} is a link or another repository: fetching may write through it"
            for path in running_code.leading_away(root, layout.DVC_FOLDERS, commit)
        )
        for path, data in _files_of_dvc(root, commit):
            try:
                unsafe += _outside(path, plain_yaml.load(data.decode()))
            except (ValueError, TypeError, AttributeError, yaml.YAMLError):
                unknown.append(f"{escape(path)}: cannot be read")
            if b"${" in data:
                unknown.append(f"{escape(path)}: has names that only DVC can resolve")
    except EvidenceRefused as refused:
        return Rechecked(commit=commit, releases=releases, unsafe=(), unknown=(refused.what,))
    if why := dvc.read_lists(root, commit):
        (unsafe if _REFUSED in why else unknown).append(why)
    return Rechecked(commit=commit, releases=releases, unsafe=tuple(unsafe), unknown=tuple(unknown))


def _files_of_dvc(root: Path, commit: str) -> Iterator[tuple[str, bytes]]:
    """Yield path and content of each ``.dvc`` file and each dvc.yaml of the commit, below ``root``."""
    git = Git(root, None)
    listed = os.fsdecode(git.ask("ls-tree", "-r", "-z", "--name-only", commit)).split("\0")
    paths = [
        path for path in listed if path.endswith(".dvc") or PurePosixPath(path).name == _PIPELINE
    ]
    for path, data in zip(paths, git.named([f"{commit}:./{path}" for path in paths]), strict=True):
        yield path, data or b""


def _outside(path: str, document: Any) -> Iterator[str]:
    """Yield a line for each output that the file ``path`` names outside the folders of data and models."""
    stages = (
        document.get("stages", {}).values() if PurePosixPath(path).name == _PIPELINE else [document]
    )
    for stage in (stage.get("do", stage) for stage in stages):  # `foreach` has the stage below `do`
        folder = PurePosixPath(path).parent / str(stage.get("wdir", "."))
        for output in (output for kind in _OUTPUTS for output in stage.get(kind) or ()):
            if (name := _cached(output)) is None:
                continue
            place = Path(os.path.normpath(folder / name))
            if not any(
                allowed == place or allowed in place.parents for allowed in layout.DVC_FOLDERS
            ):
                yield f"{escape(path)} names {escape(str(place))}, outside the folders of data and models"


def _cached(output: Any) -> str | None:
    """Return the path of an output that DVC caches; None if git keeps it. A ``.dvc`` file and a dvc.yaml differ."""
    if isinstance(output, str):
        return output
    if "path" in output:
        return str(output["path"]) if output.get("cache", True) else None
    ((name, options),) = output.items()
    return name if (options or {}).get("cache", True) else None
