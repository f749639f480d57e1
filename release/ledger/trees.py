"""Trees of git: a file or a folder read out of a commit, and a tree with some files changed. Objects only.

New trees are made from the bottom up with ``git mktree``: there is no index, so a run that is killed leaves nothing but
objects that nobody names, which git collects.
"""

from collections.abc import Mapping
from pathlib import Path

from checks.errors import EvidenceRefused, PromotionRefused
from checks.text import redact
from release.adapters.git import Entry, Git


def read(git: Git, commit: str, path: str) -> bytes | None:
    """The bytes of ``path``, from the top; None when there is nothing. Raises EvidenceRefused when it is no file."""
    entry = _find(git, commit, path)
    if entry is None:
        return None
    if not entry.regular:
        raise _irregular(path, commit)
    return git.objects([entry.name])[entry.name]


def files(git: Git, commit: str, folder: str) -> dict[str, bytes]:
    """Every file below ``folder``, by its path from the top. Raises EvidenceRefused when one is none."""
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
    """The regular files below ``folder``, by path from the top: of the past, where nobody can mend what is none.

    Nothing where there is no such folder, or no such commit.
    """
    asked = f"{commit}:{folder}\n".encode(errors="surrogateescape")
    kind, _, name = git.line("cat-file", "--batch-check=%(objecttype) %(objectname)", given=asked).partition(" ")
    if kind != "tree":
        return {}
    listed = git.entries("-r", "--full-tree", name)
    entries = {path: each.name for path, each in listed.items() if each.regular}
    objects = git.objects(list(entries.values()))
    return {f"{folder}/{path}": objects[blob] for path, blob in entries.items()}


def changed(git: Git, tip: str, changes: Mapping[str, bytes | None]) -> str:
    """The tree of ``tip`` with these files written, or taken away where None; paths are from the top.

    Raises PromotionRefused when a path leaves the repository, or goes through a link or a file.
    """
    blobs: dict[tuple[str, ...], str | None] = {}
    for path, data in changes.items():
        parts = tuple(path.split("/"))
        if any(part in ("", ".", "..") or part.lower() == ".git" or "\0" in part for part in parts):
            raise PromotionRefused(f"{redact(path)}: is no path in a repository", "name a file below the root")
        blobs[parts] = None if data is None else git.line("hash-object", "-w", "--stdin", given=data)
    return _tree(git, git.line("rev-parse", f"{tip}^{{tree}}"), blobs, "") or git.line("mktree", given=b"")


def _tree(git: Git, base: str | None, blobs: Mapping[tuple[str, ...], str | None], at: str) -> str | None:
    """A tree like ``base`` with ``blobs`` in it; None when nothing is left."""
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
    """The entry at ``path``; None when there is none. Raises EvidenceRefused when a folder on the way is a link."""
    parts = Path(path).parts
    if not parts or path.startswith("/") or ".." in parts:
        raise EvidenceRefused(f"{redact(path)}: is no path in a repository", "name a file below the root")
    ways = ["/".join(parts[: count + 1]) for count in range(len(parts))]
    # cat-file resolves no links: a link on the way is a blob, and what lies behind it is missing.
    asked = "".join(f"{commit}:{way}\n" for way in ways[:-1]).encode(errors="surrogateescape")
    out = git.ask("cat-file", "--batch-check=%(objecttype)", given=asked).decode() if asked else ""
    for way, kind in zip(ways[:-1], out.splitlines(), strict=True):
        if kind.endswith(" missing"):
            return None
        if kind != "tree":
            raise _irregular(way, commit)
    return git.entries("--full-tree", commit, "--", ways[-1]).get(ways[-1])


def _irregular(path: str, commit: str) -> EvidenceRefused:
    what = f"{redact(path)} at {commit[:12]}: is a link, or otherwise not what belongs there"
    return EvidenceRefused(what, "replace it with what it points at, and commit that")
