"""rollback: move an environment back to an image that ran there, by one commit, and hold back the one it leaves.

It needs a clone and the image's place, nothing else: no weights, no verdict, no data. What made the old release fit to
run was asked when it was promoted; now it is asked that its image is still there, whole, that a signer of today stands
for it, and that what people wrote in the environment leaves it as it is. Where that needs kustomize and it is not
installed, files that are still those of the last move count.

``--to none`` empties the environment: it runs nothing, as before its first promotion. That waits for no image.
"""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple

from checks import digest, layout, quarantine
from checks.errors import EvidenceRefused, PromotionRefused, Refusal, RegistryRefused
from checks.pointer import Pointer
from checks.quarantine import Entries, Entry
from checks.rows import Record
from checks.serving import Seconds
from checks.text import redact
from release.adapters.registry import reference
from release.adapters.registry.types import Store
from release.evidence import released
from release.evidence.released import Released
from release.ledger import Change, Move, past
from release.ledger.message import NONE
from release.mirrors import update
from release.overlay import overlays
from release.promotion import asked, change, environment, image, site
from release.promotion import held as quarantined
from release.promotion.asked import Answer, Asked, Check, Unavailable
from release.promotion.environment import Present
from release.promotion.site import Site
from release.serving import ask_image

_LONGEST = 500  # characters of a reason, as the quarantine keeps it


class Options(NamedTuple):
    """What is rolled back, and how.

    ``why``: for the ledger and the quarantine. ``to``: a release that ran there, by version, digest or image; "none":
    the environment is emptied; None: the last other one that is not held back. ``check_image``: ask whether it is whole
    in its place. ``ask``: start it, too, and ask it something. ``dry_run``: ask everything and write nothing.
    ``target``: as for ``promote``.
    """

    why: str
    to: str | None = None
    check_image: bool = True
    ask: bool = False
    dry_run: bool = False
    target: str | None = None


class RolledBack(Record):
    """What became of it. ``held``: what is in quarantine for it. ``already``: it runs that. ``mended``: it ran nothing,
    and files of a release that lay there were taken away.
    """

    environment: str
    done: Literal["moved", "already", "mended", "planned"]
    before: Pointer | None  # None: nothing ran, or what ran cannot be read
    after: Pointer | None  # None: nothing runs
    held: Entry | None
    commit: str | None  # of the ledger
    tags: tuple[str, ...]
    checks: tuple[Check, ...]
    diff: str
    notes: tuple[str, ...]
    seconds: Seconds


class NothingElse(PromotionRefused):
    """There is no release to go back to; an environment can still be emptied."""


class _Goal(NamedTuple):
    """Where to go back to, and the move that brought it there."""

    pointer: Pointer
    move: Move


def rollback(root: Path, name: str, options: Options) -> RolledBack:
    """Move the environment ``name`` back. With ``dry_run`` say what would happen (then ask ``refusal``).

    Raises PromotionRefused with every gap when there is nothing to go back to, or it cannot run; RegistryRefused when
    only its registry's answer is lacking; EvidenceRefused, ParamsRefused, Outrun, RemoteRefused, MachineRefused. The
    environment is then what it was.
    """
    where = site.find(root, options.target)
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
    """What a dry run found lacking; None when nothing is."""
    to = rolled.after.version if rolled.after else "nothing"
    return asked.refusal(f"{rolled.environment} is not rolled back to {to}", rolled.checks)


def move(where: Site, name: str, options: Options) -> RolledBack:
    """As ``rollback``, of a site; no mirror is told."""
    began = time.perf_counter()
    where.rule(name)
    if not options.dry_run:
        where.ledger.settle(where.tip)
    why = redact(options.why, _LONGEST)
    if not why:
        raise PromotionRefused("a rollback without a reason", "say what is wrong with what runs: --why")
    present, notes = _present(where, name)
    known = quarantined.read(where)
    if known.unreadable:
        raise known.unreadable
    notes += [what for what, _ in quarantined.contradictions(known)]  # what this writes has all that is held back
    entries = known.entries
    if options.to == NONE:
        return _commit(where, _emptied(where, name, present, entries, why, notes, began), options.dry_run)
    goal = _named(where, name, options.to) if options.to else _last(where, name, present, entries, why)
    if present.pointer and goal.pointer.digest == present.pointer.digest:
        return RolledBack(
            environment=name, done="already", before=present.pointer, after=present.pointer, held=None, commit=None,
            tags=(), checks=(), diff="", notes=tuple(notes), seconds=time.perf_counter() - began,
        )  # fmt: skip
    bad = _entry(where, present.pointer, goal.pointer, why)
    held = entries if bad is None else quarantine.add(entries, bad)
    ran = Asked()
    after, made = _ask(ran, where, name, goal, present, entries, held, options)
    notes += [*_also(where, name, bad), *change.untagged(where, name, after)]
    if local := overlays.unreachable(after):
        notes.append(local)
    rolled = RolledBack(
        environment=name, done="planned", before=present.pointer, after=after, held=bad, commit=None,
        tags=tuple(tag.name for tag in made.tags), checks=tuple(ran.checks), notes=tuple(notes),
        diff=change.diff(present.files, made.files), seconds=time.perf_counter() - began,
    )  # fmt: skip
    return _commit(where, (rolled, made), options.dry_run)


