"""The checks of a promotion, in their order. Each records its failures; a refusal inside is one, too.

A check is skipped if a part that it needs was not found. The check that failed to find the part has the failure.
"""

from collections.abc import Callable, Mapping
from functools import partial

from checks.storage import layout
from release.evidence import served as served_as
from release.overlay import environment_file, overlays, scaling
from release.promotion import (
    approvals,
    change,
    checklist,
    contents,
    context,
    edits,
    environment,
    image,
    record,
    requirements,
    sealed,
    served,
    statements,
)
from release.promotion.case import Promotion
from release.promotion.checklist import About, Check, CheckResult


def run(promotion: Promotion) -> tuple[Check, ...]:
    """Run every check. Raises only MachineRefused, RemoteRefused and Outrun; any other refusal is a failure."""
    return tuple(checklist.run(about, partial(check, promotion)) for about, check in CHECKS.items())


def notes(promotion: Promotion) -> list[str]:
    """Return a line for each thing to know beside the checks that were run."""
    context = promotion.context
    environment = promotion.environment
    after = promotion.after.value
    lines = [*promotion.others]
    if after and (local := overlays.unreachable(after)):
        lines.append(local)
    if promotion.change.message:
        lines += change.untagged(context, environment, after)
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


def _image(promotion: Promotion, result: CheckResult) -> None:
    store = image.open_place(promotion.context.root, promotion.reference)
    image.complete(promotion, store, result)


def _quarantine(promotion: Promotion, result: CheckResult) -> None:
    statement = promotion.released.value
    model = statement.statement.predicate.image.model if statement else None
    requirements.held_back(promotion.context, promotion.digest, model, result)


def _record(promotion: Promotion, result: CheckResult) -> None:
    release = promotion.release()
    promotion.recorded.value = record.find(promotion.context, release)
    result.note = f"commit {release.commit[:12]} of {promotion.context.target}"


def _sealed(promotion: Promotion, result: CheckResult) -> None:
    if promotion.rule.sealed:
        sealed.passed(promotion.context, promotion.release().image.model, result)
    else:
        result.note = "not asked here"


def _serving(promotion: Promotion, result: CheckResult) -> None:
    served.served(promotion, promotion.release(), result)


def _layers(promotion: Promotion, result: CheckResult) -> None:
    image.composed(promotion, result)
    requirements.based(promotion.context, promotion.release().image, result)


def _version(promotion: Promotion, result: CheckResult) -> None:
    promotion.recorded.get()
    statement = promotion.released.get()
    release = statement.statement.predicate
    after = change.point(
        promotion.context, str(promotion.reference), statement, promotion.version, promotion.bump
    )
    how = served_as.how(release, promotion.environment, promotion.present.files)
    promotion.after.value = after.model_copy(update={"verified": how})
    why = promotion.why or context.subject(promotion.context.root, release.commit)
    change.writable(promotion, "promote", why, result)


CHECKS: Mapping[About, Callable[[Promotion, CheckResult], None]] = {
    "environment": _environment,
    "previous": requirements.previous,
    "image": _image,
    "evidence": statements.evidence,
    "quarantine": _quarantine,
    "record": _record,
    "verdict": record.verdict_holds,
    "policy": record.policy,
    "sealed": _sealed,
    "serving": _serving,
    "weights": contents.held,
    "layers": _layers,
    "version": _version,
    "edits": edits.unedited,
    "approvals": approvals.enough,
}
