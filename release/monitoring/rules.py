"""Prometheus rules of a model in an environment, and the file of `promtool test rules` that holds them.

Burn rates are those of the SRE workbook (Beyer et al., 2018, chapter 5): an alert fires where errors spend the budget
of 30 days 14.4 times too fast over an hour, or 6 times over six hours, and still do in the last twelfth of that time.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from checks import layout
from checks.config.monitor import Monitor
from checks.errors import ParamsRefused
from release.monitoring import queries
from release.monitoring.queries import BY, WINDOW, Objective, Scope

_PER_MINUTE, _MINUTES = 10_000, 120  # requests in the tests of rules, and how long they come


class Burn(NamedTuple):
    """How many times too fast the budget is spent, and over which two windows that is asked."""

    name: str
    times: float
    long: str
    short: str


BURNS = (Burn("fast", 14.4, "1h", "5m"), Burn("slow", 6.0, "6h", "30m"))


def rules(of: Scope, monitor: Monitor) -> dict[str, Any]:
    """The rule file. Raises ParamsRefused as ``queries.objectives``, and for an objective that no alert fits."""
    found = list(queries.objectives(of, monitor.objectives))
    recorded = [_recorded(each, window) for each in found for window in ("5m", "30m", "1h", "6h")]
    alerts = [alert for each in found for alert in _burning(of, each)]
    return {
        "groups": [
            {"name": f"lockstep-{of.model}-{of.environment}-objectives", "rules": recorded},
            {"name": f"lockstep-{of.model}-{of.environment}-alerts", "rules": [*alerts, *_missing(of, found)]},
        ]
    }


def tests(of: Scope, monitor: Monitor, file: str) -> dict[str, Any]:
    """Cases for `promtool test rules` of the rules in ``file``: each alert fires where it must, and else is silent.

    In each case another model has the same environment, and nothing but bad requests.
    """
    written = {rule["alert"] + rule["labels"].get("burn", ""): rule for rule in _alerts(rules(of, monitor))}
    found = list(queries.objectives(of, monitor.objectives))
    cases = []
    for each in found:
        possible = _possible(each)
        for burn in possible:
            share = min(0.99, each.budget * burn.times * 1.25)
            fires = [other for other in possible if other.times * each.budget < share]
            cases.append(_case(of, each, share, _MINUTES, [_fired(written[_called(each) + b.name]) for b in fires]))
        cases.append(_case(of, each, each.budget * BURNS[-1].times * 0.8, _MINUTES, []))
        # Ten minutes after the last error nothing is fast any more: the short window has forgotten.
        slow = [burn for burn in possible if burn.name == "slow"]
        share = min(0.99, each.budget * BURNS[0].times * 1.25)
        cases.append(_case(of, each, share, _MINUTES - 10, [_fired(written[_called(each) + b.name]) for b in slow]))
    absent = written["LockstepGatewayAbsent"]
    dropped = written["LockstepCapturesDropped"]
    alive = {"series": queries.metric("captures_dropped_total", of, 'release="a"'), "values": "0x30 1+1x30"}
    others = {"series": queries.metric("captures_dropped_total", _other(of)), "values": "0+1x60"}
    cases.append({"interval": "1m", "input_series": [others], "alert_rule_test": [_asked(absent, "30m", fires=True)]})
    for when, increases in (("20m", False), ("40m", True)):
        asked = [_asked(dropped, when, fires=increases), _asked(absent, when, fires=False)]
        cases.append({"interval": "1m", "input_series": [alive, others], "alert_rule_test": asked})
    for each in found:
        if each.histogram is not None:
            rule = written[_no_bucket(each)]
            counted = {"series": queries.metric(f"{each.histogram}_count", of), "values": "0+1x60"}
            series = [counted, *_traffic(_other(of), each, _PER_MINUTE, _MINUTES)]
            cases.append(
                {"interval": "1m", "input_series": series, "alert_rule_test": [_asked(rule, "30m", fires=True)]}
            )
    return {"rule_files": [file], "evaluation_interval": "5m", "tests": cases}


def _recorded(objective: Objective, window: str) -> dict[str, Any]:
    return {"record": _record(objective, window), "expr": objective.ratio.replace(WINDOW, window)}


def _record(objective: Objective, window: str) -> str:
    return f"lockstep:{objective.name}:error_ratio_rate{window}"


def _possible(objective: Objective) -> list[Burn]:
    """Burns that a share of errors can reach. Raises ParamsRefused if there is none."""
    found = [burn for burn in BURNS if burn.times * objective.budget < 1]
    if not found:
        raise ParamsRefused(
            f"{layout.PARAMS}: monitor.objectives: {objective.says} may be {objective.budget:.0%}, and no alert can be "
            f"about that: {BURNS[-1].times:g} times as many are more than all",
            f"allow less than {1 / BURNS[-1].times:.1%}",
        )
    return found


def _burning(of: Scope, objective: Objective) -> Iterator[dict[str, Any]]:
    for burn in _possible(objective):
        limit = f"{burn.times * objective.budget:.6g}"
        windows = (
            f"{_record(objective, window)}{queries.selector(of)} > {limit}" for window in (burn.long, burn.short)
        )
        yield {
            "alert": _called(objective),
            "expr": " and ".join(windows),
            "labels": {"severity": "page", **of._asdict(), "burn": burn.name},
            "annotations": {
                "summary": f"{of}: {objective.says} are above {objective.budget:.3%} by {burn.times:g} times",
                "description": f"Over {burn.long} and {burn.short}. `lockstep status` says what runs, and "
                f"`lockstep rollback {of.environment}` goes back.",
            },
        }


def _missing(of: Scope, objectives: list[Objective]) -> Iterator[dict[str, Any]]:
    """Alerts on what the others need: without it they would be silent."""
    dropped = queries.metric("captures_dropped_total", of)
    yield _alert(
        "LockstepGatewayAbsent", of, "page", f"absent({dropped})", "10m",
        "no gateway is scraped: no other alert can fire",
    )  # fmt: skip
    yield _alert(
        "LockstepCapturesDropped", of, "ticket", f"sum by ({BY}) (increase({dropped}[15m])) > 0", "0m",
        "captured requests are dropped: windows of `lockstep watch` lack them",
    )  # fmt: skip
    for each in objectives:
        if each.histogram is not None:
            bucket = queries.bucket(each.histogram, of, each.seconds)
            counted = queries.metric(f"{each.histogram}_count", of)
            yield _alert(
                _no_bucket(each), of, "page", f"absent({bucket}) and on () count({counted})", "10m",
                f"the gateway does not count {each.says}: the alert on them cannot fire",
            )  # fmt: skip


def _alert(name: str, of: Scope, severity: str, expr: str, lasting: str, summary: str) -> dict[str, Any]:
    return {
        "alert": name, "expr": expr, "for": lasting, "labels": {"severity": severity, **of._asdict()},
        "annotations": {"summary": f"{of}: {summary}"},
    }  # fmt: skip


def _called(objective: Objective) -> str:
    return f"Lockstep{objective.name.title().replace('_', '')}Burn"


def _no_bucket(objective: Objective) -> str:
    return f"Lockstep{objective.name.title().replace('_', '')}NotCounted"


def _alerts(file: dict[str, Any]) -> Iterator[dict[str, Any]]:
    return (rule for group in file["groups"] for rule in group["rules"] if "alert" in rule)


def _case(of: Scope, each: Objective, share: float, until: int, expected: list[dict[str, Any]]) -> dict[str, Any]:
    """Traffic of which ``share`` misses the objective for ``until`` minutes, and what must fire after ``_MINUTES``."""
    return {
        "interval": "1m",
        "input_series": [
            *_traffic(of, each, round(_PER_MINUTE * share), until),
            *_traffic(_other(of), each, _PER_MINUTE, _MINUTES),
        ],
        "alert_rule_test": [{"eval_time": f"{_MINUTES}m", "alertname": _called(each), "exp_alerts": expected}],
    }


def _other(of: Scope) -> Scope:
    return of._replace(model=f"other-{of.model}")


def _traffic(of: Scope, each: Objective, bad: int, until: int) -> list[dict[str, str]]:
    """Counters of a minute; a bad request is told by its code, by its reason, or by its bucket."""

    def grows(name: str, number: int, after: int, *labels: str) -> dict[str, str]:
        values = f"0+{number}x{until} {number * until + after}+{after}x{_MINUTES - until}"
        return {"series": queries.metric(name, of, *labels), "values": values}

    good = _PER_MINUTE - bad
    if each.histogram is not None:
        return [
            grows(f"{each.histogram}_count", _PER_MINUTE, _PER_MINUTE),
            grows(f"{each.histogram}_bucket", good, _PER_MINUTE, f'le="{each.seconds}"'),
        ]
    fine = grows("requests_total", good, _PER_MINUTE, 'code="200"', 'finish_reason="stop"')
    if each.name == "whole_answers":
        return [fine, grows("requests_total", bad, 0, 'code="200"', 'finish_reason="length"')]
    broken = bad // 2  # answers that broke off
    return [
        fine,
        grows("requests_total", bad - broken, 0, 'code="500"', 'finish_reason="error"'),
        grows("requests_total", broken, 0, 'code="200"', 'finish_reason="error"'),
        grows("requests_total", _PER_MINUTE, _PER_MINUTE, 'code="499"', 'finish_reason="error"'),  # clients that left
    ]


def _fired(rule: dict[str, Any]) -> dict[str, Any]:
    return {"exp_labels": rule["labels"], "exp_annotations": rule["annotations"]}


def _asked(rule: dict[str, Any], when: str, *, fires: bool) -> dict[str, Any]:
    return {"eval_time": when, "alertname": rule["alert"], "exp_alerts": [_fired(rule)] if fires else []}