def _commit(where: Site, planned: tuple[RolledBack, Change], dry_run: bool) -> RolledBack:
    rolled, made = planned
    if dry_run or rolled.done == "already":
        return rolled
    if refused := refusal(rolled):
        raise refused
    began = time.perf_counter()
    commit = where.ledger.commit(where.tip, made)
    done = "moved" if rolled.done == "planned" else rolled.done
    return rolled.model_copy(update={
        "done": done, "commit": commit, "tags": where.made(made), "notes": (*rolled.notes, *where.ledger.untagged),
        "seconds": rolled.seconds + time.perf_counter() - began,
    })  # fmt: skip


def _emptied(
    where: Site, name: str, present: Present, entries: Entries, why: str, notes: list[str], began: float
) -> tuple[RolledBack, Change]:
    """The environment is as before its first promotion; what it ran is held back. Nothing is asked: nothing runs."""
    bad = _entry(where, present.pointer, None, why)
    made = change.empty(where, name, present, why, entries if bad is None else quarantine.add(entries, bad))
    done: Literal["planned", "already", "mended"] = "planned"
    if environment.folder(name) / layout.POINTER in present.files:
        notes = [*notes, *_also(where, name, bad), *change.untagged(where, name, None)]
    else:
        left = any(present.files.get(path) not in (None, data) for path, data in made.files.items())
        done = "mended" if left else "already"
        made = made._replace(message=f"Write {name} again\n\nIt runs nothing: {why}\n", tags=())
    rolled = RolledBack(
        environment=name, done=done, before=present.pointer, after=None, held=bad, commit=None,
        tags=tuple(tag.name for tag in made.tags), checks=(), notes=tuple(notes),
        diff="" if done == "already" else change.diff(present.files, made.files), seconds=time.perf_counter() - began,
    )  # fmt: skip
    return rolled, made


def _also(where: Site, name: str, bad: Entry | None) -> list[str]:
    """Other environments that run what is held back from now on."""
    others = [other for other in where.promote.ordered if bad and other != name]
    return [
        f"{other} runs {bad.version} too"
        for other in others
        if bad and (its := where.runs(other)) and its.digest == bad.image
    ]


def _present(where: Site, name: str) -> tuple[Present, list[str]]:
    """What runs. A pointer that cannot be read is what a rollback is for."""
    try:
        return environment.look(where, name), []
    except EvidenceRefused as refused:
        return Present(None, where.ledger.files(where.tip, layout.ENVIRONMENTS)), [refused.what]


def _line(where: Site, name: str) -> list[Move]:
    """The moves that ran, the last first: none that a side branch made and took back changed what the branch has."""
    found: list[Move] = []
    for made in reversed(where.ledger.moves(where.tip, name)):
        if made.ran and (not found or made.after is None or made.after != found[-1].after):
            found.append(made)
    return found[::-1]


def _ran(moves: Iterable[Move]) -> list[_Goal]:
    """Everything that they moved to, each with the first of them that did."""
    found: dict[str, _Goal] = {}
    for made in moves:
        if made.after:
            found.setdefault(made.after.digest, _Goal(made.after, made))
    return list(found.values())


def _last(where: Site, name: str, present: Present, entries: Entries, why: str) -> _Goal:
    """The last that ran before and is not held back. A second rollback is one that is named.

    What a hand moved there is gone back to by name alone: no promotion asked anything of it. Whoever runs the same
    again, as after a crash, must not go back twice.
    """
    moves = _line(where, name)
    if not moves:
        raise PromotionRefused(f"{name} runs nothing", f"`lockstep promote {name}`")
    last = moves[0]
    if last.kind == "rollback" and last.after is None and not last.problem:
        raise PromotionRefused(
            f"{name} runs nothing: it was emptied by {last.by}: {last.why}",
            f"`lockstep promote {name}`, or name the release to go back to: --to",
        )
    if present.pointer and last.kind == "rollback" and last.after == present.pointer:
        if redact(last.why, _LONGEST) == why:
            return _Goal(present.pointer, last)
        gone = last.before.version if last.before else "what could not be read"
        raise PromotionRefused(
            f"{name} was rolled back from {gone} already, by {last.by}: {last.why}",
            "name the release to go further back to: --to",
        )
    here = present.pointer.digest if present.pointer else None
    every = [goal for goal in _ran(moves) if goal.pointer.digest != here]
    others = [goal for goal in _ran(made for made in moves if made.kind != "other") if goal.pointer.digest != here]
    free = [goal for goal in others if quarantine.find(entries, goal.pointer.digest, goal.pointer.model) is None]
    if not free:
        which = "all that ran there is in quarantine" if others else "nothing else ran there"
        if hand := next((goal for goal in every if goal.pointer not in {other.pointer for other in others}), None):
            which += f", but for what was moved by hand, such as {hand.pointer.version}, by {hand.move.by}"
        todo = f"`lockstep promote {name}` another{', or name one: --to' if hand else ''}; to run nothing instead: "
        todo += f"`lockstep rollback {name} --to {NONE} --why …`"
        raise NothingElse(f"{name}: there is nothing to go back to: {which}", todo)
    return free[0]


