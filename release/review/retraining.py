"""The pull request that `lockstep watch --pr` opens where a window shows that the model no longer fits its traffic.

It has the window's report, requests queued for labelling, and which parameters to change. Nothing is trained or merged:
people label, change the parameters on its branch, and the pipeline and the gates decide as for any other change. While
it is open, a later window is one more commit on its branch, on top of what people wrote there.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from checks.formats.watch_report import WatchFinding, WatchReport
from checks.storage import layout
from release.evidence import windows
from release.ledger import Change, trees
from release.ledger.types import Place
from release.monitoring import advice
from release.monitoring.store import Task
from release.monitoring.window import Traffic
from release.pages.text import prose
from release.review import proposals

# A service that fails is for the alerts: another model would not mend it.
_KINDS = ("drift", "proxy", "quality")
_DATA = "`data.uri`, `data.sha256`"
_PARAMETERS = {
    "prompts": f"{_DATA}: train and test rows like these requests",
    "valid labels": f"`monitor.labels` and `validate.labels` if the labels are new; else {_DATA}",
    "quality": f"{_DATA}: the rows that were labelled; then `train`",
}
_OTHERWISE = f"{_DATA}: rows with the answers that are wanted now; then `train`"


def failing(report: WatchReport) -> list[WatchFinding]:
    """The findings by which retraining is proposed; empty: nothing is proposed."""
    return [
        finding
        for finding in report.findings
        if finding.status == "fail" and finding.kind in _KINDS
    ]


def propose(
    root: Path, report: WatchReport, traffic: Traffic, rows: int
) -> proposals.Proposal | None:
    """Open the pull request of ``report``, or update the one that is open; None if no finding proposes retraining.

    ``rows``: how many requests to queue at most. Raises RemoteRefused if the remote or GitHub refuses or does not
    answer, EvidenceRefused without a remote, PromotionRefused if git does not know who commits.
    """
    if not failing(report):
        return None
    queue = layout.QUEUED / f"{report.environment}-{report.since:%Y-%m-%d}.jsonl"
    tasks = list(_sample(traffic, rows))

    def draft(prefix: str) -> proposals.Draft:
        return proposals.Draft(
            _title(report, prefix), _body(report, queue if tasks else None),
            lambda trunk, tip: _change(trunk, tip, report, queue, tasks),
        )  # fmt: skip

    topic = f"watch-{report.environment}"
    return proposals.propose(root, topic, f"{report.since:%Y-%m-%d}", draft)


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
