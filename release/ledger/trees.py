"""Git trees: reads files and folders of a commit, and creates a tree with some files changed. Objects only.

New trees are built bottom-up with ``git mktree``. There is no index, so a killed run leaves only unreferenced objects,
which git deletes.
"""

from collections.abc import Mapping
from pathlib import Path

from checks.errors import EvidenceRefused, PromotionRefused
from checks.text import redact
from release.adapters.git import Entry, Git


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


def changed(git: Git, tip: str, changes: Mapping[str, bytes | None]) -> str:
    """The tree of ``tip`` with these files written, or deleted for None.

    Raises PromotionRefused if a path leaves the repository or goes through a link or a file.
    """
    blobs: dict[tuple[str, ...], str | None] = {}
    for path, data in changes.items():
        parts = tuple(path.split("/"))
        if any(part in ("", ".", "..") or part.lower() == ".git" or "\0" in part for part in parts):
            raise PromotionRefused(f"{redact(path)}: is not a path in a repository", "name a file below the root")
        blobs[parts] = None if data is None else git.line("hash-object", "-w", "--stdin", given=data)
    return _tree(git, git.line("rev-parse", f"{tip}^{{tree}}"), blobs, "") or git.line("mktree", given=b"")


def _tree(git: Git, base: str | None, blobs: Mapping[tuple[str, ...], str | None], at: str) -> str | None:
    """The tree ``base`` with ``blobs`` in it; None if it is empty."""
    entries = git.entries("--full-tree", base) if base else {}
    for name in dict.fromkeys(parts[0] for parts in blobs):
        below = {parts[1:]: blob for parts, blob in blobs.items() if parts[0] == name}
        old, path = entries.get(name), at + name
        if () in below:
            if len(below) > 1 or (old and not old.regular):
                raise PromotionRefused(f"{redact(path)}: is not a regular file", "put one there, and commit that")
            made, mode, kind = below[()], old.mode if old else "100644", "blob"
        else:
            if old and old.kind != "tree":
                raise PromotionRefused(f"{redact(path)}: is not a folder", "put one there, and commit that")
            made, mode, kind = _tree(git, old.name if old else None, below, f"{path}/"), "040000", "tree"
        if made:
            entries[name] = Entry(mode, kind, made)
        else:
            entries.pop(name, None)
    if not entries:
        return None
    lines = (f"{entry.mode} {entry.kind} {entry.name}\t{name}\0" for name, entry in entries.items())
    return git.line("mktree", "-z", "--missing", given="".join(lines).encode(errors="surrogateescape"))


def _find(git: Git, commit: str, path: str) -> Entry | None:
    """The entry at ``path``; None if there is none.

    Raises EvidenceRefused if a folder above it is a link, or an object on the way is not in this clone.
    """
    parts = Path(path).parts
    if not parts or path.startswith("/") or ".." in parts:
        raise EvidenceRefused(f"{redact(path)}: is not a path in a repository", "name a file below the root")
    ways = ["/".join(parts[: count + 1]) for count in range(len(parts))]
    # cat-file resolves no links: a link on the way is a blob, and what lies behind it is missing.
    queries = "".join(f"{commit}:{way}\n" for way in ways[:-1]).encode(errors="surrogateescape")
    out = git.ask("cat-file", "--batch-check=%(objecttype)", given=queries).decode() if queries else ""
    for way, kind in zip(ways[:-1], out.splitlines(), strict=True):
        if kind.endswith(" missing"):
            break  # ls-tree tells a folder that is not there from one that a damaged clone lacks
        if kind != "tree":
            raise _irregular(way, commit)
    return git.entries("--full-tree", commit, "--", ways[-1]).get(ways[-1])


def _irregular(path: str, commit: str) -> EvidenceRefused:
    what = f"{redact(path)} at {commit[:12]}: is a link, or otherwise not what belongs there"
    return EvidenceRefused(what, "replace it with what it points at, and commit that")
