"""Git trees: reads files and folders of a commit, and creates a tree with some files changed. Objects only.

New trees are made in an index of their own, which is deleted, so a killed run leaves only unreferenced objects, which
git deletes, and at most a temporary folder.
"""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from checks.process.errors import EvidenceRefused, PromotionRefused
from checks.process.text import redact
from release.adapters.git import Entry, Git

ABSENT = "0" * 40  # Git's name for no object.


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
    entries = git.entries("-r", "--full-tree", commit, "--", f"{folder}/")
    for path, git_entry in entries.items():
        if not git_entry.regular:
            raise _irregular(path, commit)
    return _contents(git, entries)


def regular(git: Git, commit: str, folder: str) -> dict[str, bytes]:
    """The regular files below ``folder``, by path; for past commits, in which nobody can fix anything else.

    Empty if there is no such folder or commit.
    """
    if git.object(f"{commit}:{folder}") is None:
        return {}
    entries = git.entries("-r", "--full-tree", commit, "--", f"{folder}/")
    return _contents(git, {path: entry for path, entry in entries.items() if entry.regular})


def _contents(git: Git, entries: Mapping[str, Entry]) -> dict[str, bytes]:
    objects = git.objects([entry.name for entry in entries.values()])
    return {path: objects[entry.name] for path, entry in entries.items()}


def changed(git: Git, tip: str, changes: Mapping[str, bytes | None]) -> str:
    """The tree of ``tip`` with these files written, or deleted for None.

    Raises PromotionRefused if a path leaves the repository or goes through a link or a file.
    """
    for path in changes:
        parts = path.split("/")
        if any(part in ("", ".", "..") or part.lower() == ".git" or "\0" in part for part in parts):
            raise PromotionRefused(
                f"{redact(path)}: is not a path in a repository", "name a file below the root"
            )
    entries = git.at(tip, {way for path in changes for way in _ways(path)}, "--full-tree")
    lines = list[str]()
    for path, data in changes.items():
        *above, _ = _ways(path)
        if file := next(
            (way for way in above if way in entries and entries[way].kind != "tree"), ""
        ):
            raise PromotionRefused(
                f"{redact(file)}: is not a folder", "put one there, and commit that"
            )
        old = entries.get(path)
        if old and not old.regular:
            raise PromotionRefused(
                f"{redact(path)}: is not a regular file", "put one there, and commit that"
            )
        mode, blob = "0", ABSENT
        if data is not None:
            mode = old.mode if old else "100644"
            blob = git.line("hash-object", "-w", "--stdin", given=data)
        lines.append(f"{mode} {blob}\t{path}\0")
    with TemporaryDirectory() as folder:
        index = {"GIT_INDEX_FILE": f"{folder}/index"}
        git.ask("read-tree", tip, env=index)
        given = "".join(lines).encode(errors="surrogateescape")
        git.ask("update-index", "-z", "--index-info", given=given, env=index)
        return git.line("write-tree", "--missing-ok", env=index)


def _ways(path: str) -> list[str]:
    """Return the folders above a path, the highest first, and the path itself."""
    parts = path.split("/")
    return ["/".join(parts[: count + 1]) for count in range(len(parts))]


def _find(git: Git, commit: str, path: str) -> Entry | None:
    """The entry at ``path``; None if there is none.

    Raises EvidenceRefused if a folder above it is a link, or an object on the way is not in this clone.
    """
    parts = Path(path).parts
    if not parts or path.startswith("/") or ".." in parts:
        raise EvidenceRefused(
            f"{redact(path)}: is not a path in a repository", "name a file below the root"
        )
    ways = _ways("/".join(parts))
    entries = git.at(commit, ways, "--full-tree")
    for way in ways[:-1]:
        if way in entries and entries[way].kind != "tree":
            raise _irregular(way, commit)
    return entries.get(ways[-1])


def _irregular(path: str, commit: str) -> EvidenceRefused:
    return EvidenceRefused(
        f"{redact(path)} at {commit[:12]}: is a link, or otherwise not what belongs there",
        "replace it with what it points at, and commit that",
    )
