"""record: commits the record of a run (code.lock, dvc.lock and the reports in git) to its branch, as one commit.

The commit is built from git objects on top of the judged commit, and pushed only if the branch is still there. If the
branch moved, no record is pushed; the run of the new commit records its own result. Nothing else of the work tree is
committed. The look at the test split is pushed first, to a branch of its own.
"""

import re
from pathlib import Path

from checks.formats.verdict import Status, Verdict
from checks.process.errors import EvidenceRefused, Outrun, ParamsRefused, RemoteRefused
from checks.process.text import redact
from checks.records.rows import Record
from checks.storage import layout
from release.adapters import commits
from release.adapters.git import Git
from release.ledger import DEADLINE, Change
from release.ledger.write import commit_of
from release.record import committed, committed_code, looks_branch
from release.record.records import Records
from release.review import gathering

_REMOTE = looks_branch.REMOTE
_PIPELINE = Path("dvc.yaml")
_HASH = re.compile(r"[0-9a-f]{40}", re.ASCII)


class CommittedRecord(Record):
    """``commit`` contains the record's ``files`` on top of ``judged``; it equals ``judged`` if git already had them."""

    judged: str
    commit: str
    status: Status
    files: tuple[str, ...]
    branch: str | None  # The remote's branch, if it was pushed.


def commit_record(
    root: Path, branch: str | None = None, target: str | None = None
) -> CommittedRecord:
    """Commit the record on HEAD; with ``branch``, push it there, if that branch is still at HEAD.

    ``target`` is the target branch; default: ``commits.target``. Raises EvidenceRefused if the work tree has no record
    of HEAD's parameters and code, Outrun if the branch moved, RemoteRefused if the remote refuses or does not answer,
    PromotionRefused if git does not know who commits.
    """
    git = Git(root, DEADLINE)
    head = commits.resolve(root, "HEAD") if commits.has_repository(root) else None
    if head is None:
        raise EvidenceRefused(
            f"{root}: git has no commit here", "commit the change first, then its record"
        )
    records = Records(root)
    gathered = gathering.gather(records, target)
    if gathered.state not in ("held", "recorded") or gathered.verdict is None:
        why = gathered.refusal.what if gathered.refusal else "validate refused the data"
        raise EvidenceRefused(
            f"there is no verdict to record: {why}", "run `lockstep run` to its verdict first"
        )
    todo = "commit it, so that the record is about a commit"
    if changed := _not_committed(git):
        raise EvidenceRefused(f"{changed}: is not what HEAD has, and a stage reads it", todo)
    if others := committed_code.differences(
        root, head, records.work_tree.params, records.work_tree.lock
    ):
        raise EvidenceRefused(others[0], todo, tuple(others[1:]))
    kept = committed.record_files(records.work_tree)
    change = Change(
        {path: (root / path).read_bytes() for path in kept}, _message(gathered.verdict, head)
    )
    made = commit_of(git, head, change, git.line("rev-parse", "--show-prefix"))
    if branch is not None:
        made = _push(git, branch, head, made)
    if made != head:
        git.ask("update-ref", "-m", "lockstep record", "HEAD", made, head)
        # Reset the index of these files alone.
        git.ask("reset", "--quiet", "--", *(path.as_posix() for path in kept))
    return CommittedRecord(
        judged=head, commit=made, status=gathered.verdict.status, files=tuple(path.as_posix() for path in kept),
        branch=branch,
    )  # fmt: skip


def _not_committed(git: Git) -> str | None:
    """The first path, printable, that stages read and that differs from HEAD; None if there is none."""
    inputs = (layout.PARAMS.as_posix(), _PIPELINE.as_posix(), "stages", "checks")
    out = git.ask("status", "--porcelain", "-z", "--untracked-files=no", "--", *inputs).decode(
        errors="replace"
    )
    first = out.partition("\0")[0]
    return redact(first[3:], 100) if first else None


def _message(verdict: Verdict, head: str) -> str:
    model = (verdict.model or "none").removeprefix("sha256:")[:12]
    return (
        f"Record: verdict {verdict.status}, model {model}\n\nWhat `lockstep run` made of {head}.\n"
    )


def _push(git: Git, branch: str, head: str, made: str) -> str:
    """Move the remote branch from ``head`` to ``made``. Returns the commit that the branch then has.

    If the branch already has a commit on ``head`` with the same record, that commit is used: the run was repeated.
    """
    ref = f"refs/heads/{branch}"
    shown = f"{redact(branch, 100)} of {_REMOTE}"
    if git.run("check-ref-format", ref).code != 0:
        raise ParamsRefused(
            f"{redact(branch, 100)!r}: is not a valid branch name", "name the pull request's branch"
        )
    # This comes first: the test split was asked, whatever becomes of the branch.
    looks_branch.add(git, _REMOTE)
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
