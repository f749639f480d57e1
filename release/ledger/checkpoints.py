"""The branch with the signed checkpoints of the ledger: ``lockstep/checkpoint/BRANCH``, beside the ledger's own.

It holds one file for each project, and each commit follows the one before it, so git refuses to take a checkpoint back,
and a clone remembers the last one that it saw. What a checkpoint says is checked above this layer
(``release.evidence.freshness``).
"""

from pathlib import Path
from typing import NamedTuple

from checks.process.errors import RemoteRefused
from release.ledger import place, push, trees, write
from release.ledger.types import Change, Place

FILE = Path("lockstep-checkpoint.json")


class Last(NamedTuple):
    """The last checkpoint, as it was signed. ``written``: how many commits wrote one, this one included."""

    signed: bytes
    written: int


def last(ledger: Place) -> Last | None:
    """The last checkpoint; None if there is none.

    Raises RemoteRefused if the remote does not answer, or has fewer checkpoints than before.
    """
    checkpoint_ledger = _of(ledger)
    tip = place.look(checkpoint_ledger).tip
    if tip is None:
        place.never_was(checkpoint_ledger)
        return None
    place.bring(checkpoint_ledger, tip)
    path = f"{ledger.prefix}{FILE}"
    signed = trees.read(checkpoint_ledger.git, tip, path)
    if signed is None:
        return None
    return Last(
        signed,
        int(
            checkpoint_ledger.git.line(
                "rev-list", "--count", "--first-parent", tip, "--", f":(top,literal){path}"
            )
        ),
    )


def add(ledger: Place, head: str, signed: bytes, message: str) -> str:
    """Commit and push a checkpoint of the commit ``head``; return the commit.

    Raises as ``Ledger.commit``: Outrun if somebody else added one first.
    """
    checkpoint_ledger, change = _of(ledger), Change({FILE: signed}, message)
    tip = place.look(checkpoint_ledger).tip
    if tip is None:
        return push.propose(
            ledger,
            write.commit_of(ledger.git, head, change, ledger.prefix),
            checkpoint_ledger.branch,
        )
    place.bring(checkpoint_ledger, tip)
    return write.commit(checkpoint_ledger, tip, change, ())[0]


def holds(ledger: Place, head: str, tip: str) -> bool:
    """Whether ``tip``, which was read from the ledger, contains the commit ``head``.

    Raises RemoteRefused if it does not because the ledger moved since it was read.
    """
    if place.has(ledger.git, head) and ledger.git.says("merge-base", "--is-ancestor", head, tip):
        return True
    if place.look(ledger).tip != tip:
        raise RemoteRefused(f"{ledger.shown}: moved while it was read", "run it again")
    return False


def _of(ledger: Place) -> Place:
    return ledger._replace(branch=f"lockstep/checkpoint/{ledger.branch}")
