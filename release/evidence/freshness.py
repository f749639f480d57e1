"""Whether the ledger that a remote shows is the current one: by a signed checkpoint, numbered and dated.

A clone notices if a branch loses commits that it saw before. A fresh clone, as every CI job has, saw nothing: it
compares the branch with the last checkpoint. A remote that shows an old branch with its old checkpoint is noticed once
that is older than ``promote.checkpoint_hours``, as with the role timestamp of The Update Framework
(https://theupdateframework.github.io/specification/latest/).
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from checks.config.release_params import Promote
from checks.formats.signers import Signers
from checks.process.errors import EvidenceRefused, RemoteRefused
from release.evidence import statement, trust
from release.ledger import Ledger

_AHEAD = timedelta(minutes=5)  # clocks of two machines
_SIGN = "a signer with the role checkpoint signs one: `lockstep checkpoint --key FILE`"


class Seen(NamedTuple):
    """A valid checkpoint, of whatever age."""

    number: int
    head: str
    at: datetime
    signer: str


def tip(root: Path, ledger: Ledger, promote: Promote) -> str:
    """Return the tip of the ledger, which a checkpoint by a signer of the target branch confirms if one is required.

    Raises as ``Ledger.tip``, ``trust.known`` and ``check``.
    """
    head = ledger.tip()
    if promote.checkpoint_hours and ledger.remote:
        check(ledger, head, promote, trust.known(root))
    return head


def check(ledger: Ledger, tip: str, promote: Promote, signers: Signers) -> None:
    """Check that ``tip`` contains the last checkpoint, and that this is not too old.

    Does nothing if ``promote`` requires none or the ledger is in this clone. Raises RemoteRefused if there is none, it
    is too old or dated in the future, or the branch lacks its commit; EvidenceRefused if nobody signed it who may.
    """
    if promote.checkpoint_hours is None or not ledger.remote:
        return
    seen = last(ledger, signers)
    if seen is None:
        raise RemoteRefused(
            f"{ledger.shown}: has no checkpoint, and promote.checkpoint_hours requires one", _SIGN
        )
    hold(ledger, tip, seen)
    age = datetime.now(UTC) - seen.at
    if age < -_AHEAD:
        raise RemoteRefused(
            f"{ledger.shown}: checkpoint {seen.number} is of {seen.at:%Y-%m-%d %H:%M} UTC, which is in the future",
            "set this machine's clock; if it is right, sign a new checkpoint with a right one",
        )
    if age > timedelta(hours=promote.checkpoint_hours):
        raise RemoteRefused(
            f"{ledger.shown}: its last checkpoint, {seen.number} of {seen.at:%Y-%m-%d %H:%M} UTC, is older than "
            f"{promote.checkpoint_hours} hours",
            f"{_SIGN}; if that is done regularly, ask why the remote shows an old state",
        )


def last(ledger: Ledger, signers: Signers) -> Seen | None:
    """Return the last checkpoint; None if there is none.

    Raises EvidenceRefused if nobody signed it who may, or if it is an older one that was written again.
    """
    there = ledger.checkpoint()
    if there is None:
        return None
    name = f"the checkpoint of {ledger.shown}"
    verified = trust.verify(there.signed, signers, "checkpoint", name)
    checkpoint = statement.parse_checkpoint(verified.payload, ledger.branch, name)
    number = checkpoint.predicate.number
    if number != there.written:
        raise EvidenceRefused(
            f"{name}: is number {number}, and {there.written} were written: an older one was put in place of the last",
            "see who wrote the last commit of the branch of the checkpoints, and take it away",
        )
    return Seen(number, checkpoint.head, checkpoint.predicate.at.astimezone(UTC), verified.signer)


def hold(ledger: Ledger, tip: str, seen: Seen) -> None:
    """Raise RemoteRefused if the branch at ``tip`` lacks the commit of a checkpoint."""
    if not ledger.holds(seen.head, tip):
        raise RemoteRefused(
            f"{ledger.shown}: is {tip[:12]} and lacks {seen.head[:12]}, of checkpoint {seen.number} that {seen.signer} "
            f"signed on {seen.at:%Y-%m-%d}: its history was rewound",
            "restore the branch from a clone that has that commit",
        )
