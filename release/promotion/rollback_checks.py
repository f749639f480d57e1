"""The checks of a rollback, in their order. They need a clone and the image's registry: no weights, verdict or data."""

from collections.abc import Callable, Mapping
from functools import partial

from checks.formats import quarantine
from checks.formats.pointer import Pointer
from checks.formats.quarantine import Entries
from checks.process.errors import EvidenceRefused, RegistryRefused
from checks.storage import digest
from release.adapters.registry import reference
from release.evidence import released
from release.evidence.released import Released
from release.ledger import past
from release.promotion import change, checklist, edits, image, rollback_targets
from release.promotion import environment as environments
from release.promotion.case import Case, CasePart
from release.promotion.checklist import About, Check, CheckResult
from release.promotion.environment import EnvironmentState
from release.promotion.rollback_targets import RollbackTarget
from release.promotion.types import PromotionContext
from release.serving import ask_image


class Rollback(Case):
    """The requested rollback to ``target``. ``entries``: the quarantine now; ``held``: the one after the move."""

    def __init__(
        self,
        context: PromotionContext,
        environment: str,
        present: EnvironmentState,
        target: RollbackTarget,
        why: str,
        entries: Entries,
        held: Entries,
    ) -> None:
        super().__init__(context, environment, reference.parse(target.pointer.image))
        self.store = image.open_place(context.root, self.reference)
        self.present = present
        self.target = target
        self.why = why
        self.entries = entries
        self.held = held
        self.released = CasePart[Released]("no statement holds")
        self.after.value = target.pointer


def run(rollback: Rollback, ask: bool) -> tuple[Check, ...]:
    """Run the checks; with ``ask`` also the one that starts the image. Raises as ``promote_checks.run``."""
    return tuple(
        checklist.run(about, partial(check, rollback))
        for about, check in CHECKS.items()
        if ask or check is not _serving
    )


def _quarantine(rollback: Rollback, result: CheckResult) -> None:
    pointer = rollback.target.pointer
    if entry := quarantine.find(rollback.entries, pointer.digest, pointer.model):
        result.fail(
            f"{pointer.version} is in quarantine, by {entry.by}: {entry.why}",
            f"`lockstep quarantine --release {entry.name} --why …`, or choose another with --to",
        )


def _image(rollback: Rollback, result: CheckResult) -> None:
    image.complete(rollback, rollback.store, result)


def _evidence(rollback: Rollback, result: CheckResult) -> None:
    """Find the statement that it was promoted on, if a current signer signed it; else another one beside the image.

    A signer who was removed no longer counts, for old signatures too. One who is retired counts for this release if the
    ledger had it by then.
    """
    context = rollback.context
    environment = rollback.environment
    pointer = rollback.target.pointer
    commit = rollback.target.move.commit
    path = past.path(environment)
    data = context.ledger.read(commit, path)
    if data is None or digest.of_bytes(data) != pointer.evidence:
        raise EvidenceRefused(
            f"{path} at {commit[:12]}: is not what the pointer there names",
            "choose another release with --to",
        )
    try:
        called = f"the evidence of {pointer.version}"
        statement = environments.signed(context, environment, pointer, data, called)
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


def _signed_since(rollback: Rollback, refused: EvidenceRefused) -> Released:
    """Return a statement beside the image that a current signer signed. Raises ``refused``, if there is none."""
    pointer = rollback.target.pointer
    signers = rollback.context.signers
    try:
        statements = released.search(rollback.store, pointer.digest, signers).found
    except (EvidenceRefused, RegistryRefused):
        statements = ()
    for statement in statements:
        if _is_of(statement, pointer):
            return statement
    todo = (
        "choose another release with --to, or sign this one again in a checkout of "
        f"{pointer.commit[:12]}: `lockstep sign`"
    )
    raise EvidenceRefused(refused.what, todo)


def _is_of(statement: Released, pointer: Pointer) -> bool:
    release = statement.statement.predicate
    stated = (release.image.image, release.image.model, release.commit)
    return stated == (pointer.digest, pointer.model, pointer.commit)


def _serving(rollback: Rollback, result: CheckResult) -> None:
    release = rollback.release()
    result.note = ask_image.ask(rollback.context.root, rollback.store, rollback.reference, release)


def _version(rollback: Rollback, result: CheckResult) -> None:
    change.writable(rollback, "rollback", rollback.why, result, rollback.held)


def _edits(rollback: Rollback, result: CheckResult) -> None:
    moves = rollback_targets.moves(rollback.context, rollback.environment)
    last = next((move.commit for move in moves if move.kind != "other"), None)
    edits.unedited_since(rollback, last, result)


CHECKS: Mapping[About, Callable[[Rollback, CheckResult], None]] = {
    "quarantine": _quarantine,
    "image": _image,
    "evidence": _evidence,
    "serving": _serving,
    "version": _version,
    "edits": _edits,
}
