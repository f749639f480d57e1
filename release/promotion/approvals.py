"""Approvals: one person's signed word that an image may run in an environment, beside the environment's pointer.

They lie in git, <environment>/approvals/<image>/<signer>.json, so that the history of an environment has who said yes.
One counts for one move: whoever adds it again after a rollback, as it was, has not asked anybody. It is known by what
it states, since one statement can be signed in more than one form. So who approves the same image again says why anew.

A move that a side branch made and took back spends it, too. Git cannot tell such a move from one that ran before
somebody merged the branch into a copy of itself, and that must not give back what was spent. Whoever merges the first
costs the approvers another word; nobody gains one.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from checks import layout
from checks.errors import EvidenceRefused
from checks.release_params import Environment
from release.evidence import statement, trust
from release.promotion.checklist import CheckResult
from release.promotion.context import PromotionContext
from release.promotion.environment import EnvironmentState, folder


class Said(NamedTuple):
    """An approval that holds: who signed it, and the bytes that were signed."""

    signer: str
    payload: bytes


def place(environment: str, image: str) -> Path:
    """The folder of the approvals of the image with this digest."""
    return folder(environment) / layout.APPROVED / image.removeprefix("sha256:")


def enough(
    context: PromotionContext,
    environment: str,
    rule: Environment,
    image: str,
    present: EnvironmentState,
    releaser: str,
    result: CheckResult,
) -> None:
    """As many different signers as the environment asks for must have approved, and whoever signed the release is none.

    Those that do not count are told.
    """
    if not rule.approvals:
        result.note = "none is asked for"
        return
    used = spent(context, environment, image)
    people, others = set[str](), list[str]()
    for path in sorted(path for path in present.files if path.parent == place(environment, image)):
        try:
            said = read(context, environment, image, present.files[path], str(path))
        except EvidenceRefused as refused:
            others.append(refused.what)
            continue
        if said.payload in used:
            others.append(f"{path}: was spent on an earlier move: approve again, and say why anew")
        elif said.signer == releaser:
            others.append(f"{path}: {said.signer} signed the release, and does not approve it as well")
        elif said.signer in people:
            others.append(f"{path}: {said.signer} approved already")
        else:
            people.add(said.signer)
    by = f" ({', '.join(sorted(people))})" if people else ""
    result.note = f"{len(people)} of {rule.approvals}{by}"
    if len(people) < rule.approvals:
        result.fail(f"it has {result.note} approvals", f"`lockstep approve {environment}` by people who may")
        for other in others:
            result.fail(other, "it does not count")


def read(context: PromotionContext, environment: str, image: str, data: bytes, where: str) -> Said:
    """An approval of this image for this environment. Raises EvidenceRefused when it is none by a signer who may."""
    found = trust.verify(data, context.signers, "approve", where)
    statement.parse_approval(found.payload, environment, image, where)
    return Said(found.signer, found.payload)


def spent(context: PromotionContext, environment: str, image: str) -> set[bytes]:
    """What approvals of this image stated that lay there when an earlier move brought the environment to it.

    Before it or after it: a move by hand may take them away in the same commit, or in the merge.
    """
    moves = [
        move for move in context.ledger.moves(context.tip, environment) if move.after and move.after.digest == image
    ]
    made = dict.fromkeys(name for move in moves for name in (move.commit, *([move.landed] if move.ran else [])))
    commits = dict.fromkeys(each for name in made for each in (name, f"{name}^1"))
    return {said.payload for commit in commits for said in _at(context, environment, image, commit)}


def _at(context: PromotionContext, environment: str, image: str, commit: str) -> Iterator[Said]:
    for path, data in context.ledger.regular(commit, place(environment, image)).items():
        try:
            yield read(context, environment, image, data, str(path))
        except EvidenceRefused:
            continue  # it did not count then either, or its signer is gone since
