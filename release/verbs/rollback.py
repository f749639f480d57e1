"""rollback: moves an environment back to an image that ran there, by one commit, and quarantines the one it leaves.

It needs only a clone and the image's registry: no weights, verdict or data. The old release passed all checks when it
was promoted. The rollback checks that its image is complete, that a current signer signed it, and that files written by
people do not change it.

``--to none`` empties the environment, as before its first promotion. That needs no image.
"""

import time
from pathlib import Path
from typing import Literal, NamedTuple

from checks.formats import quarantine
from checks.formats.pointer import Pointer
from checks.formats.quarantine import Entries, Entry
from checks.formats.serving import Seconds
from checks.process.errors import EvidenceRefused, PromotionRefused, Refusal, RegistryRefused
from checks.process.text import redact
from checks.records.rows import Record
from checks.storage import digest, layout
from release.adapters.registry import reference
from release.adapters.registry.types import Store
from release.evidence import released
from release.evidence.released import Released
from release.ledger import Change, past
from release.ledger.message import NONE
from release.mirrors import update
from release.overlay import overlays
from release.promotion import (
    change,
    checklist,
    context,
    edits,
    environment,
    image,
    rollback_targets,
)
from release.promotion import held as quarantined
from release.promotion.checklist import Check, Checklist, CheckResult, Unavailable
from release.promotion.environment import EnvironmentState
from release.promotion.rollback_targets import LONGEST_REASON, RollbackTarget
from release.promotion.types import PromotionContext
from release.serving import ask_image


class RollbackOptions(NamedTuple):
    """The options of a rollback.

    ``why``: the reason, for the ledger and the quarantine. ``to``: a release that ran there, by version, digest or
    image; "none" empties the environment; None: the last other release that is not in quarantine. ``check_image``:
    check that the image is complete in its store. ``ask``: also start it and send it a request. ``dry_run``: run all
    checks and write nothing. ``target``: as for ``promote``. ``runs``: the first digits of the model that must run
    there, or nothing is rolled back.
    """

    why: str
    to: str | None = None
    check_image: bool = True
    ask: bool = False
    dry_run: bool = False
    target: str | None = None
    runs: str | None = None


class RolledBack(Record):
    """The result. ``held``: the new quarantine entry.

    ``done``: ``moved``; ``already``: it ran that release before; ``repaired``: it ran nothing, and leftover files of a
    release were deleted; ``planned``: a dry run.
    """

    environment: str
    done: Literal["moved", "already", "repaired", "planned"]
    before: Pointer | None  # None: nothing ran, or what ran cannot be read
    after: Pointer | None  # None: nothing runs
    held: Entry | None
    commit: str | None  # The ledger's commit.
    tags: tuple[str, ...]
    checks: tuple[Check, ...]
    diff: str
    notes: tuple[str, ...]
    seconds: Seconds


def rollback(root: Path, name: str, options: RollbackOptions) -> RolledBack:
    """Move the environment ``name`` back. With ``dry_run`` say what would happen; ``refusal`` then has the failures.

    Raises PromotionRefused with every failure if there is nothing to go back to or it cannot run, RegistryRefused if
    only a registry did not answer, EvidenceRefused, ParamsRefused, Outrun, RemoteRefused, MachineRefused. After any of
    them the environment is unchanged.
    """
    where = context.find(root, options.target)
    done = move(where, name, options)
    if done.done == "planned":
        return done
    statement = None
    if done.after is not None:
        data = where.ledger.read(done.commit or where.tip, past.path(name))
        statement = past.envelope(data, done.after, str(past.path(name))).statement
    late = update.after_move(where.records, where.target, where.trunk, name, done.after, statement)
    return done.model_copy(update={"notes": (*done.notes, *late)})


def refusal(rolled: RolledBack) -> Refusal | None:
    """The refusal with the failures of a dry run; None if there are none."""
    to = rolled.after.version if rolled.after else "nothing"
    return checklist.refusal(f"{rolled.environment} is not rolled back to {to}", rolled.checks)


