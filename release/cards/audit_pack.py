"""Collects the audit pack of a release: the files that its record, its ledger and its image have, and an index of them.

Nothing is computed anew and no gate is asked. No row, prompt, answer or captured request is in a pack.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from checks.formats import quarantine
from checks.formats.statement import (
    APPROVAL,
    GATE_EXCEPTION,
    HARVEST,
    PREDICATE,
    SEALED_LOOK,
    VERIFICATION,
    Release,
)
from checks.process import distribution
from checks.process.errors import EvidenceRefused
from checks.storage import layout
from release.adapters.registry import reference
from release.cards import audit_parts, card_record, released, writing
from release.cards.audit_index import INDEX, AuditIndex, LeftOut
from release.cards.audit_questions import Part
from release.evidence import (
    attached_statements,
    freshness,
    harvest_reviews,
    slsa,
    statement,
    trust,
    verification,
)
from release.image import stores
from release.ledger import Ledger, Move
from release.ledger.moves import recorded
from release.pages import templates
from release.promotion import quarantined
from release.promotion.environment import approvals_folder, emergency_folder
from release.record.records import Records

OVERVIEW, COMMANDS, BILL = "AUDIT.md", "verify.sh", "bom.cdx.json"
_CARDS: dict[str, Part] = {
    writing.MODEL: "model card", writing.DATA: "data card", writing.REPORT: "report", writing.CROISSANT: "catalogue",
}  # fmt: skip
_RECORD: dict[Path, Part] = {
    layout.PARAMS: "parameters", layout.LOCK: "pipeline", layout.VERDICT: "verdict", layout.FETCH_REPORT: "fetch",
    layout.PREPARE_REPORT: "prepare", layout.TRAIN_REPORT: "train", layout.EVALUATION: "evaluation",
    layout.SUITES_REPORT: "suites", layout.LOOKS: "looks",
}  # fmt: skip
_QUOTES = (
    "it can quote rows; the signed statement names its digest, and the data card has its figures"
)


class _Facts(NamedTuple):
    """A release in the ledger at the commit ``tip``. ``signed``: what its statement says."""

    records: Records
    ledger: Ledger
    tip: str
    environments: tuple[str, ...]
    release: released.Released
    signed: Release

    @property
    def at(self) -> datetime | None:
        """When the ledger recorded it, for signers who are retired since."""
        return recorded(self.release.moves, self.release.pointer)

    @property
    def until(self) -> datetime | None:
        """When the last environment left it; None while one runs it."""
        ends = [move.until for move in self.release.moves]
        return None if None in ends else max(filter(None, ends))


def collect(root: Path, name: str) -> tuple[AuditIndex, Mapping[str, bytes]]:
    """Collect the pack of the release that ``name`` means: an environment, a version, or the digest of an image.

    Return its index, and its files by path in the order of the archive; ``INDEX`` is one of them.

    Raises EvidenceRefused if there is no such release, or if a part of its evidence is missing, is another one, is not
    signed by a signer who counts, or is older than what this version reads; RegistryRefused if its image is not in its
    store; RemoteRefused if the ledger's remote does not answer; MachineRefused if Sigstore cannot be used.
    """
    records = Records(root)
    promote = records.work_tree.params.promote
    ledger = Ledger.open(root, promote)
    tip, environments = freshness.tip(root, ledger, promote), promote.ordered
    release = released.at(ledger, tip, environments, name)
    facts = _Facts(records, ledger, tip, environments, release, released.stated(records, release))
    parts = audit_parts.Parts(trust.known(root))
    _add_statements(parts, facts)
    _add_image(parts, facts)
    _add_record(parts, facts)
    moves = [*_moves(facts)]
    quarantined_then = quarantined.here(root, ledger, tip, promote).entries
    entries = tuple(
        entry for entry in quarantined_then if any(_is_about(entry, move) for move in moves)
    )
    plain = _json([move.model_dump(mode="json") for move in moves])
    parts.add("moves", "ledger/moves.json", plain, "git")
    parts.add("quarantine", "ledger/quarantine.yaml", quarantine.write(entries), "git")
    script = resources.files("release.cards").joinpath(COMMANDS).read_bytes()
    parts.add("commands", COMMANDS, script, "pack")
    return _indexed(parts, facts, moves, entries)


def _add_statements(parts: audit_parts.Parts, facts: _Facts) -> None:
    """Add the signed statements about the release; ``_add_image`` adds its provenance."""
    known, signed, release = tuple(parts.signers.values()), facts.signed, facts.release
    signer = released.signed_by(release, known)
    parts.sign("statement", "statements/release.json", release.evidence.data, signer, PREDICATE)
    if signed.verification is not None:
        verifier = verification.check_verifier(signed, known, offline=True, at=facts.at)
        parts.sign(
            "verification", "statements/verification.json", signed.verification.encode(), verifier, VERIFICATION,
            audit_parts.IMAGE if signed.serving.image else None,
        )  # fmt: skip
    for environment, path, data, at in _approvals(facts):
        # The people who sign an exception approve the move, too.
        excepts = path.parent == emergency_folder(environment, release.pointer.digest)
        try:
            approval = trust.verify(data, known, "approve", str(path), offline=True, at=at)
            parse = statement.parse_exception if excepts else statement.parse_approval
            parse(approval.payload, environment, release.pointer.digest, str(path))
        except EvidenceRefused as refused:
            parts.left_out.append(LeftOut(what=str(path), why=refused.what))
            continue
        number = len(parts.paths.get("approvals", ())) + 1
        name = f"statements/approvals/{environment}-{number}-{approval.signer}.json"
        kind = GATE_EXCEPTION if excepts else APPROVAL
        parts.sign("approvals", name, data, approval.signer, kind)
    looks = facts.ledger.regular(facts.tip, layout.SEALED_LOOKS)
    model = release.pointer.model
    for path, data in sorted(looks.items()):
        if path.stem != model.removeprefix("sha256:"):
            continue
        try:
            look = trust.verify(data, known, "sealed", str(path), offline=True, at=facts.at)
            statement.parse_sealed_look(look.payload, model, str(path))
        except EvidenceRefused as refused:
            parts.left_out.append(LeftOut(what=str(path), why=refused.what))
            continue
        name = f"statements/sealed/{path.parent.name}.json"
        parts.sign("sealed looks", name, data, look.signer, SEALED_LOOK, None)
    _add_harvests(parts, facts)


def _add_harvests(parts: audit_parts.Parts, facts: _Facts) -> None:
    """Add the signed review of each source of captured requests. It has counts and digests, and no request."""
    known, commit = tuple(parts.signers.values()), facts.records.at(facts.release.pointer.commit)
    sources = harvest_reviews.reviewed(commit.params(f"{layout.PARAMS} of the record").data)
    if not sources:
        parts.paths["harvest reviews"] = []  # A release without captured requests lacks none.
    for name, source in sources.items():
        path = harvest_reviews.signed_path(Path(f"{source.review}"))
        data = commit.data(path)
        try:
            signer = harvest_reviews.signer(data or b"", path, f"{source.sha256}", known, facts.at)
        except EvidenceRefused as refused:
            parts.left_out.append(LeftOut(what=str(path), why=refused.what))
            continue
        parts.sign(
            "harvest reviews",
            f"statements/harvests/{name}.json",
            data or b"",
            signer,
            HARVEST,
            None,
        )


def _approvals(facts: _Facts) -> Iterator[tuple[str, Path, bytes, datetime | None]]:
    """Yield each approval of the image once: of which environment, its file, and when a move relied on it."""
    seen = set[bytes]()
    for environment in facts.environments:
        folder = approvals_folder(environment, facts.release.pointer.digest)
        moves = [move for move in facts.release.moves[::-1] if move.environment == environment]
        relied = [(move.commit, None if move.doubt else move.at) for move in moves]
        for commit, at in (*relied, (facts.tip, None)):
            for path, data in sorted(facts.ledger.regular(commit, folder).items()):
                if data not in seen:
                    seen.add(data)
                    yield environment, path, data, at


def _add_image(parts: audit_parts.Parts, facts: _Facts) -> None:
    """Add the manifest of the image, and what is attached to it."""
    pointer, signed = facts.release.pointer, facts.signed
    store = stores.open_store(reference.parse(pointer.image), facts.records.root)
    parts.add("image", audit_parts.IMAGE, store.document(pointer.digest).data, "statement")
    bill = attached_statements.bill_of_materials(store, pointer.digest, signed.sbom)
    if bill is None:
        raise EvidenceRefused(
            f"{pointer.image}: the bill of materials {signed.sbom} that the signed statement names is not attached",
            f"attach it again: `lockstep sign` in a checkout of {pointer.commit[:12]}",
        )
    parts.add("bill of materials", BILL, bill, "statement")
    known = tuple(parts.signers.values())
    if provenance := attached_statements.provenance(store, pointer.digest, known, facts.at):
        data, signer = provenance
        parts.sign("provenance", "statements/provenance.json", data, signer, slsa.PREDICATE)


def _add_record(parts: audit_parts.Parts, facts: _Facts) -> None:
    """Add the cards and the files of the record, and say whether energy was measured."""
    moves = released.moves(facts.ledger, facts.tip, facts.environments)
    cards = card_record.of_release(facts.records, facts.release, moves)
    for name, text in writing.render(cards).items():
        parts.add(_CARDS[name], f"cards/{name}", text.encode(), "pack")
    commit = facts.records.at(facts.release.pointer.commit)
    for path in sorted(released.record_files(facts.signed)):
        data = commit.data(path)
        assert data is not None  # the statement names its digest, which was compared
        if path == layout.DATA_REPORT:
            parts.left_out.append(LeftOut(what=str(path), why=_QUOTES))
        else:
            parts.add(_RECORD.get(path, "other reports"), f"record/{path}", data, "statement")
    measured, throughput = commit.data(layout.TRAIN_MEASURED), facts.signed.serving.throughput
    if cards.took and measured:
        place = f"record/{layout.TRAIN_MEASURED}"
        parts.add("training time", place, measured, "git")
        if cards.took.energy and cards.took.energy.counted:
            parts.paths["training energy"] = [place]
    if throughput and throughput.energy.counted:
        parts.paths["serving energy"] = parts.paths["statement"]


def _moves(facts: _Facts) -> Iterator[Move]:
    """Yield the moves of all environments while one ran the release, with those that began and ended it."""
    places = facts.ledger.places(facts.tip)
    moves = released.moves(facts.ledger, facts.tip, facts.environments)[::-1]
    ends = [
        next(
            (
                places[later.landed]
                for later in moves
                if later.environment == move.environment and later.number > move.number
            ),
            math.inf,  # It still runs.
        )
        for move in facts.release.moves
    ]
    for move in moves:
        if places[facts.release.first.landed] <= places[move.landed] <= max(ends):
            yield move


def _is_about(entry: quarantine.Entry, move: Move) -> bool:
    return any(
        quarantine.find((entry,), pointer.digest, pointer.model)
        for pointer in (move.before, move.after)
        if pointer
    )


def _indexed(
    parts: audit_parts.Parts,
    facts: _Facts,
    moves: Sequence[Move],
    entries: Sequence[quarantine.Entry],
) -> tuple[AuditIndex, Mapping[str, bytes]]:
    pointer = facts.release.pointer
    index = AuditIndex(
        name=facts.release.evidence.statement.subject[0].name, version=pointer.version, image=pointer.image,
        model=pointer.model, record_commit=pointer.commit, branch=facts.ledger.branch, commit=facts.tip,
        signers_commit=facts.records.target()[1], since=facts.release.first.at, until=facts.until,
        tool=f"lockstep {distribution.version()}", files=tuple(parts.listed), statements=tuple(parts.statements),
        left_out=tuple(parts.left_out), answers=parts.answers(),
    )  # fmt: skip
    values = {"index": index, "moves": moves, "entries": entries}
    text = templates.render("release.cards", "audit.md.jinja", "audit", values)
    overview = f"{text}\n".encode()
    listed = audit_parts.packed(OVERVIEW, overview, "all of the index for a reader", "pack")
    index = index.model_copy(update={"files": (listed, *index.files)})
    data = {OVERVIEW: overview, INDEX: _json(index.model_dump(mode="json"))}
    return index, data | parts.files


def _json(value: Any) -> bytes:
    return f"{json.dumps(value, indent=2, ensure_ascii=False)}\n".encode()
