"""Looks at the sealed split: what the ledger has of them, how many there were, and whether a model passed.

A look is one file in git, <split>/<model>.json below ``layout.SEALED_LOOKS``: a signed statement with one bit. Every
content that such a file ever had counts as a look of that split, also after it was deleted.

The model that is asked about is that of a record which was merged.
"""

from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel

from checks.config.params import Sealed
from checks.config.sealed import REFRESH, asked
from checks.formats.statement import Looked
from checks.process.errors import EvidenceRefused
from checks.storage import layout
from release.adapters import commits
from release.evidence import statement, trust
from release.promotion.checklist import CheckResult, PromotionContext
from release.record.verdict_check import WEIGHTS, passing

_RECORD = (layout.PARAMS, layout.PIPELINE, layout.LOCK, layout.VERDICT)


class _Section(BaseModel):
    sealed: Sealed | None = None


class SealedLook(NamedTuple):
    """One answer of the sealed split that counts, and who signed it."""

    looked: Looked
    signer: str


def split(context: PromotionContext) -> Sealed:
    """The section sealed of the target branch. Raises ParamsRefused if it is invalid, EvidenceRefused for none."""
    called = f"{context.target}:{layout.PARAMS}"
    section = (
        context.records.at(context.trunk)
        .sections(_Section, called, "fix it on the target branch")
        .sealed
    )
    if section is None:
        raise EvidenceRefused(
            f"{called}: has no section sealed", "make a sealed split: docs/how-to/sealed.md"
        )
    return section


def place(wanted: Sealed, model: str) -> Path:
    """The file of the look at ``wanted`` about the weights ``model``."""
    return _folder(wanted) / f"{model.removeprefix('sha256:')}.json"


def look(context: PromotionContext, wanted: Sealed, model: str) -> SealedLook | None:
    """Return what the split answered about ``model``; None if it was not asked, or was asked something else.

    Raises EvidenceRefused if the file there is not signed by a signer with the role sealed, or is about another model
    or split.
    """
    path = place(wanted, model)
    data = context.ledger.read(context.tip, path)
    if data is None:
        return None
    verified = trust.verify(data, context.signers, "sealed", str(path))
    looked = statement.parse_sealed_look(verified.payload, model, str(path)).predicate
    if looked.split != f"sha256:{wanted.sha256}":
        raise EvidenceRefused(
            f"{path}: is about another sealed split", "take that file away, and ask again"
        )
    return SealedLook(looked, verified.signer) if looked.asked == asked(wanted) else None


def count(context: PromotionContext, wanted: Sealed) -> int:
    """How many looks the split has had, by the history of the ledger.

    Raises EvidenceRefused if a look says that there were more: commits were taken from the history.
    """
    made = len(context.ledger.versions(context.tip, _folder(wanted)))
    there = context.ledger.files(context.tip, _folder(wanted))
    last = max((_number(context, path, data) for path, data in there.items()), default=0)
    if last > made:
        raise EvidenceRefused(
            f"{_folder(wanted)}: has had {made} looks, and one of them is number {last}: the history was rewound",
            "restore the branch from a clone that has them all, or refresh the sealed split",
        )
    return made


def passed(context: PromotionContext, model: str, result: CheckResult) -> None:
    """Check that the split said of these weights that they pass what the target branch asks of it now."""
    wanted = split(context)
    number = count(context, wanted)
    sealed_look = look(context, wanted, model)
    result.note = f"{number} of {wanted.max_looks} looks used"
    if sealed_look is None and number >= wanted.max_looks:
        result.fail(
            f"inconclusive: the sealed split was not asked about this model, and {result.note}",
            REFRESH,
        )
    elif sealed_look is None:
        result.fail(
            "the sealed split was not asked about this model",
            "`lockstep sealed ask`, where its key is, on the record",
        )
    elif not sealed_look.looked.passed:
        result.fail(
            f"the sealed split says that the model does not pass (signed by {sealed_look.signer})",
            "",
        )
    else:
        number = sealed_look.looked.number
        result.note = (
            f"passed by look {number} of {wanted.max_looks}, signed by {sealed_look.signer}"
        )


def _folder(wanted: Sealed) -> Path:
    return layout.SEALED_LOOKS / wanted.sha256


def _number(context: PromotionContext, path: Path, data: bytes) -> int:
    """The number of a look, whatever it is about; 0 for a file that does not count."""
    try:
        payload = trust.verify(data, context.signers, "sealed", str(path)).payload
        return statement.parse_sealed_look(
            payload, f"sha256:{path.stem}", str(path)
        ).predicate.number
    except EvidenceRefused:
        return 0


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
    record = passing(promotion_context.records, promotion_context.trunk, WEIGHTS)
    if record.params.sealed != wanted:
        raise EvidenceRefused(
            f"{layout.PARAMS}: sealed is not that of {target}", f"check out {target}"
        )
    assert record.verdict.model is not None  # a verdict without a model does not pass
    return record.verdict.model