def move(where: PromotionContext, name: str, options: RollbackOptions) -> RolledBack:
    """As ``rollback``, in a given context; mirrors are not updated."""
    began = time.perf_counter()
    where.rule(name)
    if not options.dry_run:
        where.ledger.settle(where.tip)
    why = redact(options.why, LONGEST_REASON)
    if not why:
        raise PromotionRefused("a rollback without a reason", "give the reason: --why")
    present, notes = _present(where, name)
    if options.runs and not (
        present.pointer and present.pointer.model.startswith(f"sha256:{options.runs}")
    ):
        raise PromotionRefused(
            f"{name} does not run {options.runs}", "look at what it runs: `lockstep status`"
        )
    known = quarantined.read(where)
    if known.unreadable:
        raise known.unreadable
    # The notes name all that is held back.
    notes += [what for what, _ in quarantined.contradictions(known)]
    entries = known.entries
    if options.to == NONE:
        return _commit(
            where, _emptied(where, name, present, entries, why, notes, began), options.dry_run
        )
    earlier = (
        rollback_targets.named(where, name, options.to)
        if options.to
        else rollback_targets.previous(where, name, present, entries, why)
    )
    if present.pointer and earlier.pointer.digest == present.pointer.digest:
        return RolledBack(
            environment=name, done="already", before=present.pointer, after=present.pointer, held=None, commit=None,
            tags=(), checks=(), diff="", notes=tuple(notes), seconds=time.perf_counter() - began,
        )  # fmt: skip
    bad = _entry(where, present.pointer, earlier.pointer, why)
    held = entries if bad is None else quarantine.add(entries, bad)
    ran = Checklist()
    after, made = _ask(ran, where, name, earlier, present, entries, held, options)
    notes += [*_also(where, name, bad), *change.untagged(where, name, after)]
    if local := overlays.unreachable(after):
        notes.append(local)
    rolled = RolledBack(
        environment=name, done="planned", before=present.pointer, after=after, held=bad, commit=None,
        tags=tuple(tag.name for tag in made.tags), checks=tuple(ran.checks), notes=tuple(notes),
        diff=change.diff(present.files, made.files), seconds=time.perf_counter() - began,
    )  # fmt: skip
    return _commit(where, (rolled, made), options.dry_run)


def _commit(
    where: PromotionContext, planned: tuple[RolledBack, Change], dry_run: bool
) -> RolledBack:
    rolled, made = planned
    if dry_run or rolled.done == "already":
        return rolled
    if refused := refusal(rolled):
        raise refused
    began = time.perf_counter()
    commit = where.ledger.commit(where.tip, made)
    done = "moved" if rolled.done == "planned" else rolled.done
    notes = (*rolled.notes, *where.ledger.untagged, *change.behind(where, commit))
    return rolled.model_copy(update={
        "done": done, "commit": commit, "tags": where.made(made), "notes": notes,
        "seconds": rolled.seconds + time.perf_counter() - began,
    })  # fmt: skip


def _emptied(
    where: PromotionContext,
    name: str,
    present: EnvironmentState,
    entries: Entries,
    why: str,
    notes: list[str],
    began: float,
) -> tuple[RolledBack, Change]:
    """Empty the environment as before its first promotion, and quarantine what it ran. Nothing will run: no checks."""
    bad = _entry(where, present.pointer, None, why)
    made = change.empty(
        where, name, present, why, entries if bad is None else quarantine.add(entries, bad)
    )
    done: Literal["planned", "already", "repaired"] = "planned"
    if environment.folder(name) / layout.POINTER in present.files:
        notes = [*notes, *_also(where, name, bad), *change.untagged(where, name, None)]
    else:
        left = any(present.files.get(path) not in (None, data) for path, data in made.files.items())
        done = "repaired" if left else "already"
        made = made._replace(message=f"Write {name} again\n\nIt runs nothing: {why}\n", tags=())
    rolled = RolledBack(
        environment=name, done=done, before=present.pointer, after=None, held=bad, commit=None,
        tags=tuple(tag.name for tag in made.tags), checks=(), notes=tuple(notes),
        diff="" if done == "already" else change.diff(present.files, made.files), seconds=time.perf_counter() - began,
    )  # fmt: skip
    return rolled, made


def _also(where: PromotionContext, name: str, bad: Entry | None) -> list[str]:
    """Other environments that run what is now in quarantine."""
    others = [other for other in where.promote.ordered if bad and other != name]
    return [
        f"{other} runs {bad.version} too"
        for other in others
        if bad and (its := where.runs(other)) and its.digest == bad.image
    ]


def _present(where: PromotionContext, name: str) -> tuple[EnvironmentState, list[str]]:
    """Return what the environment runs; a pointer that cannot be read is no error, because a rollback replaces it."""
    try:
        return environment.look(where, name), []
    except EvidenceRefused as refused:
        return EnvironmentState(None, where.ledger.files(where.tip, layout.ENVIRONMENTS)), [
            refused.what
        ]


