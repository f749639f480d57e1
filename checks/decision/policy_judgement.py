"""A verdict under two policies: that of a pull request, and that of its target branch.

A pass counts only if the target's policy gives one as well, or if code owners approved the new policy. A policy that is
weaker, or different, needs that approval even if both give a pass: the next pull request is judged by it. The policy of
another task says nothing about this one, so only code owners decide.
"""

from collections.abc import Collection, Sequence
from typing import Annotated

from pydantic import Field

from checks.decision import held
from checks.decision.policy import Change, replaced
from checks.formats.verdict import Status, Verdict
from checks.process.errors import Refusal, VerdictFailed, VerdictInconclusive
from checks.records.record import Digest, Record
from checks.storage import layout

_NAMED = 3  # paths in a headline


class Approval(Record):
    """An entry of approved.yaml: a policy that code owners accept, whatever it was compared with."""

    policy: Digest
    by: Annotated[str, Field(pattern=r"\S")]
    why: Annotated[str, Field(pattern=r"\S")]


class PolicyJudgement(Record):
    """The verdicts under the work tree's policy and that of ``commit``; ``status`` is the one that counts.

    ``policy`` is the digest that an approval of the work tree's policy names. ``target`` is None if this version cannot
    read the policy of ``commit``.
    """

    ref: str
    commit: str
    status: Status
    headline: str
    policy: Digest
    changes: tuple[Change, ...]
    notes: tuple[str, ...]  # Further sentences that a reader must know.
    approval: Approval | None
    own: Verdict
    target: Verdict | None

    @property
    def waits(self) -> bool:
        """Whether only the approval of code owners is missing.

        The model passes under both policies; or under its own, if that of the target is about another task.
        """
        if self.status != "inconclusive" or self.own.status != "pass":
            return False
        passes = self.target is not None and self.target.status == "pass"
        return passes or replaced(self.changes) is not None


def refusal(judgement: PolicyJudgement, excepted: Collection[str] = ()) -> Refusal | None:
    """Return the refusal for a judgement other than ``pass``; None for ``pass``. ``excepted`` as for ``decided``."""
    if judgement.status == "pass":
        return None
    if refused := held.refusal(judgement.own, excepted):
        return refused
    kind = VerdictFailed if judgement.status == "fail" else VerdictInconclusive
    return kind(
        f"verdict {judgement.status}: {judgement.headline}",
        f"restore the policy of {judgement.ref}, or let code owners add {judgement.policy} to {layout.APPROVALS}",
    )


def decided(
    ref: str,
    own: Verdict,
    target: Verdict | None,
    changes: Sequence[Change],
    approval: Approval | None,
    adopted: bool,
    unused: bool = False,
    excepted: Collection[str] = (),
) -> tuple[Status, str]:
    """Return the status that counts, and why. ``adopted``: whether a merge makes the new policy that of ``ref``.

    ``unused``: no model was ever judged or promoted under that of ``ref``. Then another task needs no approval.
    ``excepted``: the gates that a valid exception names, under both policies (``held.refusal``).
    """
    is_other_task = replaced(changes) is not None
    in_need = [
        change
        for change in changes
        if change.needs_approval and not (unused and is_other_task and change.is_of_task)
    ]
    unjudged = [change.path for change in in_need if not change.is_judged]
    more = f" and {len(unjudged) - _NAMED} more" if len(unjudged) > _NAMED else ""
    named = f"{', '.join(unjudged[:_NAMED])}{more}"
    approver = " ".join(approval.by.split()) if approval else None
    theirs: Status = target.status if target else "inconclusive"
    is_refused = target is not None and held.refusal(target, excepted) is not None
    # The first row that holds decides.
    rows: tuple[tuple[object, Status, str], ...] = (
        (held.refusal(own, excepted), own.status, f"{own.status} under its own"),
        (in_need and approver, "pass", f"approved by {approver}"),
        (
            is_other_task and not in_need and own.status == "pass",
            "pass",
            f"no model was ever judged or promoted under that of {ref}",
        ),
        (
            is_other_task,
            "inconclusive",
            f"that of {ref} is of another task, so code owners must approve this one",
        ),
        (target is None, "inconclusive", f"that of {ref} cannot be judged"),
        (is_refused, theirs, f"{theirs} under that of {ref}"),
        (
            unjudged,
            "inconclusive",
            f"no gate can judge {named}, so code owners must approve the policy",
        ),
        (
            in_need and adopted,
            "inconclusive",
            "pass under both, but later models are judged by it too, so code owners must approve it",
        ),
        (
            own.status != "pass",
            "pass",
            f"{own.status}, and an exception names every gate that did not pass",
        ),
        (True, "pass", "pass under both" if changes else "pass"),
    )
    return next((status, why) for holds, status, why in rows if holds)


def headline(ref: str, changes: Sequence[Change], why: str) -> str:
    """Return the first line of a comment: what changed in the policy, then the status that counts."""
    another = replaced(changes)
    in_need = [change for change in changes if change.needs_approval]
    weakened = any(change.kind in ("weaker", "removed") for change in in_need)
    shown = [
        f"{some[0].text}{f' (and {len(some) - 1} more)' if len(some) > 1 else ''}" if some else ""
        for some in (changes, in_need)
    ]
    rows = (
        (another, another),
        (not changes, f"policy as in {ref}"),
        (not in_need, f"policy not weakened against {ref} ({shown[0]})"),
        (True, f"policy {'weakened' if weakened else 'changed'}: {shown[1]}"),
    )
    return f"{next(what for holds, what in rows if holds)}: {why}"
