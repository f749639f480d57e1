"""watch: judges one window of an environment's captured traffic against the release that it runs.

Objectives, drift of prompts and answers, proxies of quality, quality where labels came, cost. It reads captures and the
release's record; it changes nothing but its own report, unless it is to open a pull request.

With `--pr` it opens one where a window shows that the model no longer fits its traffic: with the window's report,
requests queued for labelling, and which parameters to change. Nothing is trained or merged: people label, change the
parameters on its branch, and the pipeline and the gates decide as for any other change. While it is open, a later
window is one more commit on its branch, on top of what people wrote there.
"""

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from checks.config.params import Params
from checks.formats.watch_report import WatchFinding, WatchReport
from checks.process.errors import EvidenceRefused, Refusal, VerdictFailed, VerdictInconclusive
from checks.stats.drift import Separation
from checks.storage import files, layout
from release.evidence import windows
from release.evidence.trust import Signatory
from release.ledger import Change, Ledger, trees
from release.ledger.types import Place
from release.monitoring import (
    advice,
    answers,
    evidently_page,
    picture,
    reference,
    releases,
    window,
    window_report,
)
from release.monitoring.store import CaptureStore, Task
from release.pages.text import prose
from release.promotion import context, emergency
from release.record.records import Records
from release.review import proposals
from release.verbs.history import moment

# A service that fails is for the alerts: another model would not mend it.
_KINDS = ("drift", "proxy", "quality")
_DATA = "`data.uri`, `data.sha256`"
_PARAMETERS = {
    "prompts": f"{_DATA}: train and test rows like these requests",
    "valid labels": f"`monitor.labels` and `validate.labels` if the labels are new; else {_DATA}",
    "quality": f"{_DATA}: the rows that were labelled; then `train`",
}
_OTHERWISE = f"{_DATA}: rows with the answers that are wanted now; then `train`"


class Watched(NamedTuple):
    """Has what ``watch`` did. ``proposal``: the pull request, if one was asked for.

    ``lapsed``: the refusal if the release may not run there any more. ``prompts``: those of the window beside those of
    the release's data, if they were asked for; None: one side has too few.
    """

    report: WatchReport
    proposal: proposals.Proposal | None
    lapsed: Refusal | None
    prompts: Separation | None


def watch(
    root: Path,
    environment: str,
    since: str | None = None,
    until: str | None = None,
    captures: str | None = None,
    evidently: Path | None = None,
    rows: int | None = None,
    signatory: Signatory | None = None,
    prompts: bool = False,
) -> Watched:
    """Judge the window and write reports/watch/ENV.json and ENV.svg. ``refusal`` says how a verdict ends.

    ``since`` and ``until``: a date or a time, see `lockstep history`; None: the last whole window. ``captures``: the
    gateway's folder or address; None: that of this machine. ``evidently``: the Python of an environment with Evidently,
    which then writes ``page``; None: no page. With ``rows`` a pull request proposes retraining where drift, a proxy or
    quality fails, with at most so many requests queued for labelling; None: it proposes nothing. ``signatory`` signs
    the report into a file of its own (``release.evidence.windows``); None: nobody does. ``prompts``: also return what
    the window's prompts have that the release's data has not; no report has these texts.

    Raises ParamsRefused if there is no such environment, EvidenceRefused if it runs nothing, no request to its release
    was captured, or the reference cannot be had; MachineRefused without scikit-learn; RemoteRefused; as
    ``proposals.propose``; and with ``signatory`` as ``context.check_signing``.
    """
    if signatory is not None:
        context.check_signing(root)
    records = Records(root)
    params = records.work_tree.params
    now = datetime.now(UTC)
    span = _span(since, until, params, now)
    ledger = Ledger.open(root, params.promote)
    release = releases.runs(root, params, environment, ledger)
    standings = emergency.here(records, ledger, ledger.begun() or "", params.promote)
    standing = standings[environment]
    store = CaptureStore(captures or str(root / layout.CAPTURES))
    traffic = window.read(store, environment, span, release.model, now, params.monitor.label_hours)
    before = window.earlier(store, environment, span, release.model)
    offline = reference.read(records, release, params)
    served = window.answered(traffic, offline.scorer)
    report = window_report.report(
        environment, span, release, traffic, before, served, offline, params.monitor
    )
    if standing.line:
        report = report.model_copy(update={"notes": (standing.line, *report.notes)})
    files.write_json(root / layout.WATCH / f"{environment}.json", report)
    files.write_text(root / layout.WATCH / f"{environment}.svg", picture.draw(report))
    if signatory is not None:
        windows.write(root, report, signatory)
    if evidently is not None:
        # The page has megabytes, so it is not among the reports in git.
        page = root / layout.STATE / "watch" / f"{environment}.html"
        evidently_page.write(evidently, page, served, offline)
    proposal = None if rows is None else _propose(root, report, traffic, rows)
    beside = (
        answers.beside_training(served, offline, params.monitor.confidence) if prompts else None
    )
    return Watched(report, proposal, standing.refusal(environment), beside)


