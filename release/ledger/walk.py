"""The commits of the branch with their changes to a few files, in the order in which the branch received them.

One git process for any number of files and commits. ``moves`` and ``held`` use it.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from checks.process.errors import EvidenceRefused
from checks.process.text import redact
from release.adapters.git import Git

ABSENT = "0" * 40
_DATE = re.compile(r"[0-9]{1,18}")
# The characters that are not themselves in a glob.
_SPECIAL = re.compile(r"[*?\[\\]")
_PERSON = re.compile(rb"^author (.*) -?\d+ [+-]\d{4}$", re.MULTILINE)


class Blob(NamedTuple):
    """The object at a path; ``NOTHING`` if there is none."""

    mode: str
    name: str


NOTHING = Blob("000000", ABSENT)


class Commit(NamedTuple):
    """A commit. ``date``: seconds since the epoch, None if it cannot be read.

    Compared with its first parent: ``gave`` are the blobs that it wrote, ``had`` those that were there before, by path.
    """

    parents: tuple[str, ...]
    date: int | None
    gave: Mapping[str, Blob]
    had: Mapping[str, Blob]


class Walk(NamedTuple):
    """The history. ``landings``: each commit of the branch's own history, oldest first, with what it merged.

    The merged commits are in order, parents first.
    """

    commits: Mapping[str, Commit]
    landings: tuple[tuple[str, list[str]], ...]


def walk(git: Git, tip: str, patterns: Iterable[str]) -> Walk:
    """Every commit up to ``tip``, with its changes to files that match one of ``patterns``: git's globs, from its root.

    git compares every entry of a folder with every pattern, so a few patterns are faster than many paths. Raises
    EvidenceRefused for a shallow clone.
    """
    commits = _commits(git, tip, tuple(patterns))
    _refuse_shallow(git, commits)
    return Walk(commits, tuple(_landings(commits, tip)))


def literal(path: str) -> str:
    """Return the pattern that only ``path`` matches."""
    return _SPECIAL.sub(r"\\\g<0>", path)


def author(head: bytes) -> str:
    """The author in a commit object: a name and address, which anyone who may push can write."""
    match = _PERSON.search(head)
    return redact(match[1].decode(errors="replace") if match else "", 200)


def _commits(git: Git, tip: str, patterns: tuple[str, ...]) -> dict[str, Commit]:
    """The commits, children before parents."""
    out = git.ask(
        "log", "-z", "--topo-order", "--full-history", "--sparse", "--diff-merges=first-parent", "--raw", "--no-abbrev",
        "--no-renames", "--no-relative", "--no-show-signature", "--no-color", "--no-notes", "--format=%H,%P,%ct", tip,
        "--", *(f":(top,glob){pattern}" for pattern in patterns),
    )  # fmt: skip
    commits: dict[str, Commit] = {}
    gave: dict[str, Blob] = {}
    had: dict[str, Blob] = {}
    tokens = iter(out.decode(errors="surrogateescape").split("\0"))
    for token in tokens:
        if (entry := token.lstrip("\n")).startswith(":"):
            old_mode, mode, old, name, _ = entry.removeprefix(":").split(" ")
            path = next(tokens)
            gave[path] = NOTHING if name == ABSENT else Blob(mode, name)
            had[path] = NOTHING if old == ABSENT else Blob(old_mode, old)
        elif token:
            name, parents, date = token.strip().split(",")
            gave, had = {}, {}
            commits[name] = Commit(
                tuple(parents.split()), int(date) if _DATE.fullmatch(date) else None, gave, had
            )
    return commits


def _refuse_shallow(git: Git, commits: Mapping[str, Commit]) -> None:
    shallow, _, place = git.line(
        "rev-parse", "--is-shallow-repository", "--git-path", "shallow"
    ).partition("\n")
    if shallow != "true":
        return
    cut = (git.root / place).read_text().split()
    if any(name in commits for name in cut):
        raise EvidenceRefused(
            "the clone is shallow: the history of the environments is cut short",
            "git fetch --unshallow (in GitHub Actions: fetch-depth: 0)",
        )


def _landings(commits: Mapping[str, Commit], tip: str) -> Iterator[tuple[str, list[str]]]:
    order = {name: index for index, name in enumerate(commits)}
    line, name = [], tip
    while name in commits:
        line.append(name)
        name = next(iter(commits[name].parents), "")
    seen: set[str] = set()
    for name in reversed(line):
        brought, pending = list[str](), list(commits[name].parents[1:])
        while pending:
            other = pending.pop()
            if other in commits and other not in seen:
                seen.add(other)
                brought.append(other)
                pending += commits[other].parents
        seen.add(name)
        yield name, sorted(brought, key=order.__getitem__, reverse=True)
