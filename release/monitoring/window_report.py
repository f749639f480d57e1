"""Asks every question about a window of traffic, and makes the report of `lockstep watch` from the answers."""

from collections.abc import Sequence

from checks.config.monitor import Cost, Monitor
from checks.formats.pointer import Pointer
from checks.formats.verdict import Status
from checks.formats.watch_report import Costs, WatchFinding, WatchReport
from release.monitoring import answers, service, window, window_questions
from release.monitoring.answers import Reference, ScoredAnswer, Windows
from release.monitoring.window import TimeSpan, Traffic

# A report has the first of these that one of its findings has, as a verdict does.
_WORST_FIRST: tuple[Status, ...] = ("fail", "inconclusive", "pass")


def report(
    environment: str,
    span: TimeSpan,
    release: Pointer,
    traffic: Traffic,
    before: Sequence[Traffic],
    served: Sequence[ScoredAnswer],
    offline: Reference,
    monitor: Monitor,
) -> WatchReport:
    """Judge the ``traffic`` of ``release`` within ``span``, whose answers are ``served``.

    ``before``: the traffic of earlier windows. ``offline``: the release's answers before it was served.
    """
    windows = Windows(
        served, [window.answered(traffic_before, None) for traffic_before in before], traffic.keyed
    )
    questions = [
        *service.questions(traffic.requests, monitor),
        *answers.questions(windows, offline, monitor),
    ]
    findings = window_questions.findings(questions, monitor.alpha)
    notes = [*traffic.notes, *([windows.note] if windows.note else [])]
    if traffic.labels and offline.scorer is None:
        notes.append(
            "labels are not used: evaluate.scorers are not those that the release was evaluated with"
        )
    earlier = {
        f"window of {traffic_before.requests[0].time:%Y-%m-%d}": traffic_before.digest
        for traffic_before in before
    }
    return WatchReport(
        environment=environment, since=span.since, until=span.until, version=release.version, model=release.model,
        commit=release.commit, status=_status(findings), alpha=round(monitor.alpha, 6), confidence=monitor.confidence,
        traffic=traffic.digest, requests=len(traffic.requests),
        reference=dict(offline.digests) | earlier,
        prompts=len({answer.prompt for answer in served}), labelled=len(traffic.labels), findings=findings,
        costs=_costs(traffic, span, monitor.cost), notes=tuple(notes),
    )  # fmt: skip


def _status(findings: Sequence[WatchFinding]) -> Status:
    statuses = {finding.status for finding in findings}
    return next((status for status in _WORST_FIRST if status in statuses), "pass")


def _costs(traffic: Traffic, span: TimeSpan, cost: Cost | None) -> Costs | None:
    """Every captured row stands for 1 / sampled_share requests."""
    if cost is None:
        return None
    requests = sum(1 / request.sampled_share for request in traffic.requests)
    hours = (span.until - span.since).total_seconds() / 3600 * cost.devices
    return Costs(
        per_1000_requests=round(1000 * hours * cost.hourly_price / requests, 6), requests=round(requests, 1),
        device_hours=round(hours, 3), estimated=any(request.sampled_share < 1 for request in traffic.requests),
    )  # fmt: skip
