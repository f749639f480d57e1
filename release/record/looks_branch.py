"""The branch lockstep/looks of the remote: one commit for each model that a test split judged, with its evaluation.

A pull request that is closed, or whose record is overwritten by a force push, leaves no trace on the branches that
people use. ``looks`` counts every branch that git has, so it counts this one. Where force pushes and deletion are
forbidden, no commit can be removed from it. Elsewhere a clone notices a removal, because it remembers the last commit
that it saw.
"""

from pathlib import Path

from checks import layout
from checks.errors import Outrun, PromotionRefused, RemoteRefused
from release.adapters.git import Git
from release.ledger import place, push, write
from release.ledger.types import Change, Place
from release.record import looks

BRANCH = "lockstep/looks"
_TRIES = 20  # each further one means that another look was added meanwhile


def add(git: Git, remote: str) -> None:
    """Push the evaluation in the work tree of ``git`` to ``remote``, unless the branch has a look at this model.

    Raises RemoteRefused if the remote refuses, does not answer, or lost looks that this clone saw, if something else is
    where the branch must have the evaluation, or if others keep adding looks.
    """
    evaluation = (git.root / layout.EVALUATION).read_bytes()
    look = looks.parse(evaluation)
    assert look is not None  # of a record that holds
    where = Place(git, BRANCH, remote, git.line("rev-parse", "--show-prefix"))
    message = (
        f"look: model {look.model.removeprefix('sha256:')[:12]} on test {look.test.removeprefix('sha256:')[:12]}\n"
    )
    for _ in range(_TRIES):
        tip = place.look(where).tip
        if tip is not None:
            place.bring(where, tip)
            if look in looks.recorded(git.root, tip):
                return
        try:
            _add(where, tip, Change({Path(layout.EVALUATION): evaluation}, message))
        except Outrun:
            continue
        except PromotionRefused as refused:
            raise RemoteRefused(f"{where.shown}: {refused.what}", refused.todo) from refused
        return
    # Not Outrun: its exit code says that the pull request's branch moved, and that nothing needs to be done.
    raise RemoteRefused(f"{where.shown}: others added looks during all {_TRIES} tries", "run it again")


def _add(where: Place, tip: str | None, change: Change) -> None:
    """Commit on ``tip``, or create the branch if that is None. Raises Outrun if the branch moved meanwhile."""
    if tip is not None:
        write.commit(where, tip, change, ())
        return
    place.never_was(where)
    git = where.git
    empty = git.line("mktree", given=b"")
    begun = git.line("commit-tree", *write.signing(git), "-m", "Models that test splits judged", empty)
    try:
        made = push.propose(where, write.commit_of(git, begun, change, where.prefix), BRANCH)
    except RemoteRefused as refused:
        if place.look(where).tip is None:
            raise
        raise Outrun(refused.what, refused.todo) from refused  # somebody else began it
    place.bring(where, made)  # remembers it
