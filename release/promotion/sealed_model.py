"""The model that the sealed split may be asked about: that of a record which was merged."""

from checks.config.params import Sealed
from checks.process.errors import EvidenceRefused
from checks.storage import layout
from release.adapters import commits
from release.promotion.types import PromotionContext
from release.record.verdict_check import passing

_RECORD = (layout.PARAMS, layout.PIPELINE, layout.LOCK, layout.VERDICT)


def recorded(promotion_context: PromotionContext, wanted: Sealed) -> str:
    """Return the model of the record here.

    Raises EvidenceRefused if the target branch has not this record, or another section sealed; VerdictFailed or
    VerdictInconclusive if its verdict does not pass.
    """
    root = promotion_context.root
    target = promotion_context.target
    head = commits.resolve(root, "HEAD")
    merged = head is not None and commits.is_ancestor(root, head, promotion_context.trunk)
    if head is None or not merged or commits.uncommitted(root, head, _RECORD):
        raise EvidenceRefused(
            f"the record here is not one of {target}: the sealed split answers only models that were merged",
            f"merge it, check out {target}, and `./lockstep dvc pull`",
        )
    trusting = (layout.BASE, layout.ADAPTER, layout.RAW, layout.MERGED)
    record = passing(promotion_context.records, promotion_context.trunk, trusting)
    if record.params.sealed != wanted:
        raise EvidenceRefused(
            f"{layout.PARAMS}: sealed is not that of {target}", f"check out {target}"
        )
    assert record.verdict.model is not None  # a verdict without a model does not pass
    return record.verdict.model
