"""record: commits the record of a run (code.lock, dvc.lock and the reports in git) to its branch, as one commit.

The commit is built from git objects on top of the judged commit, and pushed only if the branch is still there. If the
branch moved, no record is pushed; the run of the new commit records its own result. Nothing else of the work tree is
committed. The look at the test split is pushed first, to a branch of its own.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from checks.formats.verdict import Status, Verdict
from checks.process.errors import EvidenceRefused, Outrun, ParamsRefused, RemoteRefused
from checks.process.text import redact
from checks.records.rows import Record
from release.adapters import commits, dvc
from release.adapters.git import Git
from release.adapters.projects import top
from release.ledger import DEADLINE, Change, place
from release.ledger.types import Place
from release.ledger.write import commit_of
from release.record import committed, committed_code, hand_over, looks_branch, running_code
from release.record.records import Records
from release.review import gathering


class CommittedRecord(Record):
    """``commit`` contains the record's ``files`` on top of ``judged``; it equals ``judged`` if git already had them.

    ``files`` are named from the git root. ``missing``: why projects have no record, a line each.
    """

    judged: str
    commit: str
    status: Status
    files: tuple[str, ...]
    branch: str | None  # The remote's branch, if it was pushed.
    missing: tuple[str, ...] = ()


class _ProjectRecord(NamedTuple):
    root: Path
    folder: Path  # below the git root
    verdict: Verdict
    files: Mapping[Path, bytes]  # by path from the git root


def commit_record(
    root: Path,
    branch: str | None = None,
    target: str | None = None,
    projects: Sequence[str] = (),
) -> CommittedRecord:
    """Commit the record on HEAD; with ``branch``, push it there, if that branch is still at HEAD.

    ``projects``: folders below ``root`` whose records are one commit; none: ``root`` itself. ``target`` is the target
    branch; default: ``commits.target``. Raises EvidenceRefused if no work tree has a record of HEAD's parameters and
    code, Outrun if the branch moved, RemoteRefused if the remote refuses or does not answer, PromotionRefused if git
    does not know who commits.
    """
    head = commits.resolve(root, "HEAD") if commits.has_repository(root) else None
    if head is None:
        raise EvidenceRefused(
            f"{root.resolve()}: git has no commit here", "commit the change first, then its record"
        )
    records, missing = list[_ProjectRecord](), list[str]()
    for folder in projects or ("",):
        try:
            records.append(_record(root / folder, head, target))
        except EvidenceRefused as refused:
            missing.append(f"{folder}: {refused.what}")
            if len(missing) == max(len(projects), 1):
                raise
    git = Git(top(root), DEADLINE)
    kept = {path: data for record in records for path, data in record.files.items()}
    made = commit_of(git, head, Change(kept, _message(records, head)))
    if branch is not None:
        made = _push(git, [record.root for record in records], branch, head, made)
    if made != head:
        git.ask("update-ref", "-m", "lockstep record", "HEAD", made, head)
        # Reset the index of these files alone.
        git.ask("reset", "--quiet", "--", *(path.as_posix() for path in kept))
    worst = next((record for record in records if record.verdict.status != "pass"), records[0])
    return CommittedRecord(
        judged=head, commit=made, status=worst.verdict.status, files=tuple(path.as_posix() for path in kept),
        branch=branch, missing=tuple(missing),
    )  # fmt: skip


def take(root: Path, artifact: Path, projects: Sequence[str] = ()) -> None:
    """Take the record of each project from the folder ``artifact``. Raises as ``hand_over.take``."""
    for folder in projects or ("",):
        hand_over.take(root / folder, artifact)


def fetch(root: Path, projects: Sequence[str] = ()) -> None:
    """Fetch the outputs of each project that the gates are asked with from its DVC remote, as far as it has them.

    What is missing then is said by the record, which needs it.
    """
    outputs = [path.as_posix() for path in hand_over.READ_BY_GATES]
    for home in (root / folder for folder in projects or ("",)):
        if dvc.has_remote(home):
            dvc.dvc(home, "pull", "--allow-missing", *outputs, aside=True)


def refusal(made: CommittedRecord) -> EvidenceRefused | None:
    """Return the refusal of the projects that have no record; None if there are none."""
    if not made.missing:
        return None
    return EvidenceRefused(
        made.missing[0],
        "run `lockstep -C FOLDER run` to its verdict, then record it",
        made.missing[1:],
    )


def _push(git: Git, roots: Sequence[Path], branch: str, head: str, made: str) -> str:
    """Move the remote branch from ``head`` to ``made``. Returns the commit that the branch then has.

    The looks of the projects ``roots`` are pushed before.
    If the branch already has a commit on ``head`` with the same record, that commit is used: the run was repeated.
    """
    ref = f"refs/heads/{branch}"
    shown = f"{redact(branch, 100)} of {commits.ORIGIN}"
    if git.run("check-ref-format", ref).code != 0:
        raise ParamsRefused(
            f"{redact(branch, 100)!r}: is not a valid branch name", "name the pull request's branch"
        )
    # This comes first: the test split was asked, whatever becomes of the branch.
    for root in roots:
        looks_branch.add(git._replace(root=root), commits.ORIGIN)
    remote = Place(git, branch, commits.ORIGIN, "")
    now = place.look(remote).tip
    if now == head and made != head:
        answer = git.run(
            "push", "--porcelain", "--no-verify", "--no-follow-tags", "--recurse-submodules=no",
            f"--force-with-lease={ref}:{head}", "--", commits.ORIGIN, f"{made}:{ref}",
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
    """Fetch the commit, and tell whether it is in this clone."""
    options = ("--quiet", "--no-tags", "--no-write-fetch-head", "--refmap=", "--")
    git.run("fetch", *options, commits.ORIGIN, ref)
    return place.has(git, commit)


def _record(root: Path, head: str, target: str | None) -> _ProjectRecord:
    """Return the record of one project. Raises EvidenceRefused if it has none of ``head``."""
    records = Records(root)
    gathered = gathering.gather(records, target)
    if gathered.state not in ("held", "recorded") or gathered.verdict is None:
        why = gathered.refusal.what if gathered.refusal else "validate refused the data"
        raise EvidenceRefused(
            f"there is no verdict to record: {why}", "run `lockstep run` to its verdict first"
        )
    todo = "commit it, so that the record is about a commit"
    running_code.check(root, committed=True)
    if changed := committed_code.uncommitted_input(Git(root, DEADLINE)):
        raise EvidenceRefused(f"{changed}: is not what HEAD has, and a stage reads it", todo)
    tree = records.work_tree
    EvidenceRefused.raise_for(committed_code.differences(root, head, tree.params, tree.lock), todo)
    kept = committed.record_files(records.work_tree)
    folder = commits.prefix(root)
    files = {folder / path: (root / path).read_bytes() for path in kept}
    return _ProjectRecord(root, folder, gathered.verdict, files)


def _message(records: Sequence[_ProjectRecord], head: str) -> str:
    verdicts = [
        f"verdict {record.verdict.status}, model {(record.verdict.model or 'none').removeprefix('sha256:')[:12]}"
        for record in records
    ]
    if len(records) > 1:
        verdicts = [
            f"{record.folder}: {verdict}" for record, verdict in zip(records, verdicts, strict=True)
        ]
    return f"Record: {'; '.join(verdicts)}\n\nWhat `lockstep run` made of {head}.\n"
