"""Reading git: which commit a name means, what a file was there. Reads objects only, changes nothing.

Names are resolved to full hashes first and every later question is about hashes, so that no branch or file
name is taken for an option, and none moves between two questions.
"""

import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from checks.process.errors import EvidenceRefused
from checks.process.text import redact
from release.adapters.git import REGULAR, Entry, Git
from release.adapters.git import has_repository as has_repository

ORIGIN = "origin"


def _of_remote(name: str) -> tuple[str, ...]:
    return tuple(f"refs/remotes/{name}/{branch}" for branch in ("HEAD", "main", "master"))


_OF_ORIGIN, _LOCAL = _of_remote(ORIGIN), ("refs/heads/main", "refs/heads/master")
_TOGETHER = 64  # contents of a history that are in memory at a time
_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_SHORT = re.compile(r"[0-9a-f]{4,63}")
_STEPS = re.compile(r"(.*?)((?:[~^]\d*)*)", re.DOTALL)  # main~2^


class _Ref(NamedTuple):
    """A ref and the object that it leads to. ``link`` is the ref that it stands for; empty when it stands for none."""

    name: str
    object: str
    kind: str
    link: str


def resolve(root: Path, name: str) -> str | None:
    """The full hash of the commit that ``name`` means; None when there is none, as HEAD before the first commit.

    The first that there is: the commit of this hash; HEAD; the ref of this whole name; a branch of a remote; a branch
    here; the commit whose hash begins so; a tag. git itself would take a tag first, and tags called refs/… as well,
    which are easier to push than branches. Parents may follow, such as ~2. Raises EvidenceRefused for a tag that is
    called like a branch or a hash: it is to be named in full.
    """
    match = _STEPS.fullmatch(name)
    assert match is not None  # all of it may be the name
    commit = _named(root, match[1])
    if not commit or not match[2]:
        return commit
    # A new process: which parents a shallow clone has may have changed since an older one looked.
    return _git(root).found("rev-parse", "--verify", "--quiet", f"{commit}{match[2]}^{{commit}}")


def _named(root: Path, name: str) -> str | None:
    if _HASH.fullmatch(name):
        return _begun(root, name)
    if name == "HEAD":
        branch = _git(root).found("symbolic-ref", "--quiet", name)
        return _named(root, branch) if branch else _peeled(root, name)
    if name.startswith("refs/"):
        return _commit(root, _refs(root, name).get(name))
    tag = f"refs/tags/{name}"
    branches = (f"refs/remotes/{name}", f"refs/heads/{name}", f"refs/{name}")
    refs = _refs(root, *branches, tag, f"refs/remotes/*/{name}")
    for candidate in branches:
        if candidate in refs:
            return _commit(root, refs[candidate])
    if tag not in refs:
        return _begun(root, name) if _SHORT.fullmatch(name) else None
    if _mistakable(root, name, refs):
        raise EvidenceRefused(
            f"tag {redact(name)}: may be taken for a branch or a commit",
            f"name that one as it is called here (origin/…), or the tag in full: {redact(tag)}",
        )
    return _commit(root, refs[tag])


def _mistakable(root: Path, tag: str, others: Iterable[str]) -> bool:
    """Whether who names this tag may mean a branch, which is perhaps not fetched, or a hash that is cut short."""
    return (
        any(usual.endswith(f"/{tag}") for usual in (*_OF_ORIGIN, *_LOCAL))
        or any(
            other.startswith("refs/remotes/") and other.split("/", 3)[3:] == [tag]
            for other in others
        )
        or any(tag.startswith(f"{remote}/") for remote in _remotes(root))
        or (
            _SHORT.fullmatch(tag) is not None
            and bool(_git(root).ask("rev-parse", f"--disambiguate={tag}"))
        )
    )


def _refs(root: Path, *patterns: str) -> dict[str, _Ref]:
    """The refs of these whole names, as git has them: it guesses at none."""
    form = "--format=%(refname) %(objectname) %(objecttype) %(symref)"
    # Split at "\n" alone: a name may hold other characters that end a line.
    lines = _git(root).line("for-each-ref", form, *patterns).split("\n")
    return {ref.name: ref for ref in (_Ref(*line.split(" ")) for line in lines if line)}


def _commit(root: Path, ref: _Ref | None) -> str | None:
    if ref is None or ref.kind == "commit":
        return ref and ref.object
    return _peeled(root, ref.object)


def _begun(root: Path, name: str) -> str | None:
    """The commit whose hash begins with ``name``, or is it: no ref that is called so."""
    commit = _peeled(root, name)
    return commit if commit and commit.startswith(name) else None


def _peeled(root: Path, name: str) -> str | None:
    peeled = _git(root).object(f"{name}^{{commit}}")
    return peeled and peeled.name


