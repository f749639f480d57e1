"""Which release a rollback goes back to: the last one that is not in quarantine, or one that is named."""

from collections.abc import Iterable
from typing import NamedTuple

from checks.formats import quarantine
from checks.formats.pointer import Pointer
from checks.formats.quarantine import Entries
from checks.process.errors import PromotionRefused
from checks.process.text import redact
from release.ledger import Move
from release.ledger.message import NONE
from release.promotion.environment import EnvironmentState
from release.promotion.types import PromotionContext

LONGEST_REASON = 500  # characters, as the quarantine keeps it


class NoEarlierRelease(PromotionRefused):
    """There is no release to go back to. The environment can still be emptied."""


class RollbackTarget(NamedTuple):
    """The release to go back to, and the move that deployed it first."""

    pointer: Pointer
    move: Move


def moves(where: PromotionContext, name: str) -> list[Move]:
    """The moves on the branch's own history, newest first. Moves that a side branch made and reverted are left out."""
    found: list[Move] = []
    for made in reversed(where.ledger.moves(where.tip, name)):
        if made.ran and (not found or made.after is None or made.after != found[-1].after):
            found.append(made)
    return found[::-1]


def _deployed(line: Iterable[Move]) -> list[RollbackTarget]:
    """Every release that the moves deployed, each with the first of them that did."""
    found: dict[str, RollbackTarget] = {}
    for made in line:
        if made.after:
            found.setdefault(made.after.digest, RollbackTarget(made.after, made))
    return list(found.values())


def previous(
    where: PromotionContext, name: str, present: EnvironmentState, entries: Entries, why: str
) -> RollbackTarget:
    """The previous release that is not in quarantine. To go back twice, name the release.

    A release that was deployed by a manual commit must be named, because it never passed the checks. Running the same
    command again, as after a crash, does not go back a second time.
    """
    line = moves(where, name)
    if not line:
        raise PromotionRefused(f"{name} runs nothing", f"`lockstep promote {name}`")
    newest = line[0]
    if newest.kind == "rollback" and newest.after is None and not newest.problem:
        raise PromotionRefused(
            f"{name} runs nothing: it was emptied by {newest.by}: {newest.why}",
            f"`lockstep promote {name}`, or name the release to go back to: --to",
        )
    if present.pointer and newest.kind == "rollback" and newest.after == present.pointer:
        if redact(newest.why, LONGEST_REASON) == why:
            return RollbackTarget(present.pointer, newest)
        gone = newest.before.version if newest.before else "what could not be read"
        raise PromotionRefused(
            f"{name} was rolled back from {gone} already, by {newest.by}: {newest.why}",
            "name the release to go further back to: --to",
        )
    here = present.pointer.digest if present.pointer else None
    every = [each for each in _deployed(line) if each.pointer.digest != here]
    others = [
        each
        for each in _deployed(made for made in line if made.kind != "other")
        if each.pointer.digest != here
    ]
    free = [
        each
        for each in others
        if quarantine.find(entries, each.pointer.digest, each.pointer.model) is None
    ]
    if not free:
        which = (
            "every release that ran there is in quarantine" if others else "nothing else ran there"
        )
        if hand := next(
            (each for each in every if each.pointer not in {other.pointer for other in others}),
            None,
        ):
            which += f", but for what was moved by hand, such as {hand.pointer.version}, by {hand.move.by}"
        todo = f"`lockstep promote {name}` another{', or name one: --to' if hand else ''}; to run nothing instead: "
        todo += f"`lockstep rollback {name} --to {NONE} --why …`"
        raise NoEarlierRelease(f"{name}: there is nothing to go back to: {which}", todo)
    return free[0]


def named(where: PromotionContext, name: str, to: str) -> RollbackTarget:
    """The release ``to`` (version, digest or image). Raises PromotionRefused if it never ran there."""
    line = moves(where, name)
    ran = _deployed([*(made for made in line if made.kind != "other"), *line])
    for each in ran:
        if to.rpartition("@")[2] == each.pointer.digest or to == each.pointer.version:
            return each
    shown = (
        ", ".join(f"{each.pointer.version} ({each.pointer.digest[:19]}…)" for each in ran[:10])
        or "nothing"
    )
    raise PromotionRefused(
        f"{redact(to, 100)}: never ran in {name}", f"name what did, or promote it: {shown}"
    )
