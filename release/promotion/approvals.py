"""Approvals: signed statements by which one person allows an image to run in an environment.

They are files in git, <environment>/approvals/<image>/<signer>.json, so the history of an environment shows who
approved what.

An approval counts for one move only. Committing the same file again after a rollback does not renew it: to approve an
image again, sign a new approval with a new reason. Approvals are compared by what they state, because one statement can
be signed in more than one form.

A move that a side branch made and reverted uses up its approvals too. Git cannot distinguish it from a move that was
deployed before the branch was merged into a copy of itself. This can cost an extra approval, and never gains one.
"""

from collections.abc import Callable

from checks.process.errors import EvidenceRefused
from release.evidence import statement, trust
from release.evidence.dsse import Verified
from release.promotion.checklist import CheckResult, PromotionContext
from release.promotion.environment import Promotion, approvals_folder


def enough(promotion: Promotion, result: CheckResult) -> None:
    """Check that enough different signers approved. Whoever signed the release does not count as one.

    Approvals that do not count are reported, with the reason.
    """
    context = promotion.context
    environment = promotion.environment
    image = promotion.digest
    rule = promotion.rule
    releaser = promotion.released.get().signer
    releasers = promotion.signed_by if rule.signatures > 1 else (releaser,)
    if not rule.approvals:
        result.note = "none required"
        return
    used = used_up(context, environment, image)
    files = promotion.present.files
    folder = approvals_folder(environment, image)
    people = set[str]()
    others = list[str]()
    for path in sorted(path for path in files if path.parent == folder):
        try:
            approval = read(context, environment, image, files[path], str(path))
        except EvidenceRefused as refused:
            others.append(refused.what)
            continue
        signer = approval.signer
        reasons = (
            (
                approval.payload in used,
                "was used up by an earlier move: approve again, with a new reason",
            ),
            (signer in releasers, f"{signer} signed the release and so cannot approve it"),
            (signer in people, f"{signer} approved already"),
        )
        if why := next((why for applies, why in reasons if applies), ""):
            others.append(f"{path}: {why}")
        else:
            people.add(signer)
    by = f" ({', '.join(sorted(people))})" if people else ""
    result.note = f"{len(people)} of {rule.approvals}{by}"
    if len(people) < rule.approvals:
        result.fail(
            f"it has {result.note} approvals", f"`lockstep approve {environment}` by people who may"
        )
        result.fail_each(others, "it does not count")


def read(
    context: PromotionContext,
    environment: str,
    image: str,
    data: bytes,
    where: str,
    parse: Callable[[bytes, str, str, str], object] = statement.parse_approval,
) -> Verified:
    """Read an approval of this image for this environment, or another statement that ``parse`` reads.

    Raises EvidenceRefused unless an approver signed it.
    """
    approval = trust.verify(data, context.signers, "approve", where)
    parse(approval.payload, environment, image, where)
    return approval


def payload(
    context: PromotionContext,
    environment: str,
    image: str,
    data: bytes,
    where: str,
    parse: Callable[[bytes, str, str, str], object] = statement.parse_approval,
) -> bytes | None:
    """Return the payload of what ``read`` would read; None if it does not count."""
    try:
        return read(context, environment, image, data, where, parse).payload
    except EvidenceRefused:
        return None


def used_up(
    context: PromotionContext,
    environment: str,
    image: str,
    parse: Callable[[bytes, str, str, str], object] = statement.parse_approval,
) -> set[bytes]:
    """Return the payloads of used-up approvals of this image, or of other statements that ``parse`` reads.

    An approval is used up once a commit that moved the environment to the image contains it. The parents of that commit
    are read as well: a move by hand may delete the approvals in the same commit, or in the merge.
    """
    commits = set[str]()
    for move in context.ledger.moves(context.tip, environment):
        if move.after and move.after.digest == image:
            commits |= {move.commit, f"{move.commit}^1"}
            if move.ran:
                commits |= {move.landed, f"{move.landed}^1"}
    folder = approvals_folder(environment, image)
    payloads = (
        payload(context, environment, image, data, str(path), parse)
        for commit in commits
        for path, data in context.ledger.regular(commit, folder).items()
    )
    return set(filter(None, payloads))
