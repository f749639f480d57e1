"""Asks every question about a window of traffic, and makes the report of `lockstep watch` from the answers.

Questions about the service (availability, latency, answers that were cut off) are asked here. Requests of the same five
minutes are one cluster: an outage takes many at once.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from checks.config.monitor import Cost, Monitor
from checks.formats.captures import Capture
from checks.formats.pointer import Pointer
from checks.formats.verdict import Status
from checks.formats.watch_report import Costs, Service, WatchFinding, WatchReport
from checks.stats import intervals, mean_planning
from release.monitoring import answers, window, window_questions
from release.monitoring.window import TimeSpan, Traffic
from release.monitoring.window_questions import Question, untested

# A report has the first of these that one of its findings has, as a verdict does.
_WORST_FIRST: tuple[Status, ...] = ("fail", "inconclusive", "pass")

_CLUSTER = 300  # seconds
_GONE = 499  # the client went away: no answer was owed
_BUSY = 429


def report(
    environment: str,
    span: TimeSpan,
    release: Pointer,
    traffic: Traffic,
    before: Sequence[Traffic],
    served: Sequence[answers.ScoredAnswer],
    offline: answers.Reference,
    monitor: Monitor,
) -> WatchReport:
    """Judge the ``traffic`` of ``release`` within ``span``, whose answers are ``served``.

    ``before``: the traffic of earlier windows. ``offline``: the release's answers before it was served.
    """
    windows = answers.Windows(
        served, [window.answered(traffic_before, None) for traffic_before in before], traffic.keyed
    )
    questions = [
        *service_questions(traffic.requests, monitor),
        *answers.questions(windows, offline, monitor),
    ]
    findings = window_questions.findings(questions, monitor.alpha)
    statuses = {finding.status for finding in findings}
    status: Status = next((status for status in _WORST_FIRST if status in statuses), "pass")
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
        commit=release.commit, status=status, alpha=round(monitor.alpha, 6), confidence=monitor.confidence,
        traffic=traffic.digest, requests=len(traffic.requests),
        reference=dict(offline.digests) | earlier,
        prompts=len({answer.prompt for answer in served}), labelled=len(traffic.labels), findings=findings,
        costs=_costs(traffic, span, monitor.cost), notes=tuple(notes), service=_service(traffic.requests),
    )  # fmt: skip


def _costs(traffic: Traffic, span: TimeSpan, cost: Cost | None) -> Costs | None:
    """Every captured row stands for 1 / sampled_share requests. Releases share the devices by their tokens."""
    if cost is None:
        return None
    requests = sum(1 / request.sampled_share for request in traffic.requests)
    hours = (span.until - span.since).total_seconds() / 3600 * cost.devices * traffic.share
    return Costs(
        per_1000_requests=round(1000 * hours * cost.hourly_price / requests, 6), requests=round(requests, 1),
        device_hours=round(hours, 3), estimated=any(request.sampled_share < 1 for request in traffic.requests),
    )  # fmt: skip


def _service(requests: Sequence[Capture]) -> Service:
    owed = [request for request in requests if request.status != _GONE]
    answered = [request for request in owed if _is_answered(request)]
    p50, p95 = (_within([request.seconds for request in answered], share) for share in (0.5, 0.95))
    return Service(errors=len(owed) - len(answered), p50=p50, p95=p95)


def _within(seconds: Sequence[float], share: float) -> float | None:
    """Return the least of ``seconds`` within which at least ``share`` of them lie; None if there are none."""
    return sorted(seconds)[math.ceil(share * len(seconds)) - 1] if seconds else None


def service_questions(requests: Sequence[Capture], monitor: Monitor) -> Iterator[Question]:
    """Yield one question for each objective that is set."""
    objectives = monitor.objectives
    share = partial(_share, monitor=monitor)
    owed = [request for request in requests if request.status != _GONE]
    answered = [request for request in owed if _is_answered(request) and request.output_messages]
    if objectives.availability is not None:
        yield share("availability", owed, _is_answered, objectives.availability, "answered")
    for name, field, within in (
        ("latency", "seconds", objectives.latency),
        ("first token", "seconds_to_first_token", objectives.first_token),
    ):
        if within is not None:
            timed = [request for request in answered if getattr(request, field) is not None]
            in_time = partial(_is_within, field=field, seconds=within.seconds)
            yield share(name, timed, in_time, within.share, f"within {within.seconds:g} s")
    if objectives.whole_answers is not None:
        yield share("whole answers", answered, _is_whole, objectives.whole_answers, "not cut off")


def _is_within(request: Capture, field: str, seconds: float) -> bool:
    taken: float = getattr(request, field)
    return taken <= seconds


def _is_answered(request: Capture) -> bool:
    """A client's own mistake was answered, too."""
    if 400 <= request.status < 500:
        return request.status != _BUSY
    return request.status < 500 and request.error is None


def _is_whole(request: Capture) -> bool:
    return all(message.finish_reason != "length" for message in request.output_messages)


def _share(
    name: str,
    requests: list[Capture],
    good: Callable[[Capture], bool],
    bound: float,
    said: str,
    monitor: Monitor,
) -> Question:
    if not requests:
        return untested(name, "objective", "no request of this kind was captured")
    blocks = [str(int(request.time.timestamp()) // _CLUSTER) for request in requests]
    mean = intervals.Mean.of([float(good(request)) for request in requests], blocks)
    interval = intervals.interval_of(mean, monitor.confidence, sided=1)
    p_pass = mean.p_above(bound)
    level = 1 - monitor.confidence
    passed = p_pass <= level
    needed = None if passed else mean_planning.needed(mean, bound, level)
    share = f"{interval.value:.2%} of {interval.n:,} requests were {said}"
    if passed:
        reason = f"{share}: at least {_percent(bound)} (lower bound {interval.low:.2%})"
    else:
        more = f"; about {needed} would decide if the share is as observed" if needed else ""
        bounds = f"bounds {interval.low:.2%}, {interval.high:.2%}"
        reason = f"{share}: too few to tell whether it is {_percent(bound)} ({bounds}){more}"
    finding = WatchFinding(
        name=name, kind="objective", status="pass" if passed else "inconclusive", reason=reason, unit="share",
        method="binomial test" if mean.exact else "binomial test at the effective size", value=interval.value,
        low=interval.low, high=interval.high, bound=bound, p_alarm=mean.p_below(bound), p_pass=p_pass, n=interval.n,
        detectable=mean_planning.detectable(mean_planning.mirrored(mean), 1 - bound, monitor.alpha),
        rows_needed=needed.rows if needed else None,
    )  # fmt: skip
    return Question(finding, f"{share}: below {_percent(bound)} (upper bound {interval.high:.2%})")


def _percent(share: float) -> str:
    return f"{100 * share:g}%"
