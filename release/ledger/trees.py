"""Git trees: reads files and folders of a commit, and creates a tree with some files changed. Objects only.

A new tree is made in an index of its own, in a temporary folder. The clone's index stays as it is. A killed run leaves
that folder, and unreferenced objects, which git deletes.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path

from checks.process.errors import EvidenceRefused, PromotionRefused
from checks.process.text import redact
from release.adapters.git import REGULAR, Entry, Git

_NONE = "0" * 40  # The object of a path that is deleted.


def read(git: Git, commit: str, path: str) -> bytes | None:
    """The bytes of ``path``; None if there is nothing. Raises EvidenceRefused if it is not a regular file."""
    entry = _find(git, commit, path)
    if entry is None:
        return None
    if not entry.regular:
        raise _irregular(path, commit)
    return git.objects([entry.name])[entry.name]


def files(git: Git, commit: str, folder: str) -> dict[str, bytes]:
    """Every file below ``folder``, by path. Raises EvidenceRefused if something is not a regular file."""
    entry = _find(git, commit, folder)
    if entry is None:
        return {}
    if entry.kind != "tree":
        raise _irregular(folder, commit)
    entries = git.below(entry.name)
    for path, git_entry in entries.items():
        if not git_entry.regular:
            raise _irregular(f"{folder}/{path}", commit)
    objects = git.objects([entry.name for entry in entries.values()])
    return {f"{folder}/{path}": objects[entry.name] for path, entry in entries.items()}


def regular(git: Git, commit: str, folder: str) -> dict[str, bytes]:
    """The regular files below ``folder``, by path; for past commits, in which nobody can fix anything else.

    Empty if there is no such folder or commit.
    """
    tree = git.object(f"{commit}:{folder}")
    if tree is None or tree.kind != "tree":
        return {}
    entries = {path: entry.name for path, entry in git.below(tree.name).items() if entry.regular}
    objects = git.objects(list(entries.values()))
    return {f"{folder}/{path}": objects[blob] for path, blob in entries.items()}


def changed(git: Git, tip: str, changes: Mapping[str, bytes | None]) -> str:
    """The tree of ``tip`` with these files written, or deleted for None.

    Raises PromotionRefused if a path leaves the repository or goes through a link or a file.
    """
    folders = dict.fromkeys(path for name in changes for path in _above(name))
    entries = git.at(f"{tip}^{{tree}}", [*folders, *changes])
    for path in folders:
        if path in entries and entries[path].kind != "tree":
            raise PromotionRefused(
                f"{redact(path)}: is not a folder", "put one there, and commit that"
            )
    for path in changes:
        if path in folders or (path in entries and not entries[path].regular):
            raise PromotionRefused(
                f"{redact(path)}: is not a regular file", "put one there, and commit that"
            )
    modes = {path: entries[path].mode if path in entries else REGULAR[0] for path in changes}
    with tempfile.TemporaryDirectory(prefix="lockstep-tree-") as name:
        index = Path(name) / "index"
        kept = {path: data for path, data in changes.items() if data is not None}
        blobs = _written(git, Path(name), kept)
        lines = (
            f"{modes[path]} {blobs[path]}\t{path}\0" if path in blobs else f"0 {_NONE}\t{path}\0"
            for path in changes
        )
        _in_index(git, index, "read-tree", f"{tip}^{{tree}}")
        given = "".join(lines).encode(errors="surrogateescape")
        _in_index(git, index, "update-index", "-z", "--index-info", given=given)
        return _in_index(git, index, "write-tree", "--missing-ok")


def _above(path: str) -> list[str]:
    """The folders above a file, the uppermost first. Raises PromotionRefused if the path leaves the repository."""
    parts = path.split("/")
    if any(part in ("", ".", "..") or part.lower() == ".git" or "\0" in part for part in parts):
        raise PromotionRefused(
            f"{redact(path)}: is not a path in a repository", "name a file below the root"
        )
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


def _written(git: Git, folder: Path, contents: Mapping[str, bytes]) -> dict[str, str]:
    """The blob of each content, by one process."""
    files = [folder / str(number) for number in range(len(contents))]
    for file, data in zip(files, contents.values(), strict=True):
        file.write_bytes(data)
    given = "".join(f"{file}\n" for file in files).encode(errors="surrogateescape")
    names = git.line("hash-object", "-w", "--no-filters", "--stdin-paths", given=given).split()
    return dict(zip(contents, names, strict=True))


def _in_index(git: Git, index: Path, *args: str, given: bytes = b"") -> str:
    # A split index would leave a second file in the clone.
    whole = ("-c", "core.splitIndex=false")
    return git.line(*whole, *args, given=given, env={"GIT_INDEX_FILE": str(index)})


def _find(git: Git, commit: str, path: str) -> Entry | None:
    """The entry at ``path``; None if there is none.

    Raises EvidenceRefused if a folder above it is a link, or an object on the way is not in this clone.
    """
    parts = Path(path).parts
    if not parts or path.startswith("/") or ".." in parts:
        raise EvidenceRefused(
            f"{redact(path)}: is not a path in a repository", "name a file below the root"
        )
    ways = ["/".join(parts[: count + 1]) for count in range(len(parts))]
    entries = git.at(f"{commit}^{{tree}}", ways)
    for way in ways[:-1]:
        if way in entries and entries[way].kind != "tree":
            raise _irregular(way, commit)
    return entries.get(ways[-1])


def _irregular(path: str, commit: str) -> EvidenceRefused:
    return EvidenceRefused(
        f"{redact(path)} at {commit[:12]}: is a link, or otherwise not what belongs there",
        "replace it with what it points at, and commit that",
    )
