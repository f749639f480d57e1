"""approve: one person's signed word that an image may run in an environment, added to the ledger beside its pointer.

It says nothing of the image but that this person wants it there: what can be checked, `lockstep promote` checks.
"""

from pathlib import Path
from typing import Literal

from checks.errors import EvidenceRefused, PromotionRefused
from checks.evidence import Count
from checks.identity import Digest
from checks.rows import Record
from checks.text import redact
from release.ledger import Change
from release.promotion import approvals, context, default_image, environment, requirements
from release.promotion.checklist import CheckResult
from release.verbs import sign


class Approved(Record):
    """``already``: this person's approval was there. ``asked``: how many the environment asks for."""

    environment: str
    image: Digest
    done: Literal["approved", "already"]
    signer: str
    asked: Count
    commit: str  # of the ledger


def approve(
    root: Path, name: str, key: Path, why: str, image: str | None = None, target: str | None = None
) -> Approved:
    """Sign with ``key`` that ``image`` may run in the environment ``name``, and commit that.

    ``image`` is by default what `lockstep promote` would take. Raises EvidenceRefused when the key is none, or its
    owner may not approve; PromotionRefused when the image is in quarantine, or the approval would not count; Outrun,
    RemoteRefused.
    """
    where = context.find(root, target)
    rule = where.rule(name)
    where.ledger.settle(where.tip)
    digest = default_image.find(where, rule, image).digest
    assert digest is not None
    result = CheckResult()
    requirements.held_back(where, digest, None, result)
    if result.failures:
        raise PromotionRefused(result.failures[0].what, result.failures[0].todo)
    data = sign.approve(root, key, name, digest, why, where.trunk)
    said = approvals.read(where, name, digest, data, "the approval")
    path = approvals.place(name, digest) / f"{said.signer}.json"
    there = environment.look(where, name).files.get(path)
    spent = approvals.spent(where, name, digest)
    done: Literal["approved", "already"] = "approved"
    commit = where.tip
    if there is not None and _counts(where, name, digest, there, str(path), spent):
        done = "already"
    elif said.payload in spent:
        raise PromotionRefused(f"{name} was moved to {digest} on an approval that says the same", "say why anew: --why")
    else:
        message = f"approve {digest[:19]} for {name}\n\n{redact(why, 500)}\n"
        commit = where.ledger.commit(where.tip, Change({path: data}, message))
    return Approved(environment=name, image=digest, done=done, signer=said.signer, asked=rule.approvals, commit=commit)


def _counts(where: context.PromotionContext, name: str, digest: str, data: bytes, at: str, spent: set[bytes]) -> bool:
    try:
        return approvals.read(where, name, digest, data, at).payload not in spent
    except EvidenceRefused:
        return False
