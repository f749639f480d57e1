"""Says which release an environment runs, since when and by whom, and which one could follow. Checks nothing again."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal

from pydantic import ValidationError

from checks.config.release_params import Environment, ReleaseParams
from checks.formats import quarantine
from checks.formats.pointer import Pointer
from checks.formats.serving import ImageReport
from checks.formats.verdict import Verdict
from checks.process.errors import EvidenceRefused
from checks.records.rows import Record
from checks.storage import layout
from release.cost import training_record
from release.ledger import Kind, Move
from release.ledger.released_pointers import Envelope
from release.record.records import Records

Wait = Literal[
    "build", "soak", "signatures", "approvals", "quarantine", "verification", "render", "room"
]


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
    took: training_record.Took | None = None


def runs(
    records: Records,
    params: ReleaseParams,
    pointer: Pointer,
    envelope: Envelope | None,
    last: Move,
    entries: quarantine.Entries,
    otherwise: tuple[str, ...],
) -> Runs:
    """Return what runs since the move ``last``. ``envelope``: its signed statement, if that can be read."""
    entry = quarantine.find(entries, pointer.digest, pointer.model)
    requests = envelope.statement.predicate.serving.throughput if envelope else None
    return Runs(
        pointer=pointer, since=last.at, by=last.by, why=last.why, kind=last.kind, move=last.number, doubt=last.doubt,
        verdict=_verdict(records, pointer), quarantined=None if entry is None else entry.why, otherwise=otherwise,
        took=training_record.took(records, params, pointer.commit, requests),
    )  # fmt: skip


def _verdict(records: Records, pointer: Pointer) -> str:
    """Return what the record of the pointer's commit says, in this clone."""
    commit = pointer.commit[:12]
    try:
        verdict = records.at(pointer.commit).report(layout.VERDICT, Verdict)
    except EvidenceRefused:
        verdict = None
    except ValidationError:
        return f"not known: that of commit {commit} cannot be read"
    if verdict is None:
        return f"not known: commit {commit} is not here, or has none"
    if verdict.model != pointer.model:
        return f"not known: that of commit {commit} is about another model"
    return verdict.status


class Next(Record):
    """The next release to promote, from the previous environment or the work tree's record. ``waits``: for what."""

    version: str | None
    model: str
    image: str | None
    source: str
    waits: tuple[str, ...]


def following(
    records: Records,
    rules: Environment,
    here: Runs | None,
    before: Runs | None,
    unfit: Sequence[str],
    entries: quarantine.Entries,
) -> tuple[Next, dict[Wait, str]] | None:
    """Return what could follow ``here``, and its waits by what it waits for; None if nothing could.

    That is what the environment ``rules.after`` runs (``before``), or the work tree's record if there is none before.
    ``unfit``: why the rules forbid ``before`` as it was verified.
    """
    if rules.after is None:
        return _of_the_record(records, here, entries)
    if before is None or (here is not None and here.pointer.image == before.pointer.image):
        return None
    pointer = before.pointer
    waits = _waits(rules, before) | _held(entries, pointer.digest, pointer.model)
    if unfit:
        waits["verification"] = f"is not verified as it would serve: {unfit[0]}"
    following = Next(
        version=pointer.version, model=pointer.model, image=pointer.digest, source=rules.after,
        waits=tuple(waits.values()),
    )  # fmt: skip
    return following, waits


def _waits(rules: Environment, before: Runs) -> dict[Wait, str]:
    waits: dict[Wait, str] = {}
    ends = before.since + timedelta(hours=rules.soak_hours)
    if rules.soak_hours and before.doubt:
        waits["soak"] = f"it is unclear since when {rules.after} runs it"
    elif rules.soak_hours and ends > datetime.now(UTC):
        waits["soak"] = f"soaks in {rules.after} until {ends:%Y-%m-%d %H:%M} UTC"
    if rules.signatures > 1:
        waits["signatures"] = f"takes {rules.signatures} signatures"
    if rules.approvals:
        waits["approvals"] = f"takes {rules.approvals} approval{'s' * (rules.approvals != 1)}"
    return waits


def _held(entries: quarantine.Entries, image: str, model: str) -> dict[Wait, str]:
    entry = quarantine.find(entries, image, model)
    return {} if entry is None else {"quarantine": f"in quarantine: {entry.why}"}


def _of_the_record(
    records: Records, here: Runs | None, entries: quarantine.Entries
) -> tuple[Next, dict[Wait, str]] | None:
    """Return the model recorded in the work tree, if it passed and is not what runs. Nothing is hashed again."""
    verdict = records.work_tree.readable(layout.VERDICT, Verdict)
    if verdict is None or verdict.model is None or verdict.status != "pass":
        return None
    built = records.work_tree.readable(layout.IMAGE_REPORT, ImageReport)
    image = built.image if built is not None and built.model == verdict.model else None
    if (
        here is not None
        and here.pointer.model == verdict.model
        and image in (None, here.pointer.digest)
    ):
        return None
    build: dict[Wait, str] = {} if image else {"build": "`lockstep build`"}
    waits = build | _held(entries, image or "", verdict.model)
    source = "the record in the work tree"
    following = Next(
        version=None, model=verdict.model, image=image, source=source, waits=tuple(waits.values())
    )
    return following, waits