def _named(where: Site, name: str, to: str) -> _Goal:
    line = _line(where, name)
    ran = _ran([*(made for made in line if made.kind != "other"), *line])
    for goal in ran:
        if to.rpartition("@")[2] == goal.pointer.digest or to == goal.pointer.version:
            return goal
    shown = ", ".join(f"{goal.pointer.version} ({goal.pointer.digest[:19]}…)" for goal in ran[:10]) or "nothing"
    raise PromotionRefused(f"{redact(to, 100)}: never ran in {name}", f"name what did, or promote it: {shown}")


def _entry(where: Site, bad: Pointer | None, good: Pointer | None, why: str) -> Entry | None:
    """What is held back from now on. Where the good image has the same weights, they are not what is wrong."""
    if bad is None:
        return None
    model = None if good and bad.model == good.model else bad.model
    return Entry(image=bad.digest, model=model, version=bad.version, by=site.whoami(where.root), why=why)


def _ask(
    ran: Asked, where: Site, name: str, goal: _Goal, present: Present, before: Entries, held: Entries, options: Options
) -> tuple[Pointer, Change]:
    after, made, found = goal.pointer, Change({}, ""), None
    named = reference.parse(after.image)
    store = image.open_place(where.root, named)
    with ran.asking("quarantine") as answer:
        if entry := quarantine.find(before, after.digest, after.model):
            answer.lacks(
                f"{after.version} is in quarantine, by {entry.by}: {entry.why}",
                f"`lockstep quarantine --release {entry.name} --why …`, or go --to another",
            )
    with ran.asking("image") as answer:
        if options.check_image:
            there = image.there(store, after.digest)
            answer.note = f"{len(there.manifest.layers)} layers in {store.name}"
        else:
            answer.note = "not asked for"
    with ran.asking("evidence") as answer:
        found = _evidence(where, name, goal, store, answer)
        after = after.model_copy(update={"evidence": found.digest})
    if options.ask:
        with ran.asking("serving") as answer:
            answer.note = ask_image.ask(where.root, store, named, _there(found).statement.predicate)
    with ran.asking("version") as answer:
        made = change.move(where, name, "rollback", present, after, _there(found), options.why, held)
        answer.note = after.version
    with ran.asking("edits") as answer:
        last, built = _last_move(where, name), _there(found).statement.predicate.image
        environment.unedited_since(where, name, present, after, built, last, answer)
    return after, made


def _there(found: Released | None) -> Released:
    if found is None:
        raise Unavailable("no statement holds")
    return found


def _last_move(where: Site, name: str) -> str | None:
    """The commit of the last move that Lockstep made."""
    return next((made.commit for made in _line(where, name) if made.kind != "other"), None)


def _evidence(where: Site, name: str, goal: _Goal, store: Store, answer: Answer) -> Released:
    """The statement that it was moved on, signed by one who may sign today; else another one beside the image.

    A key that was taken from its owner counts no more, for what it signed before too: that is why it was taken.
    """
    pointer, path = goal.pointer, past.path(name)
    data = where.ledger.read(goal.move.commit, path)
    if data is None or digest.of_bytes(data) != pointer.evidence:
        raise EvidenceRefused(
            f"{path} at {goal.move.commit[:12]}: is not what the pointer there names", "go --to another release"
        )
    try:
        found = released.check(data, pointer.digest, where.signers, f"the evidence of {pointer.version}")
    except EvidenceRefused as refused:
        found = _signed_since(where, store, pointer, refused)
        answer.note = f"signed again by {found.signer}"
    else:
        answer.note = f"{found.digest}, signed by {found.signer}"
    if not _is_of(found, pointer):
        raise EvidenceRefused(
            f"the evidence of {pointer.version} is about another model or commit", "go --to another release"
        )
    return found


def _signed_since(where: Site, store: Store, pointer: Pointer, refused: EvidenceRefused) -> Released:
    try:
        again = released.search(store, pointer.digest, where.signers).found
    except (EvidenceRefused, RegistryRefused):
        again = ()
    fitting = [one for one in again if _is_of(one, pointer)]
    if not fitting:
        raise EvidenceRefused(
            refused.what,
            f"go --to another release, or sign this one again in a checkout of {pointer.commit[:12]}: `lockstep sign`",
        )
    return fitting[0]


def _is_of(found: Released, pointer: Pointer) -> bool:
    release = found.statement.predicate
    return (release.image.image, release.image.model, release.commit) == (
        pointer.digest, pointer.model, pointer.commit,
    )  # fmt: skip
