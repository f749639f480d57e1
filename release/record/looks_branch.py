"""The branch lockstep/looks of the remote: one commit for each model that a test split judged, with its evaluation.

A pull request that is closed, or whose record is overwritten by a force push, leaves no trace on the branches that
people use. ``looks`` counts what stands here. Where force pushes and deletion are forbidden, no commit can be removed
from it. Elsewhere a clone notices a removal, because it remembers the last commit that it saw.
"""

from collections.abc import Sequence
from pathlib import Path

from checks.process.errors import Outrun, PromotionRefused, RemoteRefused
from checks.storage import layout
from release.adapters import commits
from release.adapters.git import Git
from release.ledger import DEADLINE, place, push, write
from release.ledger.types import Change, Place
from release.record import judged_models
from release.record.records import Records

BRANCH = "lockstep/looks"
_KEPT = (layout.EVALUATION, layout.VERDICT)  # the look, and the rows of its test split
_TRIES = 20  # each further one means that another look was added meanwhile


def add(git: Git, remote: str) -> None:
    """Push evaluation and verdict in the work tree of ``git`` to ``remote``, unless the branch has this model's look.

    Raises RemoteRefused if the remote refuses, does not answer, or lost looks that this clone saw, if something else is
    where the branch must have the evaluation, or if others keep adding looks.
    """
    kept: dict[Path, bytes | None] = {path: (git.root / path).read_bytes() for path in _KEPT}
    look = judged_models.look(kept[layout.EVALUATION] or b"")
    assert look is not None  # A record that holds has a look.
    branch_place = _place(git, remote)
    message = (
        f"look: model {look.model.removeprefix('sha256:')[:12]} on test "
        f"{look.test.removeprefix('sha256:')[:12]}\n"
    )
    for _ in range(_TRIES):
        tip = place.look(branch_place).tip
        if tip is not None:
            place.bring(branch_place, tip)
            if look in judged_models.recorded(git.root, tip):
                return
        try:
            _add(branch_place, tip, Change(kept, message))
        except Outrun:
            continue
        except PromotionRefused as refused:
            raise RemoteRefused(f"{branch_place.shown}: {refused.what}", refused.todo) from refused
        return
    # Not Outrun: its exit code says that the pull request's branch moved, and that nothing needs to be done.
    raise RemoteRefused(
        f"{branch_place.shown}: others added looks during all {_TRIES} tries", "run it again"
    )


def bring(records: Records, *, reached: bool = False) -> Sequence[str]:
    """Fetch the branch, and return its tip; empty if there is none.

    If the remote does not answer, return what this clone has of the branch; with ``reached`` raise RemoteRefused.
    Raises RemoteRefused if the remote lost looks that this clone saw.
    """
    git = Git(records.root, DEADLINE)
    if records.head is None:
        return ()
    remote = commits.main_remote(records.root)
    branch_place = _place(git, remote)
    try:
        tip = place.look(branch_place).tip
    except RemoteRefused:
        if reached:
            raise
        refs = git.line(
            "for-each-ref",
            "--format=%(objectname)",
            branch_place.seen,
            f"refs/remotes/{remote}/{BRANCH}",
        )
        return refs.split()
    if tip is None:
        place.never_was(branch_place)
        return ()
    place.bring(branch_place, tip)
    return (tip,)


def before(root: Path, tips: Sequence[str], own: judged_models.Look) -> judged_models.Known:
    """The looks of the branch, and rows of their splits, without those that came after ``own``.

    A commit came after ``own`` only if it descends from a commit with that look. So nobody hides looks by a merge with
    a history that begins with their own.
    """
    if not tips:
        return judged_models.Known()
    git = Git(root, DEADLINE)
    listed = git.line(
        "rev-list", "--full-history", *tips, "--", *(path.as_posix() for path in _KEPT)
    )
    order = [commit for commit in listed.split("\n") if commit]
    texts = git.named([f"{commit}:./{path.as_posix()}" for commit in order for path in _KEPT])
    looks = dict(zip(order, (judged_models.look(text or b"") for text in texts[::2]), strict=True))
    splits = dict(
        zip(order, (judged_models.split(text or b"") for text in texts[1::2]), strict=True)
    )
    owns = [commit for commit, look in looks.items() if look == own]
    later = set(owns)
    for commit in owns:
        later |= set(git.line("rev-list", "--ancestry-path", *tips, f"^{commit}").split("\n"))
    earlier = [commit for commit in order if commit not in later]
    return judged_models.Known(
        frozenset(look for commit in earlier if (look := looks[commit])),
        frozenset(split for commit in earlier if (split := splits[commit])),
    )


def _place(git: Git, remote: str | None) -> Place:
    return Place(git, BRANCH, remote, git.prefix())


def _add(where: Place, tip: str | None, change: Change) -> None:
    """Commit on ``tip``, or create the branch if that is None. Raises Outrun if the branch moved meanwhile."""
    if tip is not None:
        write.commit(where, tip, change, ())
        return
    place.never_was(where)
    git = where.git
    empty = git.line("mktree", given=b"")
    begun = git.line(
        "commit-tree", *write.signing(git), "-m", "Models that test splits judged", empty
    )
    try:
        made = push.propose(where, write.commit_of(git, begun, change, where.prefix), BRANCH)
    except RemoteRefused as refused:
        if place.look(where).tip is None:
            raise
        raise Outrun(refused.what, refused.todo) from refused  # somebody else began it
    place.bring(where, made)  # remembers it
