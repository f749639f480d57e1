"""The projects of a git repository. Each is a folder with params.yaml and dvc.yaml; the git root may be the only one.

A file below no other project than the git root belongs to all of them: the pin of Lockstep, a policy at the git root,
the workflows, a team's kinds.
"""

from collections.abc import Collection, Iterable
from pathlib import Path

from checks.storage import layout
from release.adapters import commits
from release.adapters.git import Git

_FILES = frozenset({layout.PARAMS.name, layout.PIPELINE.name})


def folders(git: Git, commit: str) -> tuple[Path, ...]:
    """Return the projects of a commit, as folders below the git root. Raises EvidenceRefused if git cannot read it."""
    files_of = dict[Path, set[str]]()
    for path in paths(git, "ls-tree", "-r", "-z", "--full-tree", "--name-only", commit):
        files_of.setdefault(path.parent, set()).add(path.name)
    return tuple(sorted(folder for folder, names in files_of.items() if names >= _FILES))


def has_pipeline(git: Git, commit: str, folder: Path) -> bool:
    """Return whether a folder below the git root has dvc.yaml in a commit."""
    path = (folder / layout.PIPELINE).as_posix()
    return bool(list(paths(git, "ls-tree", "-z", "--full-tree", "--name-only", commit, path)))


def changed(git: Git, base: str, tip: str) -> tuple[Path, ...]:
    """Return the projects of ``tip`` that differ from ``base``: all of them, if a file that they share differs."""
    projects = folders(git, tip)
    differing = _differing(git, base, tip)
    apart = [folder for folder in projects if folder != Path()]
    if any(not any(path.is_relative_to(folder) for folder in apart) for path in differing):
        return projects
    return tuple(
        folder for folder in projects if any(path.is_relative_to(folder) for path in differing)
    )


def is_apart(git: Git, base: str, tip: str, folder: Path, beside: Collection[Path] = ()) -> bool:
    """Return whether all that differs between two commits is of other projects than ``folder``, and not in ``beside``.

    Of those beside a project at the git root, which may read their files, and of that project itself, only environments
    are apart.
    """
    areas = [
        other / layout.ENVIRONMENTS if Path() in (folder, other) else other
        for other in folders(git, tip)
        if other != folder
    ]
    own = layout.ENVIRONMENTS if folder == Path() else folder
    return bool(areas) and all(
        not any(path.is_relative_to(area) for area in (own, *beside))
        and any(path.is_relative_to(area) for area in areas)
        for path in _differing(git, base, tip)
    )


def environments_differ(git: Git, base: str, tip: str) -> bool:
    """Return whether files of an environment, of any project, differ between two commits."""
    folder = f"/{layout.ENVIRONMENTS.as_posix()}/"
    return any(folder in f"/{path.as_posix()}" for path in _differing(git, base, tip))


def recorded_anew(git: Git, before: str, tip: str) -> tuple[Path, ...]:
    """Return the projects of ``tip`` whose dvc.lock or params.yaml differs from that of ``before``."""
    differing = _differing(git, before, tip)
    wanted = (layout.LOCK, layout.PARAMS)
    return tuple(
        folder for folder in folders(git, tip) if any(folder / name in differing for name in wanted)
    )


def _differing(git: Git, base: str, tip: str) -> frozenset[Path]:
    return frozenset(
        paths(git, "diff", "-z", "--name-only", "--no-renames", "--no-relative", base, tip)
    )


def top(root: Path) -> Path:
    """Return the git root of the project ``root``. Raises EvidenceRefused outside of git."""
    return root.joinpath(*[".."] * len(commits.prefix(root).parts))


def homes(root: Path) -> tuple[Path, ...]:
    """Return the folders that may have a policy for the project ``root``: itself, and a git root above it."""
    above = top(root) if commits.has_repository(root) else root
    return (root,) if above == root else (root, above)


def policy_home(root: Path, commit: str, path: Path) -> Path:
    """Return the folder whose file of release/policy counts in ``commit``: the project ``root``, else the git root."""
    is_missing = commits.read_many(root, commit, [path]) == {path: None}
    return homes(root)[-1] if is_missing else root


def paths(git: Git, *arguments: str) -> Iterable[Path]:
    """Return the paths that git lists with ``arguments``, among them ``-z``. Raises EvidenceRefused if it cannot."""
    listed = git.ask(*arguments).decode(errors="surrogateescape")
    return (Path(name) for name in listed.split("\0") if name)
