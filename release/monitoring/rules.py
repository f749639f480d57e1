"""Prometheus rules of a model in an environment, and the file that tests them with `promtool test rules`.

A Grafana dashboard of the model, as JSON, is made of the same objectives.
"""

import hashlib
import json
from collections.abc import Collection
from typing import Any

from checks.config.monitor import Monitor
from release.monitoring import objectives, templates
from release.monitoring.gateway.outcomes import FAILURES
from release.monitoring.objectives import FAST, SLOW, Burn, Objective, Scope
from release.runtimes import Metrics, Watched

RULES = "rules.yaml"


def rules(scope: Scope, monitor: Monitor, metrics: Metrics | None) -> dict[str, Any]:
    """Return the rule file. ``metrics``: those of the server; None: it has none.

    Raises ParamsRefused as ``objectives.from_params``.
    """
    return templates.fill("rules.yaml.jinja", **_values(scope, monitor, metrics))


def tests(scope: Scope, monitor: Monitor, metrics: Metrics | None) -> dict[str, Any]:
    """Return the test file of the rules in ``RULES``: each alert fires where it must, and else is silent."""
    alerts = [
        rule
        for group in rules(scope, monitor, metrics)["groups"]
        for rule in group["rules"]
        if "alert" in rule
    ]

    def expected(alert: str, burns: Collection[Burn] = ()) -> list[dict[str, Any]]:
        """The alerts of this name that fire, in promtool's words. One that has several burns fires for ``burns``."""
        names = [None, *(burn.name for burn in burns)]
        firing = [
            rule
            for rule in alerts
            if rule["alert"] == alert and rule["labels"].get("burn") in names
        ]
        return [
            {"exp_labels": rule["labels"], "exp_annotations": rule["annotations"]}
            for rule in firing
        ]

    return templates.fill(
        "rules_test.yaml.jinja",
        **_values(scope, monitor, metrics),
        other=scope._replace(model=f"other-{scope.model}"),
        file=RULES,
        fast=FAST,
        slow=SLOW,
        expected=expected,
        counters=_counters,
    )


def _values(scope: Scope, monitor: Monitor, metrics: Metrics | None) -> dict[str, Any]:
    return {
        "server": metrics.watched if metrics else Watched(),
        "scope": scope,
        "monitor": monitor,
        "objectives": objectives.from_params(monitor.objectives),
        "hang": f"{objectives.hang_seconds(monitor):g}",
    }


def _counters(scope: Scope, objective: Objective, good: int, bad: int) -> dict[str, int]:
    """The series that a gateway counts of so many requests, those that miss the objective by bucket or by outcome."""
    if objective.histogram:
        name = f"lockstep_gateway_{objective.histogram}"
        bucket = f'{name}_bucket{{{scope.labels},le="{objective.seconds}"}}'
        return {f"{name}_count{{{scope.labels}}}": good + bad, bucket: good}
    outcomes = {"answered": good, "client_error": 10_000_000, "client_closed": 10_000_000}
    if objective.name == "whole_answers":
        outcomes["cut_off"] = bad
    else:
        share, rest = divmod(bad, len(FAILURES))
        outcomes |= dict.fromkeys(FAILURES, share)
        outcomes["timeout"] += rest
    return {
        f'lockstep_gateway_outcomes_total{{{scope.labels},outcome="{outcome}"}}': number
        for outcome, number in outcomes.items()
    }


def dashboard(scope: Scope, monitor: Monitor, metrics: Metrics | None) -> dict[str, Any]:
    """The dashboard, for `POST /api/dashboards/db` or a folder that Grafana watches.

    Raises ParamsRefused as ``objectives.from_params``.
    """
    # Prometheus reads the values of labels as JSON writes them.
    labels = monitor.gpus.get(scope.environment, {}).items()
    gpus = ",".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in labels)
    filled = templates.fill(
        "dashboard.yaml.jinja",
        **_values(scope, monitor, metrics),
        gpus=f"{{{gpus}}}" if gpus else "",
        # Grafana takes at most 40 characters. A digest, because two long names can begin alike.
        uid=f"lockstep-{hashlib.sha256('/'.join(scope).encode()).hexdigest()[:12]}",
    )
    filled["panels"] = [_panel(number, **panel) for number, panel in enumerate(filled["panels"])]
    return filled


def _panel(number: int, title: str, unit: str, queries: dict[str, str]) -> dict[str, Any]:
    """Grafana's panel; two of them stand in a row. ``queries``: expressions by their legends."""
    return {
        "type": "timeseries",
        "title": title,
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + place), "legendFormat": legend, "expr": expression}
            for place, (legend, expression) in enumerate(queries.items())
        ],
        "id": number + 1,
        "gridPos": {"x": 12 * (number % 2), "y": 8 * (number // 2), "w": 12, "h": 8},
    }
