"""Versions and assignments as annotated tags in GTO's grammar, which `gto show` and `gto history` read.

``router@v1.4.0`` registers a version: it lies on the commit whose record made the model (of this repository; where the
environments live in another one, on the commit that first moved to it there). ``router#production#7`` says that the
seventh move of production went to the version that is registered on the tag's commit.

Tags mirror the pointers' history. One that says otherwise is reported, never believed: anybody who may push can make
one. Only a name that is taken stops a move, since branch and tags arrive together.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from checks.errors import PromotionRefused
from checks.pointer import Pointer
from release.ledger.git import printable
from release.ledger.types import Move, Tag, Tags

FIRST = "v0.1.0"
# GTO's own, of the tags that Lockstep writes: no prereleases, no folders before a name.
_NAME = r"[a-zA-Z0-9](?:[a-zA-Z0-9/_-]*[a-zA-Z0-9])?"
_VERSION = re.compile(rf"^({_NAME})@(v(?:0|[1-9]\d*)(?:\.(?:0|[1-9]\d*)){{2}})$", re.ASCII)
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
    if not taken:
        return FIRST
    major, minor, patch = max(tuple(map(int, version[1:].split("."))) for version in taken)
    if any(pointer.model == model for pointer in known):
        return f"v{major}.{minor}.{patch + 1}"
    return f"v{major + 1}.0.0" if part == "major" else f"v{major}.{minor + 1}.0"


def tags_for(name: str, tags: Tags, environment: str, number: int, pointer: Pointer, *, here: bool) -> tuple[Tag, ...]:
    """The tags of the move ``number`` of an environment to ``pointer``; ``here``: this repository made the model.

    Raises PromotionRefused when a name is taken by a tag that says something else, or is none that GTO reads.
    """
    version, move = f"{name}@{pointer.version}", f"{name}#{environment}#{number}"
    for tag in (version, move):
        if parse(tag) is None:
            raise PromotionRefused(
                f"{tag}: is no name that GTO reads", "let names begin and end with a letter or digit"
            )
    there = tags.get(version)
    commit = pointer.commit if here else (there.commit if there else None)
    if there and (there.commit != commit or not there.annotated):
        raise _taken(version, f"names commit {there.commit[:12]}, the model is of {pointer.commit[:12]}")
    if move in tags:
        raise _taken(move, "is there, and this move is not made yet")
    says = f"{name} {pointer.version}\n\nimage {pointer.image}\nmodel {pointer.model}\nevidence {pointer.evidence}\n"
    moved = Tag(move, f"{environment}: {says}", commit)
    return (moved,) if there else (Tag(version, says, commit), moved)


def _taken(tag: str, why: str) -> PromotionRefused:
    return PromotionRefused(
        f"tag {tag}: {why}", f"see who made it, then take it away: git push REMOTE :refs/tags/{tag}"
    )


def disagreements(name: str, tags: Tags, moves: Sequence[Move], *, here: bool) -> list[str]:
    """One line for each tag of this model that says other than the moves (of all environments), or is missing."""
    lines = []
    by_number = {(move.environment, move.number): move for move in moves}
    made = {move.after.version: move.after for move in moves if move.after}
    for tag, there in sorted(tags.items()):
        said = parse(tag)
        if said is None or said.name != name:
            continue
        if isinstance(said, Registered):
            pointer = made.get(said.version)
            if pointer is None:
                lines.append(f"tag {tag}: no move ever went to {said.version}")
            elif here and there.commit != pointer.commit:
                lines.append(f"tag {tag}: names commit {there.commit[:12]}, the pointers say {pointer.commit[:12]}")
        elif (move := by_number.get((said.environment, said.number))) is None:
            lines.append(f"tag {tag}: {said.environment} never made a move {said.number}")
        elif move.after is None:
            lines.append(f"tag {tag}: that move took the pointer away")
        elif (registered := tags.get(f"{name}@{move.after.version}")) and registered.commit != there.commit:
            lines.append(f"tag {tag}: names commit {there.commit[:12]}, that move went to {move.after.version}")
        if not there.annotated:
            lines.append(f"tag {tag}: is not annotated, so GTO does not see it")
    for move in moves:
        wanted = [f"{name}#{move.environment}#{move.number}", f"{name}@{move.after.version}"] if move.after else []
        lines += [f"tag {tag}: is missing, for {_of(move)}" for tag in wanted if tag not in tags]
    return list(dict.fromkeys(lines))


def _of(move: Move) -> str:
    return f"move {move.number} of {move.environment} by {printable(move.by, 80)}"
