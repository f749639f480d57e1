"""Questions about the service: availability, latency, answers that were cut off. Asked of captured requests.

Requests of the same five minutes are one cluster: an outage takes many at once.
"""

from collections.abc import Callable, Iterator, Sequence

from checks.config.monitor import Objectives, Within
from checks.formats.captures import Capture
from checks.formats.watch_report import WatchFinding
from checks.stats import intervals, mean_planning
from release.monitoring.asked import Asked, Levels, untested

_CLUSTER = 300  # seconds
_GONE = 499  # the client went away: no answer was owed
_BUSY = 429


def questions(
    requests: Sequence[Capture], objectives: Objectives, levels: Levels
) -> Iterator[Asked]:
    """One question for each objective that is set."""
    owed = [each for each in requests if each.status != _GONE]
    answered = [each for each in owed if _is_answered(each) and each.output_messages]
    if objectives.availability is not None:
        yield _share(
            "availability", owed, _is_answered, objectives.availability, levels, "answered"
        )
    if objectives.latency is not None:
        yield _within("latency", answered, "seconds", objectives.latency, levels)
    if objectives.first_token is not None:
        streams = [each for each in answered if each.seconds_to_first_token is not None]
        yield _within(
            "first token", streams, "seconds_to_first_token", objectives.first_token, levels
        )
    if objectives.whole_answers is not None:
        yield _share(
            "whole answers", answered, _is_whole, objectives.whole_answers, levels, "not cut off"
        )


def _is_answered(request: Capture) -> bool:
    """A client's own mistake was answered, too."""
    if 400 <= request.status < 500:
        return request.status != _BUSY
    return request.status < 500 and request.error is None


def _is_whole(request: Capture) -> bool:
    return all(message.finish_reason != "length" for message in request.output_messages)


def _within(
    name: str, requests: list[Capture], field: str, within: Within, levels: Levels
) -> Asked:
    said = f"within {within.seconds:g} s"
    return _share(
        name,
        requests,
        lambda each: getattr(each, field) <= within.seconds,
        within.share,
        levels,
        said,
    )


def _share(
    name: str,
    requests: list[Capture],
    good: Callable[[Capture], bool],
    bound: float,
    levels: Levels,
    said: str,
) -> Asked:
    if not requests:
        return untested(name, "objective", "no request of this kind was captured")
    blocks = [str(int(each.time.timestamp()) // _CLUSTER) for each in requests]
    mean = intervals.Mean.of([float(good(each)) for each in requests], blocks)
    interval = intervals.interval_of(mean, levels.confidence, sided=1)
    p_pass = mean.p_above(bound)
    passed = p_pass <= levels.passing
    needed = None if passed else mean_planning.needed(mean, bound, levels.passing)
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
        detectable=mean_planning.detectable(mean_planning.mirrored(mean), 1 - bound, levels.alpha),
        rows_needed=needed.rows if needed else None,
    )  # fmt: skip
    return Asked(finding, f"{share}: below {_percent(bound)} (upper bound {interval.high:.2%})")


def _percent(share: float) -> str:
    return f"{100 * share:g}%"
