"""Decides what a rollback does: to which release, with which checks, by which commit. Nothing is written yet.

Its checks stand in their order. They need a clone and the image's registry: no weights, verdict or data.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal

from checks.formats import quarantine
from checks.formats.pointer import Pointer
from checks.formats.quarantine import Entries, Entry
from checks.process.errors import EvidenceRefused, PromotionRefused, RegistryRefused
from checks.storage import digest, layout
from release.adapters.registry import reference
from release.evidence import attached_statements
from release.ledger import Change, released_pointers
from release.ledger.message import NONE
from release.overlay import overlays
from release.promotion import (
    checklist,
    context,
    edit_checks,
    image_checks,
    move_commit,
    quarantined,
    rollback_targets,
)
from release.promotion import environment as environments
from release.promotion.checklist import About, Check, CheckResult, PromotionContext
from release.promotion.environment import Case, CasePart, EnvironmentState


class Rollback(Case):
    """The requested rollback to ``target``. ``entries``: the quarantine now; ``held``: the one after the move."""

    def __init__(
        self,
        context: PromotionContext,
        environment: str,
        present: EnvironmentState,
        target: rollback_targets.RollbackTarget,
        why: str,
        entries: Entries,
        held: Entries,
    ) -> None:
        super().__init__(context, environment, reference.parse(target.pointer.image))
        self.store = image_checks.open_place(context.root, self.reference)
        self.present = present
        self.target = target
        self.why = why
        self.entries = entries
        self.held = held
        self.released = CasePart[attached_statements.Released]("no statement holds")
        self.after.value = target.pointer


class RolledBack(move_commit.MoveResult):
    """The result of a rollback. ``after`` None: nothing runs. ``held``: the new quarantine entry.

    ``repaired`` here: it ran nothing, and leftover files of a release were deleted. No rollback is ``proposed``.
    """

    held: Entry | None


def make(
    promotion_context: PromotionContext,
    name: str,
    given_why: str,
    to: str | None,
    runs: str | None,
    ask: bool,
) -> tuple[RolledBack, Change]:
    """Plan a rollback of the environment ``name``, and return its commit too. The arguments are those of ``rollback``.

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
    rollback_targets.refuse_again(promotion_context, name, why)
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
        return _planned(name, "already", present, running, None, notes, Change({}, ""))
    entry = _entry(promotion_context, running, target.pointer, why)
    entries = _added(known.entries, entry)
    case = Rollback(promotion_context, name, present, target, given_why, known.entries, entries)
    checks = tuple(
        checklist.run(about, partial(check, case))
        for about, check in CHECKS.items()
        if ask or check is not _serving
    )
    after = case.after.get()
    notes += _also(promotion_context, name, entry)
    notes += move_commit.untagged(promotion_context, name, after)
    if local := overlays.unreachable(after):
        notes.append(local)
    notes += edit_checks.gap(case)
    return _planned(name, "planned", present, after, entry, notes, case.change, checks)


def _planned(
    name: str, done: Literal["planned", "already", "repaired"], present: EnvironmentState, after: Pointer | None,
    held: Entry | None, notes: list[str], change: Change, checks: tuple[Check, ...] = (),
) -> tuple[RolledBack, Change]:  # fmt: skip
    rolled = RolledBack(
        environment=name, done=done, before=present.pointer, after=after, held=held, checks=checks, notes=tuple(notes),
        tags=tuple(tag.name for tag in change.tags), diff=move_commit.diff(present.files, change.files),
    )  # fmt: skip
    return rolled, change


def _emptied(
    promotion_context: PromotionContext,
    name: str,
    present: EnvironmentState,
    entries: Entries,
    why: str,
    notes: list[str],
) -> tuple[RolledBack, Change]:
    """Empty the environment as before its first promotion, and quarantine what it ran. Nothing will run: no checks."""
    entry = _entry(promotion_context, present.pointer, None, why)
    made = move_commit.empty(promotion_context, name, present, why, _added(entries, entry))
    if environments.folder(name) / layout.POINTER in present.files:
        notes += _also(promotion_context, name, entry)
        notes += move_commit.untagged(promotion_context, name, None)
        return _planned(name, "planned", present, None, entry, notes, made)
    if all(present.files.get(path) in (None, data) for path, data in made.files.items()):
        return _planned(name, "already", present, None, entry, notes, Change({}, ""))
    made = Change(made.files, f"Write {name} again\n\nIt runs nothing: {why}\n")
    return _planned(name, "repaired", present, None, entry, notes, made)


