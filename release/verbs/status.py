"""status: what runs in each environment, since when and by whom, what contradicts, and what could be promoted next.

A contradiction ends the command with an exit code of its own. Only git is read, so that it answers at once; `lockstep
reconcile` checks the mirrors outside git.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from checks.config.params import ReleaseParams
from checks.config.release_params import Environment
from checks.formats import quarantine
from checks.formats.pointer import Pointer
from checks.formats.serving import ImageReport
from checks.formats.verdict import Verdict
from checks.process.errors import Contradicted, EvidenceRefused, MachineRefused, Refusal
from checks.records.rows import Record
from checks.storage import layout
from release.cost import recorded
from release.cost.recorded import Took
from release.evidence import trust
from release.ledger import Kind, Ledger, Move, past
from release.mirrors import desired, tags, verified
from release.mirrors.desired import Desired
from release.mirrors.types import Finding
from release.promotion import held as quarantined
from release.record.records import Records

_R = TypeVar("_R", Verdict, ImageReport)
_SIGNED, _WANTED = "evidence", "signed by one who may"
_LARGEST = 4 << 20  # bytes of a report here


class Runs(Record):
    """The release of an environment. ``verdict``: the status in its commit's record, or why there is none.

    ``quarantined``: why it is in quarantine, if it is. ``otherwise``: how its verification differs from how it is
    served. ``took``: time, energy and money of its training and its requests.
    """

    pointer: Pointer
    since: datetime
    by: str
    why: str
    kind: Kind
    move: int
    doubt: str
    verdict: str
    quarantined: str | None
    otherwise: tuple[str, ...] = ()
    took: Took | None = None


class Next(Record):
    """The next release to promote, from the previous environment or the work tree's record. ``waits``: for what."""

    version: str | None
    model: str
    image: str | None
    source: str
    waits: tuple[str, ...]


class State(Record):
    """One environment; ``runs`` is None if it runs nothing."""

    environment: str
    runs: Runs | None
    drift: tuple[Finding, ...]
    next: Next | None

    @property
    def wrong(self) -> list[str]:
        """The contradictions, one line each."""
        running = self.runs
        problems = (
            [f"in quarantine: {running.quarantined}"]
            if running and running.quarantined is not None
            else []
        )
        doubt = [running.doubt] if running and running.doubt else []
        return [*problems, *doubt, *(f"{drift.what}: {drift.mirror}" for drift in self.drift)]


class Status(Record):
    """All environments as of the commit ``tip`` of ``branch``.

    ``tags``: those that contradict the moves. ``quarantine``: where the file contradicts its history.
    ``contradictions``: all that is wrong with environments, quarantine and tags, one line each.
    """

    branch: str
    tip: str
    environments: tuple[State, ...]
    quarantine: tuple[str, ...]
    tags: tuple[str, ...]
    contradictions: tuple[str, ...]


def status(root: Path) -> Status:
    """Return what the environments run.

    Raises RemoteRefused if the remote does not answer, EvidenceRefused if the history is not valid.
    """
    records, ledger, tip, environments = desired.read(root)
    params = records.work_tree.release_params
    names = params.promote.ordered
    known = quarantined.here(root, ledger, tip, params.promote)
    entries_held = known.entries
    moves = {name: ledger.moves(tip, name) for name in names}
    signed = _signed(root, environments, ledger, tip)
    seen = verified.look(root, ledger, tip, params.promote, environments)
    verdicts = _verdicts(
        records,
        [environment.pointer for environment in environments.values() if environment.pointer],
    )
    took = {name: _took(records, params, environment) for name, environment in environments.items()}
    runs = {
        name: _runs(
            environments[name],
            moves[name],
            entries_held,
            verdicts,
            seen[name].otherwise,
            took[name],
        )
        for name in names
    }
    states = [
        State(
            environment=name, runs=runs[name],
            drift=(*environments[name].findings, *signed[name], *seen[name].findings, *_last(name, moves[name])),
            next=_next(records, params, name, runs, entries_held),
        )
        for name in names
    ]  # fmt: skip
    differing = tags.lines(ledger, tip, params.serve.name, names)
    wrong = [f"{what}; {todo}" for what, todo in quarantined.contradictions(known)]
    every = [f"{state.environment}: {line}" for state in states for line in state.wrong]
    return Status(
        branch=ledger.shown, tip=tip, environments=tuple(states), quarantine=tuple(wrong), tags=tuple(differing),
        contradictions=(*every, *wrong, *differing),
    )  # fmt: skip


def refusal(found: Status) -> Refusal | None:
    """The refusal if there is any contradiction; None otherwise."""
    if not found.contradictions:
        return None
    count = len(found.contradictions)
    what = f"{found.branch}: {count} contradiction{'s' * (count != 1)}, the first: {found.contradictions[0]}"
    return Contradicted(
        what,
        "see docs/reference/promotion.md for what each means, and `lockstep history` for who caused it",
    )


def _runs(
    found: Desired,
    moves: tuple[Move, ...],
    held: quarantine.Entries,
    verdicts: dict[Pointer, str],
    otherwise: tuple[str, ...],
    took: Took | None,
) -> Runs | None:
    pointer = found.pointer
    if pointer is None or not moves:
        return None
    last, entry = moves[0], quarantine.find(held, pointer.digest, pointer.model)
    return Runs(
        pointer=pointer, since=last.at, by=last.by, why=last.why, kind=last.kind, move=last.number, doubt=last.doubt,
        verdict=verdicts[pointer], quarantined=None if entry is None else entry.why, otherwise=otherwise,
        took=took,
    )  # fmt: skip


