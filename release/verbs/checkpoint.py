"""checkpoint: signs where the branch of the environments is, so that a clone notices an older one."""

from datetime import UTC, datetime
from pathlib import Path

from checks.process.errors import EvidenceRefused, PromotionRefused
from checks.records.record import CommitHash
from checks.records.rows import Record
from release.evidence import freshness, statement, trust
from release.promotion import context


class Signed(Record):
    """A new checkpoint. ``head``: the commit that it is about."""

    branch: str
    number: int
    head: CommitHash
    at: datetime
    signer: str


def checkpoint(
    root: Path, key: Path | None = None, *, keyless: bool = False, target: str | None = None
) -> Signed:
    """Sign a checkpoint of the branch's current commit with ``key`` or the identity of this CI job, and push it.

    An expired or missing checkpoint is replaced. Raises RemoteRefused if the branch lacks what the last one says,
    EvidenceRefused if nobody signed that who may or the signer may not, PromotionRefused without a remote, Outrun.
    """
    if (key is None) != keyless:
        raise EvidenceRefused(
            "a checkpoint is signed by a key or by an identity", "give one of --key and --keyless"
        )
    promotion_context = context.deciding(root, target, stale=True)
    if not promotion_context.ledger.remote:
        raise PromotionRefused(
            f"{promotion_context.ledger.shown}: has no remote, so nobody else can change it",
            "add a remote",
        )
    signer = trust.signatory(key, promotion_context.signers, "checkpoint")
    before = freshness.last(promotion_context.ledger, promotion_context.signers)
    if before:
        freshness.hold(promotion_context.ledger, promotion_context.tip, before)
    number, at = before.number + 1 if before else 1, datetime.now(UTC).replace(microsecond=0)
    payload = statement.checkpoint(
        promotion_context.ledger.branch, promotion_context.tip, number, at
    )
    data = signer.sign(payload)
    by = trust.verify(data, promotion_context.signers, "checkpoint", "the checkpoint").signer
    promotion_context.ledger.add_checkpoint(
        promotion_context.tip, data, f"checkpoint {number} of {promotion_context.ledger.branch}\n"
    )
    return Signed(
        branch=promotion_context.ledger.branch,
        number=number,
        head=promotion_context.tip,
        at=at,
        signer=by,
    )
