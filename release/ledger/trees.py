"""Git trees: reads files and folders of a commit, and creates a tree with some files changed. Objects only.

One process of git reads all that is needed, and one writes all new objects. There is no index, so a killed run leaves
only unreferenced objects, which git deletes.
"""

from collections.abc import Mapping
from pathlib import Path

from checks.errors import EvidenceRefused, PromotionRefused
from checks.text import redact
from release.adapters import git_objects
from release.adapters.git import Git, absent
from release.adapters.git_objects import Entry, Object

_Path = tuple[str, ...]  # the names on the way from the root


def read(git: Git, commit: str, path: str) -> bytes | None:
    """The bytes of ``path``; None if there is nothing. Raises EvidenceRefused if it is not a regular file."""
    entry, found = _find(git, commit, path)
    if entry is None:
        return None
    if not entry.regular:
        raise _irregular(path, commit)
    return found.data if found else git.objects([entry.name])[entry.name]


def files(git: Git, commit: str, folder: str) -> dict[str, bytes]:
    """Every file below ``folder``, by path. Raises EvidenceRefused if something is not a regular file."""
    entry, _ = _find(git, commit, folder)
    if entry is None:
        return {}
    if entry.kind != "tree":
        raise _irregular(folder, commit)
    entries = git.entries("-r", "--full-tree", entry.name)
    for path, each in entries.items():
        if not each.regular:
            raise _irregular(f"{folder}/{path}", commit)
    objects = git.objects([each.name for each in entries.values()])
    return {f"{folder}/{path}": objects[each.name] for path, each in entries.items()}


def regular(git: Git, commit: str, folder: str) -> dict[str, bytes]:
    """The regular files below ``folder``, by path; for past commits, in which nobody can fix anything else.

    Empty if there is no such folder or commit.
    """
    queries = f"{commit}:{folder}\n".encode(errors="surrogateescape")
    kind, _, name = git.line("cat-file", "--batch-check=%(objecttype) %(objectname)", given=queries).partition(" ")
    if kind != "tree":
        return {}
    listed = git.entries("-r", "--full-tree", name)
    entries = {path: each.name for path, each in listed.items() if each.regular}
    objects = git.objects(list(entries.values()))
    return {f"{folder}/{path}": objects[blob] for path, blob in entries.items()}


def changed(git: Git, base: str, changes: Mapping[str, bytes | None]) -> str:
    """The tree ``base`` with these files written, or deleted for None.

    Raises PromotionRefused if a path leaves the repository or goes through a link or a file.
    """
    blobs: dict[_Path, Object | None] = {}
    for path, data in changes.items():
        parts = tuple(path.split("/"))
        if any(part in ("", ".", "..") or part.lower() == ".git" or "\0" in part or "\n" in part for part in parts):
            raise PromotionRefused(f"{redact(path)}: is not a path in a repository", "name a file below the root")
        blobs[parts] = None if data is None else git_objects.made("blob", data)
    folders = list(dict.fromkeys([(), *(parts[:count] for parts in blobs for count in range(len(parts)))]))
    there = git.batch([f"{base}:{'/'.join(folder)}" for folder in folders])
    old = {folder: found.data for folder, found in zip(folders, there, strict=True) if found and found.kind == "tree"}
    if () not in old:
        raise absent(base)
    new = [blob for blob in blobs.values() if blob]
    top = _tree(old, blobs, (), new) or git_objects.tree({})
    git.ask("unpack-objects", "-q", given=git_objects.pack([*new, top]))
    return top.name


def _tree(
    old: Mapping[_Path, bytes], blobs: Mapping[_Path, Object | None], at: _Path, new: list[Object]
) -> Object | None:
    """The tree at ``at`` with ``blobs`` in it, which is added to ``new`` with those below; None if it is empty.

    ``old``: the trees that are there now.
    """
    entries = git_objects.entries(old.get(at, b""))
    for name in dict.fromkeys(parts[len(at)] for parts in blobs):
        way = (*at, name)
        below = {parts: blob for parts, blob in blobs.items() if parts[: len(way)] == way}
        before, path = entries.get(name), "/".join(way)
        if way in below:
            if len(below) > 1 or (before and not before.regular):
                raise PromotionRefused(f"{redact(path)}: is not a regular file", "put one there, and commit that")
            made, mode = below[way], before.mode if before else "100644"
        else:
            if before and before.kind != "tree":
                raise PromotionRefused(f"{redact(path)}: is not a folder", "put one there, and commit that")
            if before and way not in old:
                raise absent(before.name)
            made, mode = _tree(old, below, way, new), "040000"
        if made:
            entries[name] = Entry(mode, made.kind, made.name)
        else:
            entries.pop(name, None)
    if not entries:
        return None
    tree = git_objects.tree(entries)
    new.append(tree)
    return tree


def _find(git: Git, commit: str, path: str) -> tuple[Entry | None, Object | None]:
    """The entry at ``path``, and its object if that is here; None if there is none.

    Raises EvidenceRefused if a folder above it is a link, or if there is no such commit.
    """
    parts = Path(path).parts
    if not parts or path.startswith("/") or ".." in parts:
        raise EvidenceRefused(f"{redact(path)}: is not a path in a repository", "name a file below the root")
    (found,) = git.held(f"{commit}:", ["/".join(parts)])
    if found.above is not None:
        raise _irregular(found.above, commit)
    return found.entry, found.object


def _irregular(path: str, commit: str) -> EvidenceRefused:
    what = f"{redact(path)} at {commit[:12]}: is a link, or otherwise not what belongs there"
    return EvidenceRefused(what, "replace it with what it points at, and commit that")
