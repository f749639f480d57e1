"""Which release a rollback goes back to: the last one that is not in quarantine, or one that is named."""

import itertools
from collections.abc import Iterable
from typing import NamedTuple

from checks.formats import quarantine
from checks.formats.pointer import Pointer
from checks.process.errors import PromotionRefused
from checks.process.text import redact
from release.adapters import commits
from release.ledger import Move
from release.ledger.message import NONE
from release.promotion import quarantined
from release.promotion.checklist import PromotionContext


class NoEarlierRelease(PromotionRefused):
    """There is no release to go back to. The environment can still be emptied."""


class RollbackTarget(NamedTuple):
    """The release to go back to, and the move that deployed it first."""

    pointer: Pointer
    move: Move


def moves(context: PromotionContext, environment: str) -> list[Move]:
    """The moves on the branch's own history, newest first. Moves that a side branch made and reverted are left out."""
    own: list[Move] = []
    for move in reversed(context.ledger.moves(context.tip, environment)):
        if move.ran and (not own or move.after is None or move.after != own[-1].after):
            own.append(move)
    return own[::-1]


def refuse_again(context: PromotionContext, environment: str, why: str) -> None:
    """Raise PromotionRefused if a rollback that HEAD does not have gave the same reason, and others moved it since.

    Such is a job that is run again days later: it would take back a release that its person never saw.
    """
    line = moves(context, environment)
    head = context.records.head or context.trunk
    for newer, move in itertools.pairwise(line):
        if (
            move.kind == "rollback"
            and redact(move.why, quarantined.LONGEST_REASON) == why
            and not commits.is_ancestor(context.root, move.landed, head)
        ):
            since = newer.after.version if newer.after else "nothing"
            raise PromotionRefused(
                f"{environment} was rolled back for this reason already, by {move.by}, and then moved to {since}, "
                f"by {newer.by}",
                "if that is to go, too: git pull, or say why in other words",
            )


def earlier(
    moves: Iterable[Move], running: Pointer | None, entries: quarantine.Entries = ()
) -> list[RollbackTarget]:
    """The releases to go back to from ``running`` that checks let pass, newest first, without those of ``entries``."""
    return [
        target
        for target in _deployed(move for move in moves if move.ran and move.kind != "other")
        if not (running and target.pointer.digest == running.digest)
        and quarantine.find(entries, target.pointer.digest, target.pointer.model) is None
    ]


def _deployed(moves: Iterable[Move]) -> list[RollbackTarget]:
    """Every release that the moves deployed, each with the first of them that did."""
    targets: dict[str, RollbackTarget] = {}
    for move in moves:
        if move.after:
            targets.setdefault(move.after.digest, RollbackTarget(move.after, move))
    return list(targets.values())


def previous(
    context: PromotionContext,
    environment: str,
    running: Pointer | None,
    entries: quarantine.Entries,
    why: str,
) -> RollbackTarget:
    """The previous release that is not in quarantine. To go back twice, name the release.

    A release that was deployed by a manual commit must be named, because it never passed the checks. Running the same
    command again, as after a crash, does not go back a second time.
    """
    line = moves(context, environment)
    if not line:
        raise PromotionRefused(f"{environment} runs nothing", f"`lockstep promote {environment}`")
    newest = line[0]
    if newest.kind == "rollback" and newest.after is None and not newest.problem:
        raise PromotionRefused(
            f"{environment} runs nothing: it was emptied by {newest.by}: {newest.why}",
            f"`lockstep promote {environment}`, or name the release to go back to: --to",
        )
    if running and newest.kind == "rollback" and newest.after == running:
        if redact(newest.why, quarantined.LONGEST_REASON) == why:
            return RollbackTarget(running, newest)
        gone = newest.before.version if newest.before else "what could not be read"
        raise PromotionRefused(
            f"{environment} was rolled back from {gone} already, by {newest.by}: {newest.why}",
            "name the release to go further back to: --to",
        )
    if free := earlier(line, running, entries):
        return free[0]
    raise _nowhere(environment, line, running)


def _nowhere(environment: str, line: list[Move], running: Pointer | None) -> NoEarlierRelease:
    others = earlier(line, running)
    passed = {target.pointer for target in others} | {running}
    which = "every release that ran there is in quarantine" if others else "nothing else ran there"
    todo = f"`lockstep promote {environment}` another"
    hand = next((target for target in _deployed(line) if target.pointer not in passed), None)
    if hand:
        which += (
            f", but for what was moved by hand, such as {hand.pointer.version}, by {hand.move.by}"
        )
        todo += ", or name one: --to"
    todo += f"; to run nothing instead: `lockstep rollback {environment} --to {NONE} --why …`"
    return NoEarlierRelease(f"{environment}: there is nothing to go back to: {which}", todo)


def named(context: PromotionContext, environment: str, to: str) -> RollbackTarget:
    """The release ``to`` (version, digest or image). Raises PromotionRefused if it never ran there."""
    line = moves(context, environment)
    ran = _deployed([*(move for move in line if move.kind != "other"), *line])
    for target in ran:
        if to.rpartition("@")[2] == target.pointer.digest or to == target.pointer.version:
            return target
    shown = (
        ", ".join(
            f"{target.pointer.version} ({target.pointer.digest[:19]}…)" for target in ran[:10]
        )
        or "nothing"
    )
    raise PromotionRefused(
        f"{redact(to, 100)}: never ran in {environment}", f"name what did, or promote it: {shown}"
    )