def _present(promotion_context: PromotionContext, name: str) -> tuple[EnvironmentState, list[str]]:
    """Return what the environment runs. A pointer that cannot be read is a note: the rollback replaces it."""
    try:
        return environments.look(promotion_context, name), []
    except EvidenceRefused as refused:
        files = promotion_context.ledger.files(promotion_context.tip, layout.ENVIRONMENTS)
        return EnvironmentState(None, files), [refused.what]


def _entry(
    promotion_context: PromotionContext, bad: Pointer | None, good: Pointer | None, why: str
) -> Entry | None:
    """Return the new quarantine entry. If the good image has the same weights, only the image is quarantined."""
    if bad is None:
        return None
    model = None if good and bad.model == good.model else bad.model
    return Entry(
        image=bad.digest, model=model, version=bad.version, by=context.whoami(promotion_context.root), why=why
    )  # fmt: skip


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


def _quarantine(rollback: Rollback, result: CheckResult) -> None:
    pointer = rollback.target.pointer
    if entry := quarantine.find(rollback.entries, pointer.digest, pointer.model):
        result.fail(
            f"{pointer.version} is in quarantine, by {entry.by}: {entry.why}",
            f"`lockstep quarantine --release {entry.name} --why …`, or choose another with --to",
        )


def _evidence(rollback: Rollback, result: CheckResult) -> None:
    """Find the statement that it was promoted on, if a current signer signed it; else another one beside the image.

    A signer who was removed no longer counts, for old signatures too. One who is retired counts for this release if the
    ledger had it by then.
    """
    context = rollback.context
    environment = rollback.environment
    pointer = rollback.target.pointer
    commit = rollback.target.move.commit
    path = released_pointers.path(environment)
    data = context.ledger.read(commit, path)
    if data is None or digest.of_bytes(data) != pointer.evidence:
        raise EvidenceRefused(
            f"{path} at {commit[:12]}: is not what the pointer there names",
            "choose another release with --to",
        )
    try:
        statement = environments.signed(
            context, environment, pointer, data, f"the evidence of {pointer.version}"
        )
        result.note = f"{statement.digest}, signed by {statement.signer}"
    except EvidenceRefused as refused:
        statement = _signed_since(rollback, refused)
        result.note = f"signed again by {statement.signer}"
    if not _is_of(statement, pointer):
        raise EvidenceRefused(
            f"the evidence of {pointer.version} is about another model or commit",
            "choose another release with --to",
        )
    rollback.released.value = statement
    rollback.after.value = pointer.model_copy(update={"evidence": statement.digest})


def _signed_since(rollback: Rollback, refused: EvidenceRefused) -> attached_statements.Released:
    """Return a statement beside the image that a current signer signed. Raises ``refused``, if there is none."""
    pointer = rollback.target.pointer
    signers = rollback.context.signers
    try:
        statements = attached_statements.search(rollback.store, pointer.digest, signers).releases
    except (EvidenceRefused, RegistryRefused):
        statements = ()
    for statement in statements:
        if _is_of(statement, pointer):
            return statement
    raise EvidenceRefused(
        refused.what,
        "choose another release with --to, or sign this one again in a checkout of "
        f"{pointer.commit[:12]}: `lockstep sign`",
    )


def _is_of(statement: attached_statements.Released, pointer: Pointer) -> bool:
    release = statement.statement.predicate
    stated = (release.image.image, release.image.model, release.commit)
    return stated == (pointer.digest, pointer.model, pointer.commit)


def _serving(rollback: Rollback, result: CheckResult) -> None:
    release = rollback.release()
    from release.serving import starting  # It imports docker.

    result.note = starting.ask(rollback.context.root, rollback.store, rollback.reference, release)


def _edits(rollback: Rollback, result: CheckResult) -> None:
    moves = rollback_targets.moves(rollback.context, rollback.environment)
    last = next((move.commit for move in moves if move.kind != "other"), None)
    edit_checks.unedited(rollback, result, rollback=True, last=last)


CHECKS: Mapping[About, Callable[[Rollback, CheckResult], None]] = {
    "quarantine": _quarantine,
    "image": lambda rollback, result: image_checks.complete(rollback, rollback.store, result),
    "evidence": _evidence,
    "serving": _serving,
    "version": lambda rollback, result: move_commit.writable(
        rollback, "rollback", rollback.why, result, rollback.held
    ),
    "edits": _edits,
}
