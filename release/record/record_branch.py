"""Pushes the record of a run to the branch of its pull request, if the branch is still where the run began."""

import re
from collections.abc import Sequence
from pathlib import Path

from checks.process.errors import Outrun, ParamsRefused, RemoteRefused
from checks.process.text import redact
from release.adapters.git import Git
from release.record import looks_branch

_REMOTE = looks_branch.REMOTE
_HASH = re.compile(r"[0-9a-f]{40}", re.ASCII)


def push(git: Git, roots: Sequence[Path], branch: str, head: str, made: str) -> str:
    """Move the remote branch from ``head`` to ``made``. Returns the commit that the branch then has.

    The looks of the projects ``roots`` are pushed before.
    If the branch already has a commit on ``head`` with the same record, that commit is used: the run was repeated.
    """
    ref = f"refs/heads/{branch}"
    shown = f"{redact(branch, 100)} of {_REMOTE}"
    if git.run("check-ref-format", ref).code != 0:
        raise ParamsRefused(
            f"{redact(branch, 100)!r}: is not a valid branch name", "name the pull request's branch"
        )
    # This comes first: the test split was asked, whatever becomes of the branch.
    for root in roots:
        looks_branch.add(git._replace(root=root), _REMOTE)
    now = _look(git, ref, shown)
    if now == head and made != head:
        answer = git.run(
            "push", "--porcelain", "--no-verify", "--no-follow-tags", "--recurse-submodules=no",
            f"--force-with-lease={ref}:{head}", "--", _REMOTE, f"{made}:{ref}",
        )  # fmt: skip
        now = _look(git, ref, shown)
        if now == head:  # The remote shows the push, so git's words do not count.
            raise RemoteRefused(
                f"{shown}: {answer.why()}: nothing was pushed",
                "do what the remote requires, then run it again",
            )
    if now == made:
        return made
    if now is not None and _has(git, now, ref) and _same(git, now, made):
        return now
    state = f"is at {now[:12]}" if now else "is gone"
    raise Outrun(
        f"{shown}: {state}, and this is the record of {head[:12]}: nothing was pushed",
        "nothing needs to be done where its new commit has a run of its own; else pull, and run it again",
    )


def _look(git: Git, ref: str, shown: str) -> str | None:
    answer = git.run("ls-remote", "--", _REMOTE, ref)
    if answer.code != 0:
        raise RemoteRefused(
            f"{shown}: {answer.why()}",
            f"see that git has credentials for it: git ls-remote {_REMOTE}",
        )
    for line in answer.out.decode(errors="replace").splitlines():
        value, _, name = line.partition("\t")
        if name == ref and _HASH.fullmatch(value):
            return value
    return None


def _has(git: Git, commit: str, ref: str) -> bool:
    """Whether the commit is in this clone, after fetching it."""
    git.run(
        "fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--refmap=", "--", _REMOTE, ref
    )
    return git.run("cat-file", "-e", f"{commit}^{{commit}}").code == 0


def _same(git: Git, one: str, two: str) -> bool:
    """Whether two commits have the same tree and parents."""
    form = "--format=%T %P"
    first, second = (
        git.line("show", "--no-patch", form, "--no-show-signature", commit) for commit in (one, two)
    )
    return first == second