def _took(records: Records, params: ReleaseParams, found: Desired) -> Took | None:
    if found.pointer is None:
        return None
    requests = found.envelope.statement.predicate.serving.throughput if found.envelope else None
    return recorded.took(records, params, found.pointer.commit, requests)


def _signed(
    root: Path, found: Mapping[str, Desired], ledger: Ledger, tip: str
) -> dict[str, list[Finding]]:
    """Evidence that no signer of the target branch, as this clone has it, signed, now or when it moved. No network."""
    findings: dict[str, list[Finding]] = {name: [] for name in found}
    signed = {
        name: environment
        for name, environment in found.items()
        if environment.pointer and environment.envelope
    }
    try:
        known = trust.known(root) if signed else ()
    except EvidenceRefused as refused:
        return findings | {
            name: [desired.drift(name, _SIGNED, _WANTED, refused.what)] for name in signed
        }
    for name, environment in signed.items():
        assert environment.pointer is not None
        assert environment.envelope is not None
        path = str(past.path(name))
        try:
            at = ledger.recorded(tip, name, environment.pointer)
            trust.verify(environment.envelope.data, known, "release", path, offline=True, at=at)
        except (EvidenceRefused, MachineRefused) as refused:
            findings[name].append(desired.drift(name, _SIGNED, _WANTED, refused.what))
        if (
            image := environment.envelope.statement.predicate.image.image
        ) != environment.pointer.digest:
            findings[name].append(
                desired.drift(
                    name, _SIGNED, f"about {environment.pointer.digest}", f"is about {image}"
                )
            )
    return findings


def _last(name: str, moves: tuple[Move, ...]) -> list[Finding]:
    """Return what is wrong with the last move, which decides what runs."""
    if not moves or not moves[0].problem or moves[0].after is None:
        return []  # a pointer that cannot be read is a finding already
    return [desired.drift(name, f"move {moves[0].number}", "what its commit did", moves[0].problem)]


def _verdicts(records: Records, pointers: list[Pointer]) -> dict[Pointer, str]:
    """Return what the record of each pointer's commit says, in this clone."""
    return {pointer: _verdict(records, pointer) for pointer in pointers}


def _verdict(records: Records, pointer: Pointer) -> str:
    try:
        verdict = records.at(pointer.commit).report(layout.VERDICT, Verdict)
    except EvidenceRefused:
        verdict = None
    except ValidationError:
        return f"not known: that of commit {pointer.commit[:12]} cannot be read"
    if verdict is None:
        return f"not known: commit {pointer.commit[:12]} is not here, or has none"
    if verdict.model != pointer.model:
        return f"not known: that of commit {pointer.commit[:12]} is about another model"
    return verdict.status


def _next(
    records: Records,
    params: ReleaseParams,
    name: str,
    runs: dict[str, Runs | None],
    held: quarantine.Entries,
) -> Next | None:
    rules, here = params.promote.environments[name], runs[name]
    if rules.after is None:
        return _of_the_record(records, here, held)
    before = runs[rules.after]
    if before is None or (here is not None and here.pointer.image == before.pointer.image):
        return None
    candidate = before.pointer
    waits = (
        *_soak(rules, before),
        *_signatures(rules),
        *_approvals(rules),
        *_held(held, candidate.digest, candidate.model),
    )
    return Next(
        version=candidate.version,
        model=candidate.model,
        image=candidate.digest,
        source=rules.after,
        waits=waits,
    )


def _soak(rules: Environment, before: Runs) -> list[str]:
    if not rules.soak_hours:
        return []
    if before.doubt:
        return [f"it is unclear since when {rules.after} runs it"]
    ends = before.since + timedelta(hours=rules.soak_hours)
    return (
        [f"soaks in {rules.after} until {ends:%Y-%m-%d %H:%M} UTC"]
        if ends > datetime.now(UTC)
        else []
    )


def _signatures(rules: Environment) -> list[str]:
    return [f"takes {rules.signatures} signatures"] if rules.signatures > 1 else []


def _approvals(rules: Environment) -> list[str]:
    return (
        [f"takes {rules.approvals} approval{'s' * (rules.approvals != 1)}"]
        if rules.approvals
        else []
    )


def _held(held: quarantine.Entries, image: str, model: str) -> list[str]:
    entry = quarantine.find(held, image, model)
    return [] if entry is None else [f"in quarantine: {entry.why}"]


def _of_the_record(records: Records, here: Runs | None, held: quarantine.Entries) -> Next | None:
    """The model recorded in the work tree, if it passed and is not what runs. Nothing is hashed again."""
    verdict = _here(records, layout.VERDICT, Verdict)
    if verdict is None or verdict.model is None or verdict.status != "pass":
        return None
    built = _here(records, layout.IMAGE_REPORT, ImageReport)
    image = built.image if built is not None and built.model == verdict.model else None
    if (
        here is not None
        and here.pointer.model == verdict.model
        and image in (None, here.pointer.digest)
    ):
        return None
    waits = [
        *(["`lockstep build`"] if image is None else []),
        *_held(held, image or "", verdict.model),
    ]
    return Next(
        version=None,
        model=verdict.model,
        image=image,
        source="the record in the work tree",
        waits=tuple(waits),
    )


def _here(records: Records, path: Path, kind: type[_R]) -> _R | None:
    """A report in the work tree; None if it is missing or cannot be read, since it decides nothing here."""
    try:
        return records.work_tree.report(path, kind)
    except EvidenceRefused:
        return None
