"""Whether enough signers signed the statement of a release.

Each signer attaches an envelope of their own to the image. Envelopes count together if their payloads are the same
bytes: one statement of one image. Only signers who may release today count, so a retired one does not.
"""

from collections.abc import Iterable, Sequence

from checks.formats.signers import Signers
from checks.storage import layout
from release.evidence.released import Released
from release.promotion.checklist import CheckResult


def by(statement: Released, found: Iterable[Released]) -> tuple[str, ...]:
    """The names of who signed the same statement, each once."""
    return tuple(sorted({one.signer for one in found if one.payload == statement.payload}))


def enough(
    required: int, signed: Sequence[str], known: Signers, others: Sequence[str], result: CheckResult
) -> None:
    """Check that ``required`` signers signed. ``others``: evidence beside the image that does not count, and why."""
    if len(signed) >= required:
        return
    may = [
        one.name
        for one in known
        if "release" in one.may and not one.retired() and one.name not in signed
    ]
    can = len(signed) + len(may)
    todo = f"`lockstep sign` of the same record and reports by {' or '.join(may)}"
    if can < required:
        todo = f"only {can} may release: let code owners add a signer to {layout.SIGNERS} (`lockstep keys new`)"
    result.fail(
        f"its statement has {len(signed)} of {required} signatures ({', '.join(signed)})", todo
    )
    for other in others:
        result.fail(other, "it does not count")
