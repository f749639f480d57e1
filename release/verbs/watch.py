"""watch: judges one window of an environment's captured traffic against the release that it runs.

Objectives, drift of prompts and answers, proxies of quality, quality where labels came, cost. It reads captures and the
release's record; it changes nothing but its own report, unless it is to open a pull request.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from checks.config.monitor import Cost
from checks.config.params import Params
from checks.formats.verdict import Status
from checks.formats.watch_report import Costs, WatchFinding, WatchReport
from checks.process.errors import EvidenceRefused, Refusal, VerdictFailed, VerdictInconclusive
from checks.storage import files, layout
from release.monitoring import (
    answers,
    asked,
    evidently_page,
    picture,
    reference,
    releases,
    service,
    window,
)
from release.monitoring.answers import Windows
from release.monitoring.store import Store
from release.monitoring.window import Span, Traffic
from release.record.records import Records
from release.review import retraining
from release.review.retraining import Proposal
from release.verbs.history import moment


class WatchOptions(NamedTuple):
    """``since`` and ``until``: a date or a time, see `lockstep history`; None: the last whole window.

    ``captures``: the gateway's folder or address; None: that of this machine. ``evidently``: the Python of an
    environment with Evidently, which then writes ``page``; None: no page.
    """

    since: str | None = None
    until: str | None = None
    captures: str | None = None
    evidently: Path | None = None


def watch(
    root: Path, environment: str, options: WatchOptions | None = None, now: datetime | None = None
) -> WatchReport:
    """Judge the window and write reports/watch/ENV.json and ENV.svg. ``refusal`` says how a verdict ends.

    Raises ParamsRefused if there is no such environment, EvidenceRefused if it runs nothing, no request to its release
    was captured, or the reference cannot be had; MachineRefused without scikit-learn; RemoteRefused.
    """
    return _judged(root, environment, options, now)[0]


def propose(
    root: Path, environment: str, options: WatchOptions | None = None, rows: int = 50
) -> tuple[WatchReport, Proposal | None]:
    """As ``watch``; then propose retraining in a pull request where drift, a proxy or quality fails; None: none does.

    ``rows``: requests to queue for labelling, at most. Raises as ``watch`` and ``retraining.propose``.
    """
    report, traffic = _judged(root, environment, options, None)
    return report, retraining.propose(root, report, traffic, rows)


def _judged(
    root: Path, environment: str, options: WatchOptions | None, now: datetime | None
) -> tuple[WatchReport, Traffic]:
    options = options or WatchOptions()
    records = Records(root)
    params = records.work_tree.params
    span = _span(options, params, now or datetime.now(UTC))
    release = releases.runs(root, params, environment)
    store = Store(options.captures or str(root / layout.CAPTURES))
    traffic = window.read(store, environment, span, release.model)
    before = window.earlier(store, environment, span, release.model)
    offline = reference.read(records, release, params)
    levels, monitor = asked.levels(params.monitor), params.monitor
    served = window.answered(traffic, offline.scorer)
    windows = Windows(
        served, [window.answered(window_before, None) for window_before in before], traffic.keyed
    )
    questions = [
        *service.questions(traffic.requests, monitor.objectives, levels),
        *answers.questions(windows, offline.reference, monitor, levels),
    ]
    findings = asked.findings(questions, levels.alpha)
    notes = [*traffic.notes, *([windows.note] if windows.note else [])]
    if traffic.labels and offline.scorer is None:
        notes.append(
            "labels are not used: evaluate.scorers are not those that the release was evaluated with"
        )
    earlier = {f"window of {window.requests[0].time:%Y-%m-%d}": window.digest for window in before}
    report = WatchReport(
        environment=environment, since=span.since, until=span.until, version=release.version, model=release.model,
        commit=release.commit, status=_status(findings), alpha=round(levels.alpha, 6), confidence=monitor.confidence,
        traffic=traffic.digest, requests=len(traffic.requests),
        reference=offline.digests | earlier,
        prompts=len({answer.prompt for answer in served}), labelled=len(traffic.labels), findings=findings,
        costs=_costs(traffic, span, monitor.cost), notes=tuple(notes),
    )  # fmt: skip
    files.write_json(root / layout.WATCH / f"{environment}.json", report)
    files.write_text(root / layout.WATCH / f"{environment}.svg", picture.draw(report))
    if options.evidently is not None:
        evidently_page.write(options.evidently, root / page(environment), served, offline.reference)
    return report, traffic


def refusal(report: WatchReport) -> Refusal | None:
    """The refusal for a window that does not pass; None for ``pass``."""
    if report.status == "pass":
        return None
    names = ", ".join(
        finding.name for finding in report.findings if finding.status == report.status
    )
    what, path = (
        f"{report.environment}: {report.status}: {names}",
        layout.WATCH / f"{report.environment}.json",
    )
    kind = VerdictFailed if report.status == "fail" else VerdictInconclusive
    return kind(what, f"read the reasons in {path}")


def page(environment: str) -> Path:
    """Where Evidently's page of the last window is; it has megabytes, so it is not among the reports in git."""
    return layout.STATE / "watch" / f"{environment}.html"


def _span(options: WatchOptions, params: Params, now: datetime) -> Span:
    if options.since is None and options.until is None:
        return window.last_whole(now, params.monitor.window_days)
    if options.since is None or options.until is None:
        raise EvidenceRefused(
            "--from and --to: one is missing", "give both, or none for the last whole window"
        )
    span = Span(moment(options.since, now).start, moment(options.until, now).start)
    if span.since >= span.until:
        raise EvidenceRefused(
            f"--to {options.until}: is not after --from {options.since}", "swap them"
        )
    return span


def _status(findings: tuple[WatchFinding, ...]) -> Status:
    """As of a verdict: fail before inconclusive before pass."""
    statuses = {finding.status for finding in findings}
    return (
        "fail" if "fail" in statuses else "inconclusive" if "inconclusive" in statuses else "pass"
    )


def _costs(traffic: Traffic, span: Span, cost: Cost | None) -> Costs | None:
    """Every captured row stands for 1 / sampled_share requests."""
    if cost is None:
        return None
    requests = sum(1 / request.sampled_share for request in traffic.requests)
    hours = (span.until - span.since).total_seconds() / 3600 * cost.devices
    return Costs(
        per_1000_requests=round(1000 * hours * cost.hourly_price / requests, 6), requests=round(requests, 1),
        device_hours=round(hours, 3), estimated=any(request.sampled_share < 1 for request in traffic.requests),
    )  # fmt: skip
