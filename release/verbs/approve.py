"""approve: signs that an image may run in an environment, and adds the approval to the ledger.

An approval is a person's consent and proves nothing about the image; `lockstep promote` runs the checks.
"""

from pathlib import Path
from typing import Literal

from checks.formats.report import Count
from checks.process.errors import PromotionRefused
from checks.process.text import redact
from checks.records.record import Digest
from checks.records.rows import Record
from release.evidence import statement, trust
from release.ledger import Change
from release.promotion import approvals, context, default_image, environment, requirements
from release.promotion.checklist import CheckResult
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

    ``image`` is by default what `lockstep promote` would take. Raises EvidenceRefused if HEAD has other code than the
    target branch, or if the key is invalid or its owner may not approve, PromotionRefused if the image is in quarantine
    or the approval would not count, Outrun or RemoteRefused if the push fails.
    """
    running_code.check(root, committed=True)
    promotion_context = context.deciding(root, target)
    rule = promotion_context.rule(name)
    promotion_context.ledger.settle(promotion_context.tip)
    digest = default_image.find(promotion_context, name, image).digest
    assert digest is not None
    result = CheckResult()
    requirements.held_back(promotion_context, digest, None, result)
    if result.failures:
        raise PromotionRefused(result.failures[0].what, result.failures[0].todo)
    approver = trust.signatory(key, promotion_context.signers, "approve")
    data = approver.sign(statement.approve(name, digest, why))
    approval = approvals.read(promotion_context, name, digest, data, "the approval")
    used_up = approvals.used_up(promotion_context, name, digest)
    path = environment.approvals_folder(name, digest) / f"{approval.signer}.json"
    existing = environment.look(promotion_context, name).files.get(path, b"")
    payload = approvals.payload(promotion_context, name, digest, existing, str(path))
    done: Literal["approved", "already"] = "approved"
    commit = promotion_context.tip
    if payload is not None and payload not in used_up:
        done = "already"
    elif approval.payload in used_up:
        raise PromotionRefused(
            f"{name} was already moved to {digest} with an approval for the same reason",
            "give a new reason: --why",
        )
    else:
        message = f"approve {digest[:19]} for {name}\n\n{redact(why, 500)}\n"
        commit = promotion_context.ledger.commit(commit, Change({path: data}, message))
    return Approved(
        environment=name, image=digest, done=done, signer=approval.signer, required=rule.approvals, commit=commit
    )  # fmt: skip