def refusal(report: WatchReport) -> Refusal | None:
    """Return the refusal for a window that does not pass; None for ``pass``."""
    if report.status == "pass":
        return None
    names = ", ".join(
        finding.name for finding in report.findings if finding.status == report.status
    )
    what = f"{report.environment}: {report.status}: {names}"
    path = layout.WATCH / f"{report.environment}.json"
    kind = VerdictFailed if report.status == "fail" else VerdictInconclusive
    return kind(what, f"read the reasons in {path}")


def _span(since: str | None, until: str | None, params: Params, now: datetime) -> window.TimeSpan:
    if since is None and until is None:
        return window.last_whole(now, params.monitor.window_days)
    if since is None or until is None:
        raise EvidenceRefused(
            "--from and --to: one is missing", "give both, or none for the last whole window"
        )
    span = window.TimeSpan(moment(since, now).start, moment(until, now).start)
    if span.since >= span.until:
        raise EvidenceRefused(f"--to {until}: is not after --from {since}", "swap them")
    return span


def _failing(report: WatchReport) -> list[WatchFinding]:
    """Return the findings by which retraining is proposed; empty: nothing is proposed."""
    return [
        finding
        for finding in report.findings
        if finding.status == "fail" and finding.kind in _KINDS
    ]


def _propose(
    root: Path, report: WatchReport, traffic: window.Traffic, rows: int
) -> proposals.Proposal | None:
    """Open the pull request of ``report``, or update the one that is open; None if no finding proposes retraining.

    ``rows``: how many requests to queue at most. Raises RemoteRefused if the remote or GitHub refuses or does not
    answer, EvidenceRefused without a remote, PromotionRefused if git does not know who commits.
    """
    if not _failing(report):
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
    """Return the files of the window. An existing queue is left alone: people write their labels into it."""
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


def _sample(traffic: window.Traffic, rows: int) -> Iterator[Task]:
    """Yield answered requests without a label, one for each prompt, at random: in the order of their ids' hashes."""
    seen = set[str]()
    for request in sorted(
        traffic.requests, key=lambda request: hashlib.sha256(request.request_id.encode()).digest()
    ):
        answered = (
            request.error is None
            and request.answer
            and request.prompt
            and request.request_id not in traffic.labels
            and request.request_id not in traffic.waiting
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
    names = ", ".join(finding.name for finding in _failing(report))
    project = f" of {prefix.rstrip('/')}" if prefix else ""
    return f"Watch {report.environment}{project} {report.since:%Y-%m-%d}: {names}"


def _body(report: WatchReport, queue: Path | None) -> str:
    reports = layout.WATCH / report.environment
    days = f"{report.since:%Y-%m-%d} to {report.until:%Y-%m-%d}"
    rows = "\n".join(
        f"| {finding.name} | {prose(finding.reason)} | {_PARAMETERS.get(finding.name, _OTHERWISE)} |"
        for finding in _failing(report)
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