def target(root: Path, name: str | None = None) -> tuple[str, str | None]:
    """The target branch's name and commit: ``name``, else the default branch of ``main_remote``, a local main, or HEAD.

    The commit is None before the first one. Raises EvidenceRefused when git knows no ``name``, or a remote and none
    of its usual branches.
    """
    if name is not None:
        if (commit := resolve(root, name)) is None:
            raise EvidenceRefused(
                f"{name}: git knows no such commit here", "fetch the target branch, or name another"
            )
        return name, commit
    refs = _refs(root, *_OF_ORIGIN, *_LOCAL)
    if known := _first(root, refs, _OF_ORIGIN):
        return known
    if remote := main_remote(root):
        theirs = _of_remote(remote)
        if known := _first(root, _refs(root, *theirs), theirs):
            return known
    if known := _first(root, refs, _LOCAL):
        return known
    head = resolve(root, "HEAD")
    if head and (remotes := _remotes(root)):
        # A branch that is compared with itself could choose what it is compared with.
        raise EvidenceRefused(
            f"no branch of {remotes[0]} is known as the one that releases are made on",
            f"git fetch {remotes[0]}, then git remote set-head {remotes[0]} --auto; or name it",
        )
    return "HEAD", head


def _first(
    root: Path, refs: Mapping[str, _Ref], candidates: Sequence[str]
) -> tuple[str, str] | None:
    """Return the name and the commit of the first candidate among ``refs``; None if none is there."""
    for candidate in candidates:
        ref = refs.get(candidate)
        # A remote's HEAD points to its default branch. One that points nowhere is a branch that somebody called HEAD.
        if ref is None or (candidate.endswith("/HEAD") and not ref.link):
            continue
        if commit := _commit(root, ref):
            name = ref.link or candidate
            return name.removeprefix("refs/remotes/").removeprefix("refs/heads/"), commit
    return None


def main_remote(root: Path) -> str | None:
    """Return the name of the remote that a team shares: origin, or the only one. None: there is no such remote."""
    remotes = _remotes(root)
    if ORIGIN in remotes:
        return ORIGIN
    return remotes[0] if len(remotes) == 1 else None


def _remotes(root: Path) -> list[str]:
    return _git(root).line("remote").split()


def prefix(root: Path) -> Path:
    """Where ``root`` lies in its repository: of a past commit, DVC takes paths from there."""
    return Path(_git(root).prefix())


def is_shallow(root: Path) -> bool:
    """Whether the clone lacks history: a merge base may then be another, or none."""
    return _git(root).ask("rev-parse", "--is-shallow-repository") == b"true\n"


def merge_base(root: Path, one: str, two: str) -> str | None:
    """The commit where the histories of two commits part; None when they share none."""
    return _git(root).found("merge-base", one, two)


def is_ancestor(root: Path, old: str, new: str) -> bool:
    """Whether ``old`` is ``new`` or in its history; False when git lacks it."""
    known = resolve(root, old)
    return known is not None and (
        known == new or _git(root).says("merge-base", "--is-ancestor", known, new)
    )


def before(root: Path, commit: str, tip: str) -> str | None:
    """The last commit that the branch at ``tip`` itself had before it had ``commit``; None if there is none."""
    if not is_ancestor(root, commit, tip):
        return None
    git = _git(root)
    later = git.ask("rev-list", "--ancestry-path", f"{commit}..{tip}").decode().split()
    own = git.ask("rev-list", "--first-parent", tip).decode().split()
    had = {commit, *later}
    return next((name for name in own if name not in had), None)


def touching(root: Path, tip: str, path: Path) -> list[str]:
    """The commits up to ``tip``, the latest first, that changed ``path`` on the branch itself."""
    return (
        _git(root)
        .ask("log", "--first-parent", "--format=%H", tip, "--", path.as_posix())
        .decode()
        .split()
    )


def versions(root: Path, path: Path, *revisions: str) -> list[bytes]:
    """Every content that the file ``path`` had in the history of ``revisions``, such as ``--all``, each once."""
    return list(_git(root).objects(sorted(_blobs(_changes(root, [path], revisions)))).values())


def versions_of_each(
    root: Path, paths: Sequence[Path], *revisions: str
) -> dict[Path, Iterator[bytes]]:
    """As ``versions`` for several files, with as many processes of git as for one. No path may end with another.

    Contents are read while they are asked for, a few at a time: those of a long history do not fit into memory.
    """
    lines = _changes(root, paths, revisions)
    # The lines name files from the top of the repository, in quotes if a folder's name has special characters.
    versions = {
        path: _blobs(line for line in lines if line.rstrip('"').endswith(path.as_posix()))
        for path in paths
    }
    return {path: _contents(root, sorted(names)) for path, names in versions.items()}


def _contents(root: Path, blobs: Sequence[str]) -> Iterator[bytes]:
    for start in range(0, len(blobs), _TOGETHER):
        yield from _git(root).objects(blobs[start : start + _TOGETHER]).values()


def _changes(root: Path, paths: Sequence[Path], revisions: Sequence[str]) -> list[str]:
    """Each change of these files in the history of ``revisions``, a line of ``git log --raw``."""
    return _git(root).line(
        "log", "--raw", "--no-abbrev", "--no-renames", "--full-history", "-m", "--format=", *revisions, "--",
        *(path.as_posix() for path in paths),
    ).splitlines()  # fmt: skip


