"""Versions and assignments as annotated tags in GTO's grammar, which `gto show` and `gto history` read.

``router@v1.4.0`` registers a version. It is on a commit that moved an environment to it, the first unless someone chose
another. ``router#production#7`` is on the same commit: the seventh move of production went to that version. (It is not
on the commit that the pointer names: two images of one model would share that commit, and GTO then reads nothing.)
``router#production!#8``: the eighth move emptied production.

A project below the git root has its folder before the name, as GTO writes it: ``projects/router=router@v1.4.0``.

Tags mirror the pointers' history. A tag that disagrees is reported and ignored, because anyone who may push can create
one. A move never waits for a tag: if its name is taken, the move is made without it.
"""

import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from checks.formats.pointer import Pointer
from release.ledger.types import Move, Tag, TagNames, TagRef, Tags

FIRST = "v0.1.0"
_ABSURD = 10**8
_FOREIGN = "is foreign, no move made it"
# GTO's grammar, as far as Lockstep writes it: no prereleases.
_NAME = r"[a-zA-Z0-9](?:[a-zA-Z0-9/_-]*[a-zA-Z0-9])?"
_MODEL = rf"(?:[a-zA-Z0-9_./-]+=)?{_NAME}"
_VERSION = re.compile(
    rf"^({_MODEL})@(v(?:0|[1-9]\d{{0,8}})(?:\.(?:0|[1-9]\d{{0,8}})){{2}})$", re.ASCII
)
_MOVE = re.compile(rf"^({_MODEL})#({_NAME})(!?)#([1-9]\d{{0,8}})$", re.ASCII)


class TagName(NamedTuple):
    """NAME@VERSION; or NAME#ENVIRONMENT#NUMBER, without ``version``; ``emptied``: NAME#ENVIRONMENT!#NUMBER."""

    name: str
    version: str = ""
    environment: str = ""
    number: int = 0
    emptied: bool = False


class _Past:
    """The tags and the moves, sorted once.

    ``made``: the commits that moved an environment to each version, oldest first.
    """

    def __init__(self, tags: Tags, moves: Iterable[Move]) -> None:
        self.tags, self.names = tags, TagNames(tags)
        self.moves = sorted(moves, key=lambda move: move.at)
        self.made: defaultdict[str, list[str]] = defaultdict(list)
        self._ran: defaultdict[str, list[Move]] = defaultdict(list)
        for move in self.moves:
            if move.deployed:
                self.made[move.deployed.version].append(move.commit)
        for move in sorted(self.moves, key=_number):
            if move.ran:
                self._ran[move.environment].append(move)

    def last(self, environment: str, number: int) -> Pointer | None:
        """Return what the environment ran before its move ``number``."""
        ran = self._ran[environment]
        before = bisect_left(ran, number, key=_number)
        return ran[before - 1].after if before else None


def _number(move: Move) -> int:
    return move.number


def parse(tag: str) -> TagName | None:
    """Return what a tag's name says; None if it has none of these forms."""
    if match := _VERSION.match(tag):
        return TagName(match[1], match[2])
    if match := _MOVE.match(tag):
        return TagName(match[1], "", match[2], int(match[4]), bool(match[3]))
    return None


def next_version(
    name: str,
    tags: Tags,
    moves: Iterable[Move],
    model: str,
    image: str,
    part: Literal["major", "minor"] = "minor",
) -> str:
    """The version for this image (a digest) of this model.

    If a move deployed the image before, its version. Otherwise above every version in moves and tags: the next patch
    for another image of a known model, the next ``part`` for a new model.
    """
    known = [move.deployed for move in moves if move.deployed]
    for pointer in known:
        if pointer.digest == image:
            return pointer.version
    taken = [pointer.version for pointer in known]
    taken += [
        registered.version
        for tag in tags
        if (registered := parse(tag)) and registered.version and registered.name == name
    ]
    numbers = [tuple(map(int, version[1:].split("."))) for version in taken]
    # Anyone who may push can create a tag, so a version with no larger number after it is ignored.
    numbers = [parts for parts in numbers if max(parts) < _ABSURD]
    if not numbers:
        return FIRST
    major, minor, patch = max(numbers)
    if any(pointer.model == model for pointer in known):
        return f"v{major}.{minor}.{patch + 1}"
    return f"v{major + 1}.0.0" if part == "major" else f"v{major}.{minor + 1}.0"


def tags_for(
    name: str, tags: Tags, moves: Sequence[Move], environment: str, pointer: Pointer | None
) -> tuple[Tag, ...]:
    """The tags of the next move of an environment to ``pointer`` (None: to nothing), except names that are taken.

    ``moves`` are those of all environments. ``untagged`` lists the names that are taken.
    """
    return tuple(tag for tag, why in _next(name, tags, moves, environment, pointer) if not why)


def untagged(
    name: str, tags: Tags, moves: Sequence[Move], environment: str, pointer: Pointer | None
) -> list[str]:
    """One line for each tag that the next move cannot create, because its name is taken or invalid."""
    version = _next(name, tags, moves, environment, pointer)
    return [f"tag {tag.name}: was not created: {why}" for tag, why in version if why]


