"""sealed: asks the sealed split about the model of the record, by one bit.

`lockstep sealed ask` is the only way in which the rows are answered. It counts the look in the ledger first and says
the bit afterwards: a run that is killed before has said nothing, and one that is killed after is counted.
"""

from pathlib import Path
from typing import Literal

from checks.config import sealed as split
from checks.config.params import Sealed
from checks.formats.statement import Looked
from checks.process.errors import (
    EvidenceRefused,
    MachineRefused,
    Refusal,
    VerdictFailed,
    VerdictInconclusive,
)
from checks.records.rows import Record
from release.adapters import dvc
from release.adapters.listening import Listener
from release.evidence import statement, trust
from release.ledger import Change
from release.promotion import context, sealed
from release.promotion.checklist import PromotionContext


class SealedAnswer(Record):
    """The answer of the sealed split about a model. ``number``: of its look; ``looks``: how many there may be.

    ``done``: ``already`` if it was asked before, which is no further look. ``inconclusive``: nothing was asked, since
    all looks are used.
    """

    model: str
    status: Literal["pass", "fail", "inconclusive"]
    done: Literal["asked", "already", "refused"]
    number: int
    looks: int


def ask(
    root: Path,
    key: Path | None,
    *,
    target: str | None = None,
    listener: Listener | None = None,
) -> SealedAnswer:
    """Ask the sealed split about the model of the record here, count the look, and sign the bit.

    ``key``: the signer's; None for the identity of this CI job. What the stage prints is given to ``listener``; without
    one it is printed.

    Raises EvidenceRefused if the record is not the target branch's or its verdict does not hold, if the signer may not
    sign looks, or a look there cannot be believed; VerdictFailed or VerdictInconclusive where the verdict itself does
    not pass; StageRefused if the rows cannot be asked; Outrun or RemoteRefused if the look cannot be counted. None of
    these says anything of the rows.
    """
    before = context.deciding(root, target, earlier=True)
    wanted = sealed.split(before)
    signer = trust.signatory(key, before.signers, "sealed")
    context.whoami(root)  # a bit that cannot be counted is not asked for
    model = sealed.recorded(before, wanted)
    if known := _known(before, wanted, model):
        return known
    passed = _passed(root, listener)
    # The target branch is read again, because the answers may have taken hours.
    now = context.deciding(root, target, earlier=True)
    if sealed.split(now) != wanted:
        raise EvidenceRefused(f"{now.target}: sealed changed meanwhile", "ask again from its tip")
    if known := _known(now, wanted, model):
        return known
    number = sealed.count(now, wanted) + 1
    looked = Looked(
        split=f"sha256:{wanted.sha256}", asked=split.asked(wanted), number=number, passed=passed
    )
    data = signer.sign(statement.sealed_look(model, looked))
    trust.verify(data, now.signers, "sealed", "the look")
    message = f"look {number} of {wanted.max_looks} at the sealed split {wanted.sha256[:12]}\n"
    now.ledger.commit(now.tip, Change({sealed.place(wanted, model): data}, message))
    return _answer(model, wanted, "asked", looked)


def refusal(asked: SealedAnswer) -> Refusal | None:
    """The refusal for an answer other than ``pass``; None for ``pass``."""
    if asked.status == "pass":
        return None
    if asked.status == "fail":
        return VerdictFailed(
            f"the sealed split says that {asked.model[:19]}… does not pass",
            "it says no more: propose another model",
        )
    used = f"all {asked.looks} looks at the sealed split are used, and {asked.model[:19]}… had none"
    return VerdictInconclusive(f"inconclusive: {used}", split.REFRESH)


def _passed(root: Path, listener: Listener | None) -> bool:
    """Run the stage that answers the rows, and return its bit. Raises MachineRefused if it says anything else."""
    answer = dvc.python(
        root, ["-m", "stages.sealed"], "sealed", heard=True, listener=listener, step="sealed"
    )
    bit = answer.split()[-1:]
    if bit not in (["pass"], ["fail"]):
        raise MachineRefused(
            "stages.sealed: said neither pass nor fail", "install the package again"
        )
    return bit == ["pass"]


def _known(promotion_context: PromotionContext, wanted: Sealed, model: str) -> SealedAnswer | None:
    """Return what is said without another look; None if the split must be asked."""
    number = sealed.count(promotion_context, wanted)
    look = sealed.look(promotion_context, wanted, model)
    if look is not None:
        return _answer(model, wanted, "already", look.looked)
    if number < wanted.max_looks:
        return None
    return SealedAnswer(
        model=model, status="inconclusive", done="refused", number=number, looks=wanted.max_looks
    )


def _answer(
    model: str, wanted: Sealed, done: Literal["asked", "already"], looked: Looked
) -> SealedAnswer:
    return SealedAnswer(
        model=model,
        status="pass" if looked.passed else "fail",
        done=done,
        number=looked.number,
        looks=wanted.max_looks,
    )