def _blobs(lines: Iterable[str]) -> set[str]:
    return {name for line in lines for mode, name in _sides(line) if mode in REGULAR}


def _sides(line: str) -> list[tuple[str, str]]:
    """Mode and object before and after a change, from a line of ``git log --raw``."""
    modes, _, rest = line.removeprefix(":").partition(" ")
    after, old, new, *_ = rest.split(" ")
    return [(modes, old), (after, new)]


def last_touching(root: Path, tip: str, paths: Sequence[Path]) -> str | None:
    """The commit in the history of ``tip`` that these files are as they are since; None when it has none of them.

    A branch that was merged is followed: the commit is the same one before and after the merge.
    """
    names = [path.as_posix() for path in paths]
    commit = _git(root).ask("rev-list", "--max-count=1", tip, "--", *names)
    return commit.decode().strip() or None


def committed_at(root: Path, commit: str) -> datetime:
    """When a commit was made (not when its change was written), in UTC."""
    git_object = _git(root).object(commit)
    text = (
        git_object.data.partition(b"\n\n")[0] if git_object and git_object.kind == "commit" else b""
    )
    match = re.search(rb"^committer .*> (\d{1,10}) [+-]\d{4}$", text, re.MULTILINE)
    if match is None:
        raise EvidenceRefused(f"commit {commit[:12]}: has no time", "make the commit again")
    return datetime.fromtimestamp(int(match[1]), UTC)


def uncommitted(root: Path, commit: str, paths: Sequence[Path]) -> list[Path]:
    """Which of these files are not in ``commit`` byte for byte as they lie here.

    git's index is not asked: it can be told to overlook a change.
    """
    entries = _entries(root, commit, paths)
    blobs = {name: entry.name for name, entry in entries.items() if entry.regular}
    there = [path for path in paths if (root / path).is_file() and not (root / path).is_symlink()]
    hashed = (
        _git(root)
        .ask("hash-object", "--no-filters", "--", *(path.as_posix() for path in there))
        .decode()
        .split()
    )
    here = dict(zip(there, hashed, strict=True)) if there else {}
    return [path for path in paths if path not in here or blobs.get(path.as_posix()) != here[path]]


def below(root: Path, commit: str, folder: Path) -> list[Path]:
    """The files of ``commit`` below ``folder``, all relative to ``root``."""
    entry = _entries(root, commit, [folder]).get(folder.as_posix())
    return (
        [folder / name for name in _git(root).below(entry.name)]
        if entry and entry.kind == "tree"
        else []
    )


def same(root: Path, commit: str, paths: tuple[str, ...], other: str | None = None) -> bool:
    """Whether the tracked files below ``paths`` are in ``other`` (default: the work tree) as they are in ``commit``."""
    both = [commit] if other is None else [commit, other]
    return _git(root).says("diff", "--quiet", "--no-ext-diff", *both, "--", *paths)


def count(root: Path, base: str, tip: str) -> int:
    """How many commits ``tip`` has that ``base`` lacks."""
    return int(_git(root).line("rev-list", "--count", f"{base}..{tip}") or 0)


def read(root: Path, commit: str, path: Path) -> bytes | None:
    """The bytes of ``path``, relative to ``root``, in ``commit``; None when it holds no such file."""
    blobs = read_many(root, commit, [path])
    if path not in blobs:
        raise EvidenceRefused(
            f"{path} at {commit[:12]}: is not a regular file",
            "replace it with one, and commit that",
        )
    return blobs[path]


def read_many(root: Path, commit: str, paths: Sequence[Path]) -> dict[Path, bytes | None]:
    """As ``read`` for many paths. A path that is no regular file is left out."""
    if not paths:
        return {}
    entries = _entries(root, commit, paths)
    objects = _git(root).objects([entry.name for entry in entries.values() if entry.regular])
    names_there = {path: entries.get(path.as_posix()) for path in paths}
    return {
        path: entry and objects[entry.name]
        for path, entry in names_there.items()
        if entry is None or entry.regular
    }


def _entries(root: Path, commit: str, paths: Iterable[Path]) -> dict[str, Entry]:
    """Return what a commit holds at paths relative to ``root``. Raises EvidenceRefused when it is not here."""
    git, named = _git(root), [path.as_posix() for path in paths]
    here = git.object(f"{commit}:./") if has_repository(root) else None
    if here and here.kind == "tree" and not any(".." in Path(name).parts for name in named):
        return git.at(here.name, named)
    # From the top: this refuses where the clone lacks a folder, and finds nothing where the commit has none.
    top = prefix(root).as_posix()
    paths_there = {name: posixpath.normpath(posixpath.join(top, name)) for name in named}
    for name, there in paths_there.items():
        if there.split("/")[0] == "..":
            raise EvidenceRefused(f"{name}: leads out of the repository", "name a file in it")
    entries = git.at(f"{commit}^{{tree}}", paths_there.values())
    return {name: entries[there] for name, there in paths_there.items() if there in entries}


def _git(root: Path) -> Git:
    return Git(root, None)