def _next(
    name: str, tags: Tags, moves: Sequence[Move], environment: str, pointer: Pointer | None
) -> Iterator[tuple[Tag, str]]:
    """The tags of the next move, each with the reason why it cannot be created; empty if it can."""
    number = 1 + sum(move.environment == environment for move in moves)
    past = _Past(tags, moves)
    for tag in _tags(name, past, environment, number, pointer):
        there = tags.get(tag.name)
        parsed = parse(tag.name)
        if parsed and parsed.version and there and there.annotated and there.commit == tag.commit:
            continue
        yield _unless(tag, past)


def _tags(
    name: str, past: _Past, environment: str, number: int, after: Pointer | None
) -> list[Tag]:
    """The tags of an environment's move ``number`` to ``after``: of the version, if it is one, and of the move."""
    pointer = after or past.last(environment, number)
    if pointer is None:
        return []
    commit = _registered(name, past, pointer)
    if after is None:
        return [
            Tag(f"{name}#{environment}!#{number}", f"{environment} runs no {name}", None, commit)
        ]
    model = f"{name} {after.version}"
    return [
        Tag(f"{name}@{after.version}", model, after, commit),
        Tag(f"{name}#{environment}#{number}", f"{environment} to {model}", after, commit),
    ]


def _unless(tag: Tag, past: _Past) -> tuple[Tag, str]:
    if parse(tag.name) is None:
        return tag, "it is not a name that GTO reads: begin and end names with a letter or a digit"
    if other := past.names.taken(tag.name):
        return tag, f"tag {other} is on commit {past.tags[other].commit[:12]}, and no move made it"
    return tag, ""


def _registered(name: str, past: _Past, pointer: Pointer) -> str | None:
    """The commit of a version: its tag's, if that moved an environment to it, else the first commit that did.

    None if none did yet.
    """
    there = past.tags.get(f"{name}@{pointer.version}")
    made = past.made.get(pointer.version, [])
    return there.commit if there and there.commit in made else next(iter(made), None)


def missing(name: str, tags: Tags, moves: Sequence[Move]) -> tuple[Tag, ...]:
    """The tags that these moves should have but lack, as after a merged pull request or a deleted tag.

    Names that are taken are not included: ``disagreements`` reports them.
    """
    past = _Past(tags, moves)
    return _missing(_wanted(name, past), past)


def _missing(wanted: Iterable[Tag], past: _Past) -> tuple[Tag, ...]:
    return tuple(tag for tag in wanted if not _unless(tag, past)[1])


def _wanted(name: str, past: _Past) -> Collection[Tag]:
    """Every tag that these moves should have, and no tag has its name."""
    wanted = dict[str, Tag]()
    for move in past.moves:
        if not move.ran or move.problem:
            continue
        for tag in _tags(name, past, move.environment, move.number, move.after):
            if tag.name not in past.tags:
                wanted.setdefault(tag.name, tag)
    return wanted.values()


def disagreements(name: str, tags: Tags, moves: Sequence[Move]) -> list[str]:
    """One line for each tag of this model that contradicts the moves (of all environments) or is missing."""
    past = _Past(tags, moves)
    made = past.made
    by_number = {(move.environment, move.number): move for move in moves}
    lines = []
    for tag, there in sorted(tags.items()):
        parsed = parse(tag)
        if parsed is None or parsed.name != name:
            continue
        if not there.annotated:
            lines.append(f"tag {tag}: is not annotated, so GTO does not see it")
        if parsed.version:
            if there.commit not in made.get(parsed.version, []):
                lines.append(
                    f"tag {tag}: {_FOREIGN}: commit {there.commit[:12]} moved nothing to {parsed.version}"
                )
            continue
        move = by_number.get((parsed.environment, parsed.number))
        after = expected = move.deployed if move else None
        if move and parsed.emptied:
            expected = past.last(move.environment, move.number)
        if move is None or expected is None or parsed.emptied != (after is None):
            to = "nothing" if parsed.emptied else "a version"
            lines.append(
                f"tag {tag}: {_FOREIGN}: {parsed.environment} made no move {parsed.number} to {to}"
            )
        elif not _is_of(expected, there.commit, tags.get(f"{name}@{expected.version}"), made):
            lines.append(
                f"tag {tag}: {_FOREIGN}: it is not on the commit of {expected.version}, where that move went"
            )
    wanted = _wanted(name, past)
    for next_tag in wanted:
        if other := past.names.taken(next_tag.name):
            lines.append(f"tag {other}: {_FOREIGN}: tag {next_tag.name} cannot be made beside it")
    return lines + [f"tag {tag.name}: is missing" for tag in _missing(wanted, past)]


def _is_of(
    pointer: Pointer, commit: str, version: TagRef | None, made: Mapping[str, list[str]]
) -> bool:
    """Whether a tag of a move to ``pointer`` is on the commit of its version, or on one that may become that."""
    own = made.get(pointer.version, [])
    return commit == version.commit if version and version.commit in own else commit in own
