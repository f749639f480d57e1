"""approve: signs that an image may run in an environment, and adds the approval to the ledger.

An approval is a person's consent and proves nothing about the image; `lockstep promote` runs the checks.
"""

from pathlib import Path
from typing import Literal

from checks.formats.report import Count
from checks.process.errors import EvidenceRefused, PromotionRefused
from checks.process.text import redact
from checks.records.identity import Digest
from checks.records.rows import Record
from release.evidence import signatory, statement
from release.ledger import Change
from release.promotion import approvals, context, default_image, environment, requirements
from release.promotion.checklist import CheckResult
from release.promotion.types import PromotionContext
from release.record import running_code


class Approved(Record):
    """``done`` is ``already`` if this person's approval existed. ``required``: approvals that the environment needs."""

    environment: str
    image: Digest
    done: Literal["approved", "already"]
    signer: str
    required: Count
    commit: str  # The ledger's commit.


def approve(
    root: Path, name: str, key: Path, why: str, image: str | None = None, target: str | None = None
) -> Approved:
    """Sign with ``key`` that ``image`` may run in the environment ``name``, and commit the approval.

    ``image`` is by default what `lockstep promote` would take. Raises EvidenceRefused if the key is invalid or its
    owner may not approve, PromotionRefused if the image is in quarantine or the approval would not count, Outrun or
    RemoteRefused if the push fails.
    """
    running_code.check(root, committed=True)
    where = context.find(root, target)
    rule = where.rule(name)
    where.ledger.settle(where.tip)
    digest = default_image.find(where, rule, image).digest
    assert digest is not None
    result = CheckResult()
    requirements.held_back(where, digest, None, result)
    if result.failures:
        raise PromotionRefused(result.failures[0].what, result.failures[0].todo)
    approver = signatory.load(key, where.signers, "approve")
    data = approver.sign(statement.approve(name, digest, why))
    said = approvals.read(where, name, digest, data, "the approval")
    path = approvals.place(name, digest) / f"{said.signer}.json"
    existing = environment.look(where, name).files.get(path)
    used_up = approvals.used_up(where, name, digest)
    done: Literal["approved", "already"] = "approved"
    commit = where.tip
    if existing is not None and _counts(where, name, digest, existing, str(path), used_up):
        done = "already"
    elif said.payload in used_up:
        raise PromotionRefused(
            f"{name} was already moved to {digest} with an approval for the same reason",
            "give a new reason: --why",
        )
    else:
        message = f"approve {digest[:19]} for {name}\n\n{redact(why, 500)}\n"
        commit = where.ledger.commit(where.tip, Change({path: data}, message))
    return Approved(
        environment=name,
        image=digest,
        done=done,
        signer=said.signer,
        required=rule.approvals,
        commit=commit,
    )


def _counts(
    where: PromotionContext, name: str, digest: str, data: bytes, at: str, used_up: set[bytes]
) -> bool:
    try:
        return approvals.read(where, name, digest, data, at).payload not in used_up
    except EvidenceRefused:
        return False