def _entry(
    where: PromotionContext, bad: Pointer | None, good: Pointer | None, why: str
) -> Entry | None:
    """The new quarantine entry. If the good image has the same weights, only the image is quarantined."""
    if bad is None:
        return None
    model = None if good and bad.model == good.model else bad.model
    return Entry(
        image=bad.digest, model=model, version=bad.version, by=context.whoami(where.root), why=why
    )


def _ask(
    ran: Checklist,
    where: PromotionContext,
    name: str,
    earlier: RollbackTarget,
    present: EnvironmentState,
    before: Entries,
    held: Entries,
    options: RollbackOptions,
) -> tuple[Pointer, Change]:
    after, made, found = earlier.pointer, Change({}, ""), None
    named = reference.parse(after.image)
    store = image.open_place(where.root, named)
    with ran.run("quarantine") as result:
        if entry := quarantine.find(before, after.digest, after.model):
            result.fail(
                f"{after.version} is in quarantine, by {entry.by}: {entry.why}",
                f"`lockstep quarantine --release {entry.name} --why …`, or choose another with --to",
            )
    with ran.run("image") as result:
        if options.check_image:
            there = image.there(store, after.digest)
            result.note = f"{len(there.manifest.layers)} layers in {store.name}"
        else:
            result.note = "not requested"
    with ran.run("evidence") as result:
        found = _evidence(where, name, earlier, store, result)
        after = after.model_copy(update={"evidence": found.digest})
    if options.ask:
        with ran.run("serving") as result:
            result.note = ask_image.ask(where.root, store, named, _there(found).statement.predicate)
    with ran.run("version") as result:
        made = change.move(
            where, name, "rollback", present, after, _there(found), options.why, held
        )
        result.note = after.version
    with ran.run("edits") as result:
        last, built = _last_move(where, name), _there(found).statement.predicate.image
        edits.unedited_since(where, name, present, after, built, last, result)
    return after, made


def _there(found: Released | None) -> Released:
    if found is None:
        raise Unavailable("no statement holds")
    return found


def _last_move(where: PromotionContext, name: str) -> str | None:
    """The commit of the last move that Lockstep made."""
    return next(
        (made.commit for made in rollback_targets.moves(where, name) if made.kind != "other"), None
    )


def _evidence(
    where: PromotionContext, name: str, earlier: RollbackTarget, store: Store, result: CheckResult
) -> Released:
    """The statement that it was promoted on, if a current signer signed it; else another valid one beside the image.

    A signer who was removed no longer counts, for old signatures too. One who is retired counts for this release if the
    ledger had it by then.
    """
    pointer, path = earlier.pointer, past.path(name)
    data = where.ledger.read(earlier.move.commit, path)
    if data is None or digest.of_bytes(data) != pointer.evidence:
        raise EvidenceRefused(
            f"{path} at {earlier.move.commit[:12]}: is not what the pointer there names",
            "choose another release with --to",
        )
    try:
        recorded = where.ledger.recorded(where.tip, name, pointer)
        found = released.check(
            data, pointer.digest, where.signers, f"the evidence of {pointer.version}", recorded
        )
    except EvidenceRefused as refused:
        found = _signed_since(where, store, pointer, refused)
        result.note = f"signed again by {found.signer}"
    else:
        result.note = f"{found.digest}, signed by {found.signer}"
    if not _is_of(found, pointer):
        raise EvidenceRefused(
            f"the evidence of {pointer.version} is about another model or commit",
            "choose another release with --to",
        )
    return found


def _signed_since(
    where: PromotionContext, store: Store, pointer: Pointer, refused: EvidenceRefused
) -> Released:
    try:
        again = released.search(store, pointer.digest, where.signers).found
    except (EvidenceRefused, RegistryRefused):
        again = ()
    fitting = [one for one in again if _is_of(one, pointer)]
    if not fitting:
        raise EvidenceRefused(
            refused.what,
            "choose another release with --to, or sign this one again in a checkout of "
            f"{pointer.commit[:12]}: `lockstep sign`",
        )
    return fitting[0]


def _is_of(found: Released, pointer: Pointer) -> bool:
    release = found.statement.predicate
    return (release.image.image, release.image.model, release.commit) == (
        pointer.digest, pointer.model, pointer.commit,
    )  # fmt: skip
