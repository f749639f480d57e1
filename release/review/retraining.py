"""The pull request that `lockstep watch --pr` opens where a window shows that the model no longer fits its traffic.

It has the window's report, requests queued for labelling, and which parameters to change. Nothing is trained or merged:
people label, change the parameters on its branch, and the pipeline and the gates decide as for any other change. While
it is open, a later window is one more commit on its branch, on top of what people wrote there.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from checks.formats.watch_report import WatchFinding, WatchReport
from checks.process.errors import EvidenceRefused, RemoteRefused
from checks.storage import layout
from release.adapters import commits, github
from release.adapters.git import Git
from release.adapters.retries import RequestError
from release.evidence import windows
from release.ledger import DEADLINE, Change, place, push, trees
from release.ledger.types import Place
from release.ledger.write import commit_of
from release.monitoring import advice
from release.monitoring.store import Task
from release.monitoring.window import Traffic
from release.pages.text import prose

_REMOTE = "origin"
# A service that fails is for the alerts: another model would not mend it.
_KINDS = ("drift", "proxy", "quality")
_DATA = "`data.uri`, `data.sha256`"
_PARAMETERS = {
    "prompts": f"{_DATA}: train and test rows like these requests",
    "valid labels": f"`monitor.labels` and `validate.labels` if the labels are new; else {_DATA}",
    "quality": f"{_DATA}: the rows that were labelled; then `train`",
}
_OTHERWISE = f"{_DATA}: rows with the answers that are wanted now; then `train`"


class Proposal(NamedTuple):
    """The outcome for the window. ``closed``: people closed or merged its pull request, and it is not opened again."""

    done: Literal["opened", "updated", "closed"]
    url: str


def failing(report: WatchReport) -> list[WatchFinding]:
    """The findings by which retraining is proposed; empty: nothing is proposed."""
    return [
        finding
        for finding in report.findings
        if finding.status == "fail" and finding.kind in _KINDS
    ]


def propose(root: Path, report: WatchReport, traffic: Traffic, rows: int) -> Proposal | None:
    """Open the pull request of ``report``, or update the one that is open; None if no finding proposes retraining.

    ``rows``: how many requests to queue at most. Raises RemoteRefused if the remote or GitHub refuses or does not
    answer, EvidenceRefused without a remote, PromotionRefused if git does not know who commits.
    """
    if not failing(report):
        return None
    git = Git(root, DEADLINE)
    trunk = Place(git, _base(root, git), _REMOTE, git.line("rev-parse", "--show-prefix"))
    repository = github.repository_here(git.config(f"remote.{_REMOTE}.url") or "")
    client = github.GitHub(github.place({**os.environ, "GITHUB_REPOSITORY": repository or ""}))
    try:
        return _proposed(client, trunk, report, traffic, rows)
    except RequestError as trouble:
        refused = client.refused(trouble)
        todo = "give GITHUB_TOKEN the permissions contents: write and pull-requests: write; then run it again"
        raise RemoteRefused(
            refused.what, todo if isinstance(trouble, github.Forbidden) else refused.todo
        ) from None


def _proposed(
    client: github.GitHub, trunk: Place, report: WatchReport, traffic: Traffic, rows: int
) -> Proposal:
    prefix = f"lockstep/{trunk.prefix}watch-{report.environment}-"
    ours = re.compile(rf"{re.escape(prefix)}\d{{4}}-\d\d-\d\d", re.ASCII)
    open_pull = next(
        (pull for pull in client.pulls("open", trunk.branch) if ours.fullmatch(pull.head)), None
    )
    branch = open_pull.head if open_pull else f"{prefix}{report.since:%Y-%m-%d}"
    if open_pull is None and (closed := next(client.pulls("closed", trunk.branch, branch), None)):
        return Proposal("closed", closed.url)
    tip = _fetched(trunk if open_pull is None else trunk._replace(branch=branch))
    queue = layout.QUEUED / f"{report.environment}-{report.since:%Y-%m-%d}.jsonl"
    tasks = list(_sample(traffic, rows))
    made = commit_of(trunk.git, tip, _change(trunk, tip, report, queue, tasks), trunk.prefix)
    title, body = _title(report, trunk.prefix), _body(report, queue if tasks else None)
    if open_pull is None:
        push.propose(trunk, made, branch)
        return Proposal("opened", client.open(title, branch, trunk.branch, body))
    if made != tip:
        push.propose(trunk, made, branch, tip)
    client.edit(open_pull.number, title, body)
    return Proposal("updated", open_pull.url)


def _base(root: Path, git: Git) -> str:
    """The branch that pull requests are made for."""
    name, _ = commits.target(root)
    if name == f"{_REMOTE}/HEAD":
        name = git.line("symbolic-ref", "refs/remotes/origin/HEAD").removeprefix("refs/remotes/")
    if not name.startswith(f"{_REMOTE}/"):
        raise EvidenceRefused(
            f"{root.resolve()}: has no remote {_REMOTE}",
            f"git remote add {_REMOTE} URL, and git fetch",
        )
    return name.removeprefix(f"{_REMOTE}/")


def _fetched(branch: Place) -> str:
    """The commit that the branch has, with its history here."""
    git = branch.git
    tip = place.look(branch).tip
    if tip is None:
        raise RemoteRefused(
            f"{branch.shown}: there is no such branch", "restore it, or close its pull request"
        )
    done = git.run(
        "fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules", "--refmap=", "--", _REMOTE,
        branch.ref,
    )  # fmt: skip
    if done.code != 0:
        raise place.unreachable(branch, done)
    return tip


def _change(trunk: Place, tip: str, report: WatchReport, queue: Path, tasks: list[Task]) -> Change:
    """The files of the window. A queue that is there already is left alone: people write their labels into it."""
    reports, signed = layout.WATCH / report.environment, windows.path(report)
    paths = [reports.with_suffix(".json"), reports.with_suffix(".svg")]
    paths += [signed] if (trunk.git.root / signed).is_file() else []
    written: dict[Path, bytes | None] = {
        path: (trunk.git.root / path).read_bytes() for path in paths
    }
    if tasks and trees.read(trunk.git, tip, f"{trunk.prefix}{queue.as_posix()}") is None:
        written[queue] = "".join(f"{task.model_dump_json()}\n" for task in tasks).encode()
    return Change(
        written,
        f"{_title(report, trunk.prefix)}\n\nWhat `lockstep watch` found; requests to label.\n",
    )


def _sample(traffic: Traffic, rows: int) -> Iterator[Task]:
    """Requests with an answer and without a label, one for each prompt, chosen by chance: by the hash of their ids."""
    seen = set[str]()
    for request in sorted(
        traffic.requests, key=lambda request: hashlib.sha256(request.request_id.encode()).digest()
    ):
        answered = (
            request.error is None
            and request.answer
            and request.prompt
            and request.request_id not in traffic.labels
        )
        if answered and request.prompt not in seen and len(seen) < rows:
            seen.add(request.prompt)
            yield Task(
                request_id=request.request_id,
                label=None,
                prompt=request.prompt,
                answer=request.answer or "",
            )


def _title(report: WatchReport, prefix: str) -> str:
    names = ", ".join(finding.name for finding in failing(report))
    project = f" of {prefix.rstrip('/')}" if prefix else ""
    return f"Watch {report.environment}{project} {report.since:%Y-%m-%d}: {names}"


def _body(report: WatchReport, queue: Path | None) -> str:
    reports = layout.WATCH / report.environment
    days = f"{report.since:%Y-%m-%d} to {report.until:%Y-%m-%d}"
    rows = "\n".join(
        f"| {finding.name} | {prose(finding.reason)} | {_PARAMETERS.get(finding.name, _OTHERWISE)} |"
        for finding in failing(report)
    )
    return f"""\
`./lockstep watch {report.environment}` judged {report.requests:,} requests to {report.version} from {days}:
{advice.advise(report).headline}. {advice.advise(report).step}. Nothing was trained, and nothing is merged by itself.

| finding | reason | parameters to change |
| --- | --- | --- |
{rows}

The report is `{reports}.json`, its picture `{reports}.svg`. At most {report.alpha:.2%} of such windows fail by chance.

What to do:

{_label(queue) if queue else ""}1. Change the parameters on this branch. The pipeline then trains, and the gates decide.
1. Or close this pull request. It is not opened again for this window.
"""


def _label(queue: Path) -> str:
    return f"""\
1. Label the requests in `{queue}`, which were chosen by chance: write into `label` what the answer should have been.
1. `./lockstep feedback {queue}` stores the labels, and the next window says how good the answers are.
1. Add the labelled rows to the training and test data.
"""
