"""Prometheus rules of a model in an environment. ``release.monitoring.rule_cases`` has their tests.

Burn rates are those of the SRE workbook (Beyer et al., 2018, chapter 5): an alert fires where errors spend the budget
of 30 days 14.4 times too fast over an hour, or 6 times over six hours, and still do in the last twelfth of that time.
A few errors are no reason to wake anybody: the long window must have ``monitor.least_errors``.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from checks import layout
from checks.config.monitor import Monitor
from checks.errors import ParamsRefused
from release.monitoring import queries
from release.monitoring.queries import BY, WINDOW, Objective, Scope

ERRORS, _REQUESTS, RATIO = "errors_increase", "requests_increase", "error_ratio_rate"
_HANG_SECONDS = 60.0  # without any text; also what a request may wait if no objective says it


class Burn(NamedTuple):
    """How many times too fast the budget is spent, over which two windows that is asked, and for how long."""

    name: str
    times: float
    long: str
    short: str
    lasting: str


BURNS = (Burn("fast", 14.4, "1h", "5m", "1m"), Burn("slow", 6.0, "6h", "30m", "5m"))


def rules(of: Scope, monitor: Monitor) -> dict[str, Any]:
    """The rule file. Raises ParamsRefused as ``queries.objectives``, and for an objective that no alert fits."""
    objectives = list(queries.objectives(of, monitor.objectives))
    windows = ("5m", "30m", "1h", "6h")
    recorded = [rule for objective in objectives for window in windows for rule in _recorded(of, objective, window)]
    alerts = [alert for objective in objectives for alert in _burning(of, objective, monitor.least_errors)]
    alerts += [*_hanging(of, monitor), *_missing(of, objectives)]
    for alert in alerts:
        alert["annotations"]["runbook_url"] = f"{monitor.runbook}#{alert['alert'].lower()}"
    # The rules of one group run one after another, so an alert sees what was recorded for the same moment.
    return {"groups": [{"name": f"lockstep-{of.model}-{of.environment}", "rules": [*recorded, *alerts]}]}


def _recorded(of: Scope, objective: Objective, window: str) -> Iterator[dict[str, Any]]:
    """How many requests miss the objective, of how many, and their share."""
    errors, requests = record(objective, ERRORS, window), record(objective, _REQUESTS, window)
    yield {"record": errors, "expr": objective.bad.replace(WINDOW, window)}
    yield {"record": requests, "expr": objective.all.replace(WINDOW, window)}
    chosen = queries.selector(of)
    ratio = f"{errors}{chosen} / ({requests}{chosen} > 0)"
    yield {"record": record(objective, RATIO, window), "expr": ratio}


def record(objective: Objective, what: str, window: str) -> str:
    """The name of a recorded series of an objective."""
    return f"lockstep:{objective.name}:{what}{window}"


def possible(objective: Objective) -> list[Burn]:
    """Burns that a share of errors can reach. Raises ParamsRefused if there is none."""
    reached = [burn for burn in BURNS if burn.times * objective.budget < 1]
    if not reached:
        raise ParamsRefused(
            f"{layout.PARAMS}: monitor.objectives: {objective.says} may be {objective.budget:.0%}, and no alert can be "
            f"about that: {BURNS[-1].times:g} times as many are more than all",
            f"allow less than {1 / BURNS[-1].times:.1%}",
        )
    return reached


def _burning(of: Scope, objective: Objective, least: int) -> Iterator[dict[str, Any]]:
    chosen = queries.selector(of)
    for burn in possible(objective):
        limit = f"{burn.times * objective.budget:.6g}"
        asked = [f"{record(objective, RATIO, window)}{chosen} > {limit}" for window in (burn.long, burn.short)]
        asked.append(f"{record(objective, ERRORS, burn.long)}{chosen} >= {least}")
        yield {
            "alert": called(objective),
            "expr": " and ".join(asked),
            "for": burn.lasting,
            "labels": {"severity": "page", **of._asdict(), "burn": burn.name},
            "annotations": {
                "summary": f"{of}: {objective.says} are above {objective.budget:.3%} by {burn.times:g} times",
                "description": f"Over {burn.long} and {burn.short}. `lockstep status` says what runs, and "
                f"`lockstep rollback {of.environment}` goes back.",
            },
        }


def _hanging(of: Scope, monitor: Monitor) -> Iterator[dict[str, Any]]:
    """Alerts on servers that do not answer: requests that wait are in no count of those that ended."""
    seconds = hang_seconds(monitor)
    silent = queries.metric("silent_requests", of, f'after="{seconds:g}"')
    text = queries.metric("last_text_seconds", of)
    yield _alert(
        "LockstepRequestsHang", of, "page",
        f"sum by ({BY}) ({silent}) >= {monitor.least_errors} and time() - max by ({BY}) ({text}) > {_HANG_SECONDS:g}",
        "1m",
        f"requests wait for more than {seconds:g} s, and for {_HANG_SECONDS:g} s no text came from any server",
    )  # fmt: skip
    ready, out = (queries.metric("servers", of, f'state="{state}"') for state in ("ready", "out"))
    yield _alert(
        "LockstepNoServer", of, "page", f"sum by ({BY}) ({ready}) == 0", "1m",
        "no server generates: every request gets 503",
    )  # fmt: skip
    yield _alert(
        "LockstepServerOut", of, "ticket", f"max by ({BY}) ({out}) > 0", "15m",
        "a server does not generate, and gets no requests",
    )  # fmt: skip


def hang_seconds(monitor: Monitor) -> float:
    """The time after which a request misses an objective."""
    within = monitor.objectives.latency or monitor.objectives.first_token
    return within.seconds if within else _HANG_SECONDS


def _missing(of: Scope, objectives: list[Objective]) -> Iterator[dict[str, Any]]:
    """Alerts on what the others need: without it they would be silent."""
    dropped = queries.metric("captures_dropped_total", of)
    yield _alert(
        "LockstepGatewayAbsent", of, "page", f"absent({dropped})", "10m",
        "no gateway is scraped: no other alert can fire",
    )  # fmt: skip
    yield _alert(
        "LockstepCapturesDropped", of, "ticket", f"{queries.increase(dropped).replace(WINDOW, '15m')} > 0", "0m",
        "captured requests are dropped: windows of `lockstep watch` lack them",
    )  # fmt: skip
    for objective in objectives:
        if objective.histogram is not None:
            bucket = queries.bucket(objective.histogram, of, objective.seconds)
            counted = queries.metric(f"{objective.histogram}_count", of)
            yield _alert(
                no_bucket(objective), of, "page", f"absent({bucket}) and on () count({counted})", "10m",
                f"the gateway does not count {objective.says}: the alert on them cannot fire",
            )  # fmt: skip


def _alert(name: str, of: Scope, severity: str, expr: str, lasting: str, summary: str) -> dict[str, Any]:
    return {
        "alert": name, "expr": expr, "for": lasting, "labels": {"severity": severity, **of._asdict()},
        "annotations": {"summary": f"{of}: {summary}"},
    }  # fmt: skip


def called(objective: Objective) -> str:
    """The name of the alerts of an objective."""
    return f"Lockstep{objective.name.title().replace('_', '')}Burn"


def no_bucket(objective: Objective) -> str:
    """The name of the alert that the bucket of an objective is missing."""
    return f"Lockstep{objective.name.title().replace('_', '')}NotCounted"
