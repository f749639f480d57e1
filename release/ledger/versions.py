"""Versions and assignments as annotated tags in GTO's grammar, which `gto show` and `gto history` read.

``router@v1.4.0`` registers a version; it lies on a commit that moved an environment to it, the first unless somebody
chose another. ``router#production#7`` lies on the same commit and says that the seventh move of production went to it.
(Not on the commit that the pointer names: two images of one model would share it, and GTO then reads nothing at all.)

Tags mirror the pointers' history. One that says otherwise is reported, never believed: anybody who may push can make
one. Only a name that is taken stops a move, since branch and tags arrive together.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from checks.errors import PromotionRefused
from checks.pointer import Pointer
from release.ledger.types import Move, Tag, Tags

FIRST = "v0.1.0"
_ABSURD = 10**8
# GTO's own, of the tags that Lockstep writes: no prereleases, no folders before a name.
_NAME = r"[a-zA-Z0-9](?:[a-zA-Z0-9/_-]*[a-zA-Z0-9])?"
_VERSION = re.compile(rf"^({_NAME})@(v(?:0|[1-9]\d{{0,8}})(?:\.(?:0|[1-9]\d{{0,8}})){{2}})$", re.ASCII)
_MOVE = re.compile(rf"^({_NAME})#({_NAME})#([1-9]\d{{0,8}})$", re.ASCII)


class Registered(NamedTuple):
    """NAME@VERSION."""

    name: str
    version: str


class Assigned(NamedTuple):
    """NAME#ENVIRONMENT#NUMBER."""

    name: str
    environment: str
    number: int


def parse(tag: str) -> Registered | Assigned | None:
    """What a tag's name says; None when it is none of these."""
    if found := _VERSION.match(tag):
        return Registered(found[1], found[2])
    if found := _MOVE.match(tag):
        return Assigned(found[1], found[2], int(found[3]))
    return None


def next_version(
    name: str, tags: Tags, moves: Iterable[Move], model: str, image: str, part: Literal["major", "minor"] = "minor"
) -> str:
    """The version of this image (a digest) of this model.

    That of the move that brought the image before; else above every version that the moves and the tags know: the
    next patch for a model that is known, in another image, and the next ``part`` for another model.
    """
    known = [pointer for move in moves for pointer in (move.before, move.after) if pointer]
    for pointer in known:
        if pointer.digest == image:
            return pointer.version
    taken = [pointer.version for pointer in known]
    taken += [said.version for tag in tags if isinstance(said := parse(tag), Registered) and said.name == name]
    numbers = [tuple(map(int, version[1:].split("."))) for version in taken]
    # Anybody who may push can make a tag: one that leaves no number above it does not count.
    numbers = [parts for parts in numbers if max(parts) < _ABSURD]
    if not numbers:
        return FIRST
    major, minor, patch = max(numbers)
    if any(pointer.model == model for pointer in known):
        return f"v{major}.{minor}.{patch + 1}"
    return f"v{major + 1}.0.0" if part == "major" else f"v{major}.{minor + 1}.0"


def tags_for(name: str, tags: Tags, moves: Sequence[Move], environment: str, pointer: Pointer) -> tuple[Tag, ...]:
    """The tags of the next move of an environment, to ``pointer``. ``moves`` are those of all environments.

    Raises PromotionRefused when a name is taken by a tag that says something else, or is none that GTO reads.
    """
    number = 1 + sum(move.environment == environment for move in moves)
    version, move = _names(name, environment, number, pointer)
    for tag in (version, move):
        if parse(tag) is None:
            raise PromotionRefused(f"{tag}: is no name that GTO reads", "begin and end names with a letter or a digit")
    there, made = tags.get(version), _made(moves).get(pointer.version, [])
    if there and (there.commit not in made or not there.annotated):
        raise _taken(version, f"is on commit {there.commit[:12]}, which moved nothing to {pointer.version}")
    if move in tags:
        raise _taken(move, "is there, and this move is not made yet")
    commit = there.commit if there else next(iter(made), None)
    moved = Tag(move, _says(name, pointer, environment), commit)
    return (moved,) if there else (Tag(version, _says(name, pointer), commit), moved)


def missing(name: str, tags: Tags, moves: Sequence[Move]) -> tuple[Tag, ...]:
    """The tags that these moves should have and have not: after a merged pull request, or a tag taken away."""
    commits, wanted = _made(moves), dict[str, Tag]()
    for made in sorted(moves, key=lambda each: each.at):
        if made.after is None:
            continue
        version, move = _names(name, made.environment, made.number, made.after)
        there = tags.get(version)
        commit = there.commit if there else commits[made.after.version][0]
        wanted.setdefault(version, Tag(version, _says(name, made.after), commit))
        wanted[move] = Tag(move, _says(name, made.after, made.environment), commit)
    return tuple(tag for tag in wanted.values() if tag.name not in tags and parse(tag.name))


def _names(name: str, environment: str, number: int, pointer: Pointer) -> tuple[str, str]:
    return f"{name}@{pointer.version}", f"{name}#{environment}#{number}"


def _says(name: str, pointer: Pointer, environment: str = "") -> str:
    subject = f"{environment} to {name} {pointer.version}" if environment else f"{name} {pointer.version}"
    lines = (f"{field}: {value}\n" for field, value in pointer.model_dump().items() if field != "version")
    return f"{subject}\n\n{''.join(lines)}"


def _made(moves: Iterable[Move]) -> Mapping[str, list[str]]:
    """The commits that moved an environment to each version, the first first."""
    made: defaultdict[str, list[str]] = defaultdict(list)
    for move in sorted(moves, key=lambda each: each.at):
        if move.after:
            made[move.after.version].append(move.commit)
    return made


def _taken(tag: str, why: str) -> PromotionRefused:
    return PromotionRefused(
        f"tag {tag}: {why}", f"see who made it, then take it away: git push REMOTE :refs/tags/{tag}"
    )


def disagreements(name: str, tags: Tags, moves: Sequence[Move]) -> list[str]:
    """One line for each tag of this model that says other than the moves (of all environments), or is missing."""
    made = _made(moves)
    by_number = {(move.environment, move.number): move for move in moves}
    lines = []
    for tag, there in sorted(tags.items()):
        said = parse(tag)
        if said is None or said.name != name:
            continue
        if not there.annotated:
            lines.append(f"tag {tag}: is not annotated, so GTO does not see it")
        if isinstance(said, Registered):
            if there.commit not in made.get(said.version, []):
                lines.append(f"tag {tag}: is on commit {there.commit[:12]}, which moved nothing to {said.version}")
            continue
        move = by_number.get((said.environment, said.number))
        if move is None or move.after is None:
            lines.append(f"tag {tag}: {said.environment} made no move {said.number} to a version")
        elif (registered := tags.get(f"{name}@{move.after.version}")) and registered.commit != there.commit:
            lines.append(f"tag {tag}: is not on the commit of {move.after.version}, where that move went")
    return lines + [f"tag {tag.name}: is missing" for tag in missing(name, tags, moves)]
