"""The file of `promtool test rules`: for each alert, traffic that makes it fire, and traffic that must not."""

from collections.abc import Iterator
from typing import Any

from checks.config.monitor import Monitor
from release.monitoring import queries, rules
from release.monitoring.gateway.outcomes import FAILURES
from release.monitoring.queries import Objective, Scope
from release.monitoring.rules import Burn

Alerts = dict[str, dict[str, Any]]  # rules by their alerts and burns

_PER_MINUTE, _MINUTES = 10_000_000, 40  # requests, and how long they come
_ABOVE = 1.1  # times the share at which an alert fires: an outcome that a rule forgets keeps it silent
_BURST, _BURST_AT = 100_000_000, 10  # requests of a burst, and the minute before it


def tests(of: Scope, monitor: Monitor, file: str) -> dict[str, Any]:
    """Cases for `promtool test rules` of the rules in ``file``: each alert fires where it must, and else is silent.

    In each case another model has the same environment, and nothing but bad requests.
    """
    alerts = {rule["alert"] + rule["labels"].get("burn", ""): rule for rule in _alerts(rules.rules(of, monitor))}
    objectives = list(queries.objectives(of, monitor.objectives))
    cases = [case for objective in objectives for case in _burn_cases(of, objective, alerts)]
    cases += [case for objective in objectives for case in _burst_cases(of, objective, alerts, monitor.least_errors)]
    cases += _hang_cases(of, monitor, alerts)
    cases += _absent_cases(of, alerts)
    for objective in objectives:
        if objective.histogram is not None:
            rule = alerts[rules.no_bucket(objective)]
            counted = {"series": queries.metric(f"{objective.histogram}_count", of), "values": "0+1x60"}
            series = [counted, *_traffic(_other(of), objective, _PER_MINUTE, _MINUTES)]
            cases.append(_case(series, _asked(rule, "30m", fires=True)))
    return {"rule_files": [file], "evaluation_interval": "2m", "tests": cases}


def _alerts(file: dict[str, Any]) -> Iterator[dict[str, Any]]:
    return (rule for group in file["groups"] for rule in group["rules"] if "alert" in rule)


def _burn_cases(of: Scope, objective: Objective, alerts: Alerts) -> Iterator[dict[str, Any]]:
    """Errors that come minute by minute."""
    possible = rules.possible(objective)
    evaluated = f"{_MINUTES}m"

    def case(share: float, until: int, fires: list[Burn]) -> dict[str, Any]:
        """``share`` of the traffic misses the objective, which ends after ``until`` minutes."""
        series = _traffic(of, objective, round(_PER_MINUTE * share), until)
        series += _traffic(_other(of), objective, _PER_MINUTE, _MINUTES)
        return _case(series, _expected(objective, evaluated, fires, alerts))

    for burn in possible:
        share = min(0.99, objective.budget * burn.times * _ABOVE)
        yield case(share, _MINUTES, [other for other in possible if other.times * objective.budget < share])
    yield case(objective.budget * rules.BURNS[-1].times * 0.8, _MINUTES, [])
    # Ten minutes after the last request nothing is fast any more: the short window has forgotten.
    slow = [burn for burn in possible if burn.name == "slow"]
    yield case(min(0.99, objective.budget * rules.BURNS[0].times * _ABOVE), _MINUTES - 10, slow)


def _burst_cases(of: Scope, objective: Objective, alerts: Alerts, least: int) -> Iterator[dict[str, Any]]:
    """Errors that all come between two scrapes, as the first requests to a new gateway or a new release."""
    share = min(0.99, objective.budget * rules.BURNS[0].times * _ABOVE)
    fast, slow = ([burn for burn in rules.possible(objective) if burn.name == name] for name in ("fast", "slow"))

    def case(bad: int, good: int, *asked: dict[str, Any]) -> dict[str, Any]:
        counts = _counts(of, objective, good, bad)
        series = [{"series": name, "values": f"_x{_BURST_AT} 0 {number}x{_MINUTES}"} for name, number in counts.items()]
        return _case([*series, *_traffic(_other(of), objective, _PER_MINUTE, _MINUTES)], *asked)

    def expected(minutes: int, burns: list[Burn]) -> dict[str, Any]:
        return _expected(objective, f"{_BURST_AT + minutes}m", burns, alerts)

    bad = round(_BURST * share)
    yield case(bad, _BURST - bad, expected(2, []), expected(4, fast), expected(12, slow))
    # A few errors page nobody, even if they are all that there was.
    yield case(least - 1, 0, expected(4, []), expected(12, []))


