"""Approvals: signed statements by which one person allows an image to run in an environment.

They are files in git, <environment>/approvals/<image>/<signer>.json, so the history of an environment shows who
approved what.

An approval counts for one move only. Committing the same file again after a rollback does not renew it: to approve an
image again, sign a new approval with a new reason. Approvals are compared by what they state, because one statement can
be signed in more than one form.

A move that a side branch made and reverted uses up its approvals too. Git cannot distinguish it from a move that was
deployed before the branch was merged into a copy of itself. This can cost an extra approval, and never gains one.
"""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from checks.config.release_params import Environment
from checks.process.errors import EvidenceRefused
from checks.storage import layout
from release.evidence import statement, trust
from release.promotion.checklist import CheckResult
from release.promotion.environment import EnvironmentState, folder
from release.promotion.types import PromotionContext


class SignedApproval(NamedTuple):
    """A valid approval: who signed it, and the signed payload."""

    signer: str
    payload: bytes


def place(environment: str, image: str) -> Path:
    """The folder with the approvals of the image ``digest`` in an environment."""
    return folder(environment) / layout.APPROVED / image.removeprefix("sha256:")


def enough(
    context: PromotionContext,
    environment: str,
    rule: Environment,
    image: str,
    present: EnvironmentState,
    releasers: Collection[str],
    result: CheckResult,
) -> None:
    """Check that enough different signers approved. Whoever signed the release does not count as one.

    Approvals that do not count are reported, with the reason.
    """
    if not rule.approvals:
        result.note = "none required"
        return
    used = used_up(context, environment, image)
    people, others = set[str](), list[str]()
    for path in sorted(path for path in present.files if path.parent == place(environment, image)):
        try:
            said = read(context, environment, image, present.files[path], str(path))
        except EvidenceRefused as refused:
            others.append(refused.what)
            continue
        if said.payload in used:
            others.append(
                f"{path}: was used up by an earlier move: approve again, with a new reason"
            )
        elif said.signer in releasers:
            others.append(f"{path}: {said.signer} signed the release and so cannot approve it")
        elif said.signer in people:
            others.append(f"{path}: {said.signer} approved already")
        else:
            people.add(said.signer)
    by = f" ({', '.join(sorted(people))})" if people else ""
    result.note = f"{len(people)} of {rule.approvals}{by}"
    if len(people) < rule.approvals:
        result.fail(
            f"it has {result.note} approvals", f"`lockstep approve {environment}` by people who may"
        )
        for other in others:
            result.fail(other, "it does not count")


def read(
    context: PromotionContext, environment: str, image: str, data: bytes, where: str
) -> SignedApproval:
    """Read an approval of this image for this environment. Raises EvidenceRefused unless an approver signed it."""
    found = trust.verify(data, context.signers, "approve", where)
    statement.parse_approval(found.payload, environment, image, where)
    return SignedApproval(found.signer, found.payload)


def used_up(context: PromotionContext, environment: str, image: str) -> set[bytes]:
    """The payloads of approvals of this image that are used up.

    An approval is used up once a commit that moved the environment to the image contains it. The parents of that commit
    are read as well: a move by hand may delete the approvals in the same commit, or in the merge.
    """
    moves = [
        move
        for move in context.ledger.moves(context.tip, environment)
        if move.after and move.after.digest == image
    ]
    made = dict.fromkeys(
        name for move in moves for name in (move.commit, *([move.landed] if move.ran else []))
    )
    commits = dict.fromkeys(each for name in made for each in (name, f"{name}^1"))
    return {said.payload for commit in commits for said in _at(context, environment, image, commit)}


def _at(
    context: PromotionContext, environment: str, image: str, commit: str
) -> Iterator[SignedApproval]:
    for path, data in context.ledger.regular(commit, place(environment, image)).items():
        try:
            yield read(context, environment, image, data, str(path))
        except EvidenceRefused:
            continue  # it did not count then either, or its signer is gone since
