"""watch: judges one window of an environment's captured traffic against the release that it runs.

Objectives, drift of prompts and answers, proxies of quality, quality where labels came, cost. It reads captures and the
release's record; it changes nothing but its own report, unless it is to open a pull request.
"""

from datetime import UTC, datetime
from pathlib import Path

from checks.config.params import Params
from checks.formats.watch_report import WatchReport
from checks.process.errors import EvidenceRefused, Refusal, VerdictFailed, VerdictInconclusive
from checks.storage import files, layout
from release.evidence import windows
from release.evidence.trust import Signatory
from release.ledger import Ledger
from release.monitoring import evidently_page, picture, reference, releases, window, window_report
from release.monitoring.store import CaptureStore
from release.promotion import emergency
from release.record.records import Records
from release.review import retraining
from release.review.proposals import Proposal
from release.verbs.history import moment


def watch(
    root: Path,
    environment: str,
    since: str | None = None,
    until: str | None = None,
    captures: str | None = None,
    evidently: Path | None = None,
    rows: int | None = None,
    signatory: Signatory | None = None,
) -> tuple[WatchReport, Proposal | None, Refusal | None]:
    """Judge the window and write reports/watch/ENV.json and ENV.svg. ``refusal`` says how a verdict ends.

    Return the report, the pull request if one was asked for, and the refusal if the release may not run there any more.

    ``since`` and ``until``: a date or a time, see `lockstep history`; None: the last whole window. ``captures``: the
    gateway's folder or address; None: that of this machine. ``evidently``: the Python of an environment with Evidently,
    which then writes ``page``; None: no page. With ``rows`` a pull request proposes retraining where drift, a proxy or
    quality fails, with at most so many requests queued for labelling; None: it proposes nothing. ``signatory`` signs
    the report into a file of its own (``release.evidence.windows``); None: nobody does.

    Raises ParamsRefused if there is no such environment, EvidenceRefused if it runs nothing, no request to its release
    was captured, or the reference cannot be had; MachineRefused without scikit-learn; RemoteRefused; and as
    ``retraining.propose``.
    """
    records = Records(root)
    params = records.work_tree.params
    span = _span(since, until, params, datetime.now(UTC))
    ledger = Ledger.open(root, params.promote)
    release = releases.runs(root, params, environment, ledger)
    standings = emergency.here(records, ledger, ledger.begun() or "", params.promote)
    standing = standings[environment]
    store = CaptureStore(captures or str(root / layout.CAPTURES))
    traffic = window.read(store, environment, span, release.model)
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
        evidently_page.write(evidently, root / page(environment), served, offline)
    proposal = None if rows is None else retraining.propose(root, report, traffic, rows)
    return report, proposal, standing.refusal(environment)


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


def page(environment: str) -> Path:
    """Where Evidently's page of the last window is; it has megabytes, so it is not among the reports in git."""
    return layout.STATE / "watch" / f"{environment}.html"


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