def _hang_cases(of: Scope, monitor: Monitor, alerts: Alerts) -> Iterator[dict[str, Any]]:
    """Requests wait in vain from minute 10 on: too many, too few, and beside others for which text comes."""
    rule, least = alerts["LockstepRequestsHang"], monitor.least_errors
    seconds = f'after="{rules.hang_seconds(monitor):g}"'
    other = [
        {"series": queries.metric("silent_requests", _other(of), seconds), "values": "1000x60"},
        {"series": queries.metric("last_text_seconds", _other(of)), "values": "0x60"},
        {"series": queries.metric("servers", _other(of), 'state="ready"'), "values": "0x60"},
        {"series": queries.metric("servers", _other(of), 'state="out"'), "values": "1x60"},
    ]
    for waiting, text, fires in (
        (least, "0+60x10 600x50", True),
        (least, "0+60x60", False),
        (least - 1, "0x60", False),
    ):
        series = [
            *other,
            {"series": queries.metric("silent_requests", of, seconds), "values": f"0x10 {waiting}x50"},
            {"series": queries.metric("last_text_seconds", of), "values": text},
        ]
        yield _case(series, _asked(rule, "10m", fires=False), _asked(rule, "16m", fires=fires))
    none, one = alerts["LockstepNoServer"], alerts["LockstepServerOut"]
    for ready, out, pages, writes in ((0, 1, True, True), (1, 1, False, True), (1, 0, False, False)):
        series = [
            *other,
            {"series": queries.metric("servers", of, 'state="ready"'), "values": f"{ready}x60"},
            {"series": queries.metric("servers", of, 'state="out"'), "values": f"{out}x60"},
        ]
        yield _case(series, _asked(none, "2m", fires=pages), _asked(one, "30m", fires=writes))


def _absent_cases(of: Scope, alerts: Alerts) -> Iterator[dict[str, Any]]:
    absent, dropped = alerts["LockstepGatewayAbsent"], alerts["LockstepCapturesDropped"]
    alive = {"series": queries.metric("captures_dropped_total", of, 'release="a"'), "values": "0x30 1+1x30"}
    others = {"series": queries.metric("captures_dropped_total", _other(of)), "values": "0+1x60"}
    yield _case([others], _asked(absent, "30m", fires=True))
    for minute, increases in (("20m", False), ("40m", True)):
        asked = [_asked(dropped, minute, fires=increases), _asked(absent, minute, fires=False)]
        yield _case([alive, others], *asked)


def _case(series: list[dict[str, str]], *asked: dict[str, Any]) -> dict[str, Any]:
    return {"interval": "1m", "input_series": series, "alert_rule_test": list(asked)}


def _other(of: Scope) -> Scope:
    return of._replace(model=f"other-{of.model}")


def _traffic(of: Scope, objective: Objective, bad: int, until: int) -> list[dict[str, str]]:
    """Counters of requests that come each minute until a minute, of which ``bad`` miss the objective."""
    return [
        {"series": name, "values": f"0+{number}x{until} {number * until}x{_MINUTES - until}"}
        for name, number in _counts(of, objective, _PER_MINUTE - bad, bad).items()
    ]


def _counts(of: Scope, objective: Objective, good: int, bad: int) -> dict[str, int]:
    """What a gateway counts of requests; a bad one is told by its outcome, or by its bucket."""
    if objective.histogram is not None:
        bucket = queries.metric(f"{objective.histogram}_bucket", of, f'le="{objective.seconds}"')
        return {queries.metric(f"{objective.histogram}_count", of): good + bad, bucket: good}
    numbers = {"answered": good, "client_error": _PER_MINUTE, "client_closed": _PER_MINUTE}
    if objective.name == "whole_answers":
        numbers["cut_off"] = bad
    else:
        share, rest = divmod(bad, len(FAILURES))
        numbers |= dict.fromkeys(FAILURES, share)
        numbers["timeout"] += rest
    return {queries.metric("outcomes_total", of, f'outcome="{name}"'): count for name, count in numbers.items()}


def _expected(objective: Objective, minute: str, fires: list[Burn], alerts: Alerts) -> dict[str, Any]:
    """The burns of an objective that fire at a minute."""
    expected = [_fired(alerts[rules.called(objective) + burn.name]) for burn in fires]
    return {"eval_time": minute, "alertname": rules.called(objective), "exp_alerts": expected}


def _fired(rule: dict[str, Any]) -> dict[str, Any]:
    return {"exp_labels": rule["labels"], "exp_annotations": rule["annotations"]}


def _asked(rule: dict[str, Any], minute: str, *, fires: bool) -> dict[str, Any]:
    return {"eval_time": minute, "alertname": rule["alert"], "exp_alerts": [_fired(rule)] if fires else []}
