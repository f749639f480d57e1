"""The checks of a promotion, in their order. Each records its failures; a refusal inside is one, too.

A check is skipped if a part that it needs was not found. The check that failed to find the part has the failure.

The evidence is a signed statement. Each signer attaches an envelope of their own to the image. Envelopes count
together if their payloads are the same bytes: one statement of one image. Only signers who may release today count, so
a retired one does not.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial

from checks.formats.statement import Release
from checks.process.errors import EvidenceRefused
from checks.storage import layout
from release.evidence import attached_statements, verification, weights
from release.evidence.attached_statements import Released
from release.ledger import Change
from release.overlay import environment_file, overlays, scaling
from release.promotion import (
    approvals,
    checklist,
    compared_server,
    context,
    edit_checks,
    emergency,
    environment,
    image_checks,
    move_commit,
    neighbours,
    record_checks,
    requirements,
    sealed,
    serving_checks,
)
from release.promotion.checklist import About, Check, CheckResult
from release.promotion.environment import Promotion


def run(promotion: Promotion) -> tuple[Check, ...]:
    """Run every check. Raises only MachineRefused, RemoteRefused and Outrun; any other refusal is a failure."""
    return tuple(checklist.run(about, partial(check, promotion)) for about, check in CHECKS.items())


def written(promotion: Promotion) -> Change:
    """Return what a promotion would write: nothing, if what decides it cannot be found."""
    deciding: tuple[About, ...] = ("environment", "image", "evidence", "record", "version")
    for about in deciding:
        checklist.run(about, partial(CHECKS[about], promotion))
    return promotion.change


def notes(promotion: Promotion) -> list[str]:
    """Return a line for each thing to know beside the checks that were run."""
    after = promotion.after.value
    lines = [*promotion.others]
    if after and (local := overlays.unreachable(after)):
        lines.append(local)
    lines += edit_checks.gap(promotion)
    if promotion.change.message:
        lines += move_commit.untagged(promotion.context, promotion.environment, after)
    return lines + _handed_to_a_scaler(promotion)


def _handed_to_a_scaler(promotion: Promotion) -> list[str]:
    """Return what to do before the cluster applies files with a new scaler; empty if it is as at the last move."""
    context = promotion.context
    environment = promotion.environment
    files = promotion.present.files
    if promotion.present.pointer is None or not scaling.scaled(environment, files):
        return []
    last = context.ledger.moves(context.tip, environment)[0].landed
    if scaling.scaled(environment, context.ledger.files(last, layout.ENVIRONMENTS)):
        return []
    namespace = environment_file.namespace(environment, files)
    warning = (
        f"since the last move a scaler sets the number of servers of {environment}. If the cluster has not applied "
        f"that yet, hand the number over first, else it falls to 1 ({scaling.PAGE}): "
        f"{scaling.hand_over(str(namespace))}"
    )
    return [warning]


def _environment(promotion: Promotion, result: CheckResult) -> None:
    promotion.present = environment.look(promotion.context, promotion.environment)
    environment.intact(promotion.context, promotion.environment, promotion.present, result)


def _quarantine(promotion: Promotion, result: CheckResult) -> None:
    statement = promotion.released.value
    image = statement.statement.predicate.image if statement else None
    model = image.model if image else None
    requirements.held_back(promotion.context, promotion.digest, model, result, image)


def _emergency(promotion: Promotion, result: CheckResult) -> None:
    if not promotion.emergency:
        result.note = "none asked for"
        return
    exemption = emergency.find(promotion, promotion.release())
    promotion.excepted = exemption.gates
    promotion.why = result.note = exemption.line


def _record(promotion: Promotion, result: CheckResult) -> None:
    release = promotion.release()
    promotion.recorded.value = record_checks.find(promotion.context, release, promotion.excepted)
    result.note = f"commit {release.commit[:12]} of {promotion.context.target}"


def _sealed(promotion: Promotion, result: CheckResult) -> None:
    if promotion.rule.sealed:
        sealed.passed(promotion.context, promotion.release().image.model, result)
    else:
        result.note = "not asked here"


def _served(promotion: Promotion, release: Release, result: CheckResult) -> None:
    serving_checks.served(promotion, release, result)
    compared_server.compared(promotion, release, result)
    neighbours.compared(promotion, release, result)


def _layers(promotion: Promotion, result: CheckResult) -> None:
    image_checks.composed(promotion, result)
    requirements.based(promotion.context, promotion.release().image, result)


def _version(promotion: Promotion, result: CheckResult) -> None:
    promotion.recorded.get()
    statement = promotion.released.get()
    release = statement.statement.predicate
    after = move_commit.point(
        promotion.context, str(promotion.reference), statement, promotion.version, promotion.bump
    )
    how = verification.served_how(release, promotion.environment, promotion.present.files)
    promotion.after.value = after.model_copy(update={"verified": how})
    why = promotion.why or context.subject(promotion.context.root, release.commit)
    move_commit.writable(promotion, "promote", why, result)


def _evidence(promotion: Promotion, result: CheckResult) -> None:
    """Check that a valid signed statement is about exactly this image, and that enough signers signed it."""
    store = promotion.image.get().store
    search = attached_statements.search(store, promotion.digest, promotion.context.signers)
    # The weights' signature has the same media type as a signed statement; it is not a failed statement.
    others = tuple(line for line in search.others if weights.PREDICATE not in line)
    if not search.releases:
        first = f": {others[0]}" if others else " or is there"
        raise EvidenceRefused(
            f"{store.name}@{promotion.digest}: no signed statement holds{first}",
            "sign the release: `lockstep sign`",
            others[1:],
        )
    statement = _chosen(promotion, search.releases)
    promotion.released.value = statement
    promotion.others = others
    promotion.signed_by = _signers(statement, search.releases)
    by = ", ".join(promotion.signed_by) if promotion.rule.signatures > 1 else statement.signer
    result.note = f"{statement.digest}, signed by {by}"
    _enough(promotion, result)


def _chosen(promotion: Promotion, statements: Iterable[Released]) -> Released:
    """The statement to rely on: the one that moved the previous environment, else one that matches the record.

    One that enough signers signed comes before both. If none matches, the first; the checks then report what is wrong
    with it.
    """
    context = promotion.context
    rule = promotion.rule
    before = context.ledger.pointer(context.tip, rule.after) if rule.after else None
    ordered = sorted(
        statements,
        key=lambda one: (
            len(_signers(one, statements)) < rule.signatures,
            before is None or one.digest != before.evidence,
            one.digest,
        ),
    )
    matching = (one for one in ordered if len(ordered) > 1 and _matches(promotion, one))
    return next(matching, ordered[0])


def _matches(promotion: Promotion, statement: Released) -> bool:
    release = statement.statement.predicate

    def find(_: CheckResult) -> None:
        excepted = emergency.find(promotion, release).gates if promotion.emergency else ()
        record_checks.find(promotion.context, release, excepted)

    recorded = checklist.run("record", find)
    serving = checklist.run("serving", partial(_served, promotion, release))
    return not recorded.failures and not serving.failures


def _signers(statement: Released, statements: Iterable[Released]) -> tuple[str, ...]:
    """The names of who signed the same statement, each once."""
    return tuple(sorted({one.signer for one in statements if one.payload == statement.payload}))


def _enough(promotion: Promotion, result: CheckResult) -> None:
    """Check that enough signers signed. If not, evidence beside the image that does not count is reported, too."""
    required = promotion.rule.signatures
    signed = promotion.signed_by
    if len(signed) >= required:
        return
    may = [
        signer.name
        for signer in promotion.context.signers
        if "release" in signer.may and not signer.retired() and signer.name not in signed
    ]
    can = len(signed) + len(may)
    todo = f"`lockstep sign` of the same record and reports by {' or '.join(may)}"
    if can < required:
        todo = f"only {can} may release: let code owners add a signer to {layout.SIGNERS} (`lockstep keys new`)"
    result.fail(
        f"its statement has {len(signed)} of {required} signatures ({', '.join(signed)})", todo
    )
    result.fail_each(promotion.others, "it does not count")


CHECKS: Mapping[About, Callable[[Promotion, CheckResult], None]] = {
    "environment": _environment,
    "previous": requirements.previous,
    "image": lambda promotion, result: image_checks.complete(
        promotion, image_checks.open_place(promotion.context.root, promotion.reference), result
    ),
    "evidence": _evidence,
    "quarantine": _quarantine,
    "emergency": _emergency,
    "record": _record,
    "verdict": record_checks.verdict_holds,
    "policy": record_checks.policy,
    "sealed": _sealed,
    "serving": lambda promotion, result: _served(promotion, promotion.release(), result),
    "weights": image_checks.held,
    "layers": _layers,
    "version": _version,
    "edits": edit_checks.unedited,
    "approvals": approvals.enough,
}
