"""record: commits the record of a run (code.lock, dvc.lock and the reports in git) to its branch, as one commit.

The commit is built from git objects on top of the judged commit, and pushed only if the branch is still there. If the
branch moved, no record is pushed; the run of the new commit records its own result. Nothing else of the work tree is
committed. The look at the test split is pushed first, to a branch of its own.
"""

from pathlib import Path

from checks.formats.verdict import Status, Verdict
from checks.process.errors import EvidenceRefused
from checks.process.text import redact
from checks.records.rows import Record
from checks.storage import layout
from release.adapters import commits
from release.adapters.git import Git
from release.ledger import DEADLINE, Change
from release.ledger.write import commit_of
from release.record import committed, committed_code, record_branch
from release.record.records import Records
from release.review import gathering

_PIPELINE = Path("dvc.yaml")


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
        made = record_branch.push(git, branch, head, made)
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
    inputs = (*map(str, (layout.PARAMS, _PIPELINE, layout.KINDS)), "stages", "checks")
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
