"""Finds the signed statement that a promotion relies on, and checks that enough signers signed it.

Each signer attaches an envelope of their own to the image. Envelopes count together if their payloads are the same
bytes: one statement of one image. Only signers who may release today count, so a retired one does not.
"""

from collections.abc import Iterable
from functools import partial

from checks.process.errors import EvidenceRefused
from checks.storage import layout
from release.evidence import released, weights
from release.evidence.released import Released
from release.promotion import checklist, record, served
from release.promotion.case import Promotion
from release.promotion.checklist import CheckResult


def evidence(promotion: Promotion, result: CheckResult) -> None:
    """Check that a valid signed statement is about exactly this image, and that enough signers signed it."""
    store = promotion.image.get().store
    search = released.search(store, promotion.digest, promotion.context.signers)
    # The weights' signature has the same media type as a signed statement; it is not a failed statement.
    others = tuple(line for line in search.others if weights.PREDICATE not in line)
    if not search.found:
        first = f": {others[0]}" if others else " or is there"
        raise EvidenceRefused(
            f"{store.name}@{promotion.digest}: no signed statement holds{first}",
            "sign the release: `lockstep sign`",
            others[1:],
        )
    statement = _chosen(promotion, search.found)
    promotion.released.value = statement
    promotion.others = others
    promotion.signed_by = _signers(statement, search.found)
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
    recorded = checklist.run("record", lambda _: record.find(promotion.context, release))
    serving = checklist.run("serving", partial(served.served, promotion, release))
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
    for other in promotion.others:
        result.fail(other, "it does not count")
