"""Pushes the commit of a record to the branch that was judged, if that branch is still at the judged commit."""

from collections.abc import Sequence
from pathlib import Path

from checks.process.errors import Outrun, ParamsRefused, RemoteRefused
from checks.process.text import redact
from release.adapters.git import Git
from release.ledger import place
from release.ledger.types import Place
from release.record import looks_branch


def push(git: Git, roots: Sequence[Path], branch: str, head: str, made: str) -> str:
    """Move the remote branch from ``head`` to ``made``. Returns the commit that the branch then has.

    The looks of the projects ``roots`` are pushed before.
    If the branch already has a commit on ``head`` with the same record, that commit is used: the run was repeated.
    """
    ref = f"refs/heads/{branch}"
    shown = f"{redact(branch, 100)} of {looks_branch.REMOTE}"
    if git.run("check-ref-format", ref).code != 0:
        raise ParamsRefused(
            f"{redact(branch, 100)!r}: is not a valid branch name", "name the pull request's branch"
        )
    # This comes first: the test split was asked, whatever becomes of the branch.
    for root in roots:
        looks_branch.add(git._replace(root=root), looks_branch.REMOTE)
    remote = Place(git, branch, looks_branch.REMOTE, "")
    now = place.look(remote).tip
    if now == head and made != head:
        answer = git.run(
            "push", "--porcelain", "--no-verify", "--no-follow-tags", "--recurse-submodules=no",
            f"--force-with-lease={ref}:{head}", "--", looks_branch.REMOTE, f"{made}:{ref}",
        )  # fmt: skip
        now = place.look(remote).tip
        if now == head:  # The remote shows the push, so git's words do not count.
            raise RemoteRefused(
                f"{shown}: {answer.why()}: nothing was pushed",
                "do what the remote requires, then run it again",
            )
    if now == made:
        return made
    if now is not None and _is_here(git, now, ref) and place.same_change(git, now, made):
        return now
    state = f"is at {now[:12]}" if now else "is gone"
    raise Outrun(
        f"{shown}: {state}, and this is the record of {head[:12]}: nothing was pushed",
        "nothing needs to be done where its new commit has a run of its own; else pull, and run it again",
    )


def _is_here(git: Git, commit: str, ref: str) -> bool:
    """Whether the commit is in this clone, after fetching it."""
    options = ("--quiet", "--no-tags", "--no-write-fetch-head", "--refmap=", "--")
    git.run("fetch", *options, looks_branch.REMOTE, ref)
    return place.has(git, commit)
