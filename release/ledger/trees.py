"""Git trees: reads files and folders of a commit, and creates a tree with some files changed. Objects only.

New trees are built bottom-up with ``git mktree``, one process for all folders of one depth. There is no index, so a
killed run leaves only unreferenced objects, which git deletes.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from checks.process.errors import EvidenceRefused, PromotionRefused
from checks.process.text import redact
from release.adapters.git import Entry, Git

_Parts = tuple[str, ...]  # The parts of a path.
_Entries = dict[str, Entry]  # The entries of one folder by name.


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
    blobs: dict[_Parts, str | None] = {}
    for path, data in changes.items():
        parts = tuple(path.split("/"))
        if any(part in ("", ".", "..") or part.lower() == ".git" or "\0" in part for part in parts):
            raise PromotionRefused(
                f"{redact(path)}: is not a path in a repository", "name a file below the root"
            )
        blobs[parts] = (
            None if data is None else git.line("hash-object", "-w", "--stdin", given=data)
        )
    folders = _folders(git, tip, blobs)
    for parts, blob in blobs.items():
        _write(folders, parts, blob)
    for depth in sorted({len(parts) for parts in folders} - {0}, reverse=True):
        level = [parts for parts in folders if len(parts) == depth]
        for parts, made in zip(level, _made(git, [folders[parts] for parts in level]), strict=True):
            _set(folders[parts[:-1]], parts[-1], "040000", "tree", made)
    return _made(git, [folders[()]])[0] or git.line("mktree", given=b"")


def _folders(git: Git, tip: str, blobs: Iterable[_Parts]) -> dict[_Parts, _Entries]:
    """Return what ``tip`` has in each folder above ``blobs``, the root first."""
    folders: dict[_Parts, _Entries] = {(): git.tree(f"{tip}^{{tree}}")}
    for parts in blobs:
        for count in range(1, len(parts)):
            if parts[:count] not in folders:
                entry = folders[parts[: count - 1]].get(parts[count - 1])
                folders[parts[:count]] = (
                    git.tree(entry.name) if entry and entry.kind == "tree" else {}
                )
    return folders


def _write(folders: Mapping[_Parts, _Entries], parts: _Parts, blob: str | None) -> None:
    """Put a file into its folder, or delete it for None."""
    for count, name in enumerate(parts[:-1]):
        above = folders[parts[:count]].get(name)
        if above and above.kind != "tree":
            path = redact("/".join(parts[: count + 1]))
            raise PromotionRefused(f"{path}: is not a folder", "put one there, and commit that")
    old = folders[parts[:-1]].get(parts[-1])
    if parts in folders or (old and not old.regular):
        raise PromotionRefused(
            f"{redact('/'.join(parts))}: is not a regular file", "put one there, and commit that"
        )
    _set(folders[parts[:-1]], parts[-1], old.mode if old else "100644", "blob", blob)


def _set(folder: _Entries, name: str, mode: str, kind: str, made: str | None) -> None:
    if made:
        folder[name] = Entry(mode, kind, made)
    else:
        folder.pop(name, None)


def _made(git: Git, folders: Sequence[_Entries]) -> list[str | None]:
    """The tree of each folder, by one process; None for one that is empty, which git does not keep."""
    texts = [
        "".join(
            f"{entry.mode} {entry.kind} {entry.name}\t{name}\0" for name, entry in folder.items()
        )
        for folder in folders
        if folder
    ]
    given = "\0".join(texts).encode(errors="surrogateescape")
    names = iter(
        git.line("mktree", "-z", "--missing", "--batch", given=given).split() if texts else []
    )
    return [next(names) if folder else None for folder in folders]


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
