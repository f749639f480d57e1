"""Decides what a rollback does: to which release, with which checks, by which commit. Nothing is written yet."""

from typing import Literal, NamedTuple

from checks.formats import quarantine
from checks.formats.pointer import Pointer
from checks.formats.quarantine import Entries, Entry
from checks.process.errors import EvidenceRefused, PromotionRefused
from checks.storage import layout
from release.ledger import Change
from release.ledger.message import NONE
from release.overlay import overlays
from release.promotion import (
    change,
    context,
    environment,
    quarantined,
    rollback_checks,
    rollback_targets,
)
from release.promotion.checklist import Check
from release.promotion.environment import EnvironmentState
from release.promotion.rollback_checks import Rollback
from release.promotion.types import PromotionContext


class RollbackPlan(NamedTuple):
    """The effect of a rollback. ``entry``: the new quarantine entry. ``after``: None empties the environment.

    ``done``: ``planned``; ``already``: it runs that release; ``repaired``: it runs nothing, and leftover files of a
    release are deleted.
    """

    done: Literal["planned", "already", "repaired"]
    present: EnvironmentState
    after: Pointer | None
    entry: Entry | None
    checks: tuple[Check, ...]
    notes: tuple[str, ...]
    change: Change


def make(
    promotion_context: PromotionContext,
    name: str,
    given_why: str,
    to: str | None,
    runs: str | None,
    ask: bool,
) -> RollbackPlan:
    """Plan a rollback of the environment ``name``; the arguments are those of ``RollbackOptions``.

    Raises PromotionRefused without a reason, without a release to go back to, or if another model than ``runs`` runs
    there; EvidenceRefused if the quarantine cannot be read.
    """
    why = quarantined.reason(given_why, "a rollback without a reason")
    present, notes = _present(promotion_context, name)
    running = present.pointer
    if runs and not (running and running.model.startswith(f"sha256:{runs}")):
        raise PromotionRefused(
            f"{name} does not run {runs}", "look at what it runs: `lockstep status`"
        )
    known = quarantined.readable(promotion_context)
    # The rollback writes the quarantine with every entry that the file lacks.
    notes += [what for what, _ in quarantined.contradictions(known)]
    if to == NONE:
        return _emptied(promotion_context, name, present, known.entries, why, notes)
    target = (
        rollback_targets.named(promotion_context, name, to)
        if to
        else rollback_targets.previous(promotion_context, name, running, known.entries, why)
    )
    if running and target.pointer.digest == running.digest:
        return RollbackPlan("already", present, running, None, (), tuple(notes), Change({}, ""))
    entry = _entry(promotion_context, running, target.pointer, why)
    held = _added(known.entries, entry)
    case = Rollback(promotion_context, name, present, target, given_why, known.entries, held)
    checks = rollback_checks.run(case, ask)
    after = case.after.get()
    notes += _also(promotion_context, name, entry)
    notes += change.untagged(promotion_context, name, after)
    if local := overlays.unreachable(after):
        notes.append(local)
    return RollbackPlan("planned", present, after, entry, checks, tuple(notes), case.change)


def _emptied(
    promotion_context: PromotionContext,
    name: str,
    present: EnvironmentState,
    entries: Entries,
    why: str,
    notes: list[str],
) -> RollbackPlan:
    """Empty the environment as before its first promotion, and quarantine what it ran. Nothing will run: no checks."""
    entry = _entry(promotion_context, present.pointer, None, why)
    made = change.empty(promotion_context, name, present, why, _added(entries, entry))
    if environment.folder(name) / layout.POINTER in present.files:
        notes += _also(promotion_context, name, entry)
        notes += change.untagged(promotion_context, name, None)
        return RollbackPlan("planned", present, None, entry, (), tuple(notes), made)
    if all(present.files.get(path) in (None, data) for path, data in made.files.items()):
        return RollbackPlan("already", present, None, entry, (), tuple(notes), Change({}, ""))
    message = f"Write {name} again\n\nIt runs nothing: {why}\n"
    made = Change(made.files, message)
    return RollbackPlan("repaired", present, None, entry, (), tuple(notes), made)


def _present(promotion_context: PromotionContext, name: str) -> tuple[EnvironmentState, list[str]]:
    """Return what the environment runs. A pointer that cannot be read is a note: the rollback replaces it."""
    try:
        return environment.look(promotion_context, name), []
    except EvidenceRefused as refused:
        ledger = promotion_context.ledger
        tip = promotion_context.tip
        return EnvironmentState(None, ledger.files(tip, layout.ENVIRONMENTS)), [refused.what]


def _entry(
    promotion_context: PromotionContext, bad: Pointer | None, good: Pointer | None, why: str
) -> Entry | None:
    """Return the new quarantine entry. If the good image has the same weights, only the image is quarantined."""
    if bad is None:
        return None
    model = None if good and bad.model == good.model else bad.model
    by = context.whoami(promotion_context.root)
    return Entry(image=bad.digest, model=model, version=bad.version, by=by, why=why)


def _added(entries: Entries, entry: Entry | None) -> Entries:
    return entries if entry is None else quarantine.add(entries, entry)


def _also(promotion_context: PromotionContext, name: str, entry: Entry | None) -> list[str]:
    """Return a line for each other environment that runs what is now in quarantine."""
    if entry is None:
        return []
    others = [other for other in promotion_context.promote.ordered if other != name]
    running = {other: promotion_context.runs(other) for other in others}
    return [
        f"{other} runs {entry.version} too"
        for other, pointer in running.items()
        if pointer and pointer.digest == entry.image
    ]
