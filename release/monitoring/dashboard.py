"""A Grafana dashboard of a model in an environment, as JSON: objectives, speed, traffic, signals, releases."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from checks.config.monitor import Monitor
from release.monitoring import queries, rules
from release.monitoring.queries import WINDOW, Scope, metric

_SPAN = "$__rate_interval"
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def dashboard(of: Scope, monitor: Monitor) -> dict[str, Any]:
    """The dashboard, for `POST /api/dashboards/db` or a folder that Grafana watches. Raises as ``objectives``."""
    panels = [
        _panel(
            f"{each.says}, of which {each.budget:.3g} may be",
            "percentunit",
            {each.name: f"{rules.record(each, rules.RATIO, '5m')}{queries.selector(of)}"},
        )
        for each in queries.objectives(of, monitor.objectives)
    ]
    panels += _traffic(of)
    if monitor.cost is not None:  # also while nobody asks: the devices are held
        second = monitor.cost.devices * monitor.cost.hourly_price / 3600
        rate_of_all = f"sum (rate({metric('requests_total', of)}[{WINDOW}]))"
        panels.append(
            _panel("price of 1,000 requests", "short", {"price": f"{1000 * second:.6g} / ({rate_of_all} > 0)"})
        )
    if labels := monitor.gpus.get(of.environment):
        panels += _gpus(of, labels)
    seen = metric("requests_total", of)
    begins = f"sum by (release) ({seen}) unless sum by (release) ({seen} offset 10m)"
    return {
        # At most 40 characters: a digest, because two long names can begin alike.
        "uid": f"lockstep-{hashlib.sha256('/'.join(of).encode()).hexdigest()[:12]}",
        "title": f"Lockstep: {of}",
        "tags": ["lockstep"],
        "timezone": "utc",
        "editable": False,
        "refresh": "1m",
        "schemaVersion": 39,
        "time": {"from": "now-24h", "to": "now"},
        "templating": {"list": [{"name": "datasource", "type": "datasource", "query": "prometheus"}]},
        "annotations": {
            "list": [
                {
                    "name": "releases", "enable": True, "datasource": _SOURCE, "iconColor": "blue", "step": "60s",
                    "expr": begins, "titleFormat": "release {{release}}", "tagKeys": "release",
                }
            ]
        },
        "panels": [panel | _place(number) for number, panel in enumerate(panels)],
    }  # fmt: skip


def expressions(made: dict[str, Any], span: str) -> list[str]:
    """Every query of a dashboard, with ``span`` for Grafana's own variable."""
    found = [target["expr"] for panel in made["panels"] for target in panel["targets"]]
    return [each.replace(_SPAN, span) for each in (*found, *(a["expr"] for a in made["annotations"]["list"]))]


def _traffic(of: Scope) -> list[dict[str, Any]]:
    """Panels of what the gateway counts and measures."""

    def quantiles(name: str) -> dict[str, str]:
        summed = f"sum by (le, release) (rate({metric(f'{name}_bucket', of)}[{WINDOW}]))"
        return {f"p{share} {{{{release}}}}": f"histogram_quantile(0.{share}, {summed})" for share in (50, 95, 99)}

    def rate(name: str, by: str) -> dict[str, str]:
        return {f"{{{{{by}}}}}": f"sum by ({by}) (rate({metric(name, of)}[{WINDOW}]))"}

    answers = f"sum by (release) (rate({metric('answer_characters_count', of)}[{WINDOW}]))"

    def share(name: str) -> dict[str, str]:
        return {"{{release}}": f"sum by (release) (rate({metric(name, of)}[{WINDOW}])) / {answers}"}

    return [
        _panel("requests by outcome", "reqps", rate("outcomes_total", "outcome")),
        _panel("requests by code", "reqps", rate("requests_total", "code")),
        _panel("requests by release", "reqps", rate("requests_total", "release")),
        _panel("answers by reason of their end", "reqps", rate("requests_total", "finish_reason")),
        _panel("seconds of a request", "s", quantiles("request_seconds")),
        _panel("seconds to the first token", "s", quantiles("time_to_first_token_seconds")),
        _panel("seconds between tokens", "s", quantiles("inter_token_seconds")),
        _panel("tokens", "short", rate("tokens_total", "direction")),
        _panel("requests in flight", "short", {"{{release}}": f"sum by (release) ({metric('in_flight', of)})"}),
        _panel(
            "requests at a server that sent nothing for so many seconds", "short",
            {"{{after}}": f"sum by (after) ({metric('silent_requests', of)}) > 0"},
        ),
        _panel("servers", "short", {"{{state}}": f"sum by (state) ({metric('servers', of)})"}),
        _panel("share of refusals", "percentunit", share("refusals_total")),
        _panel("share of answers that repeat themselves", "percentunit", share("repetitive_total")),
        _panel("dropped captures", "short", rate("captures_dropped_total", "release")),
    ]  # fmt: skip


def _gpus(of: Scope, labels: Mapping[str, str]) -> list[dict[str, Any]]:
    """Panels of the environment's GPUs, by the names that dcgm-exporter gives its metrics by default."""
    chosen = "{" + ",".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in labels.items()) + "}"
    each = "GPU {{gpu}} of {{Hostname}}"
    used = f"sum (rate(DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{chosen}[{WINDOW}]))"  # millijoules
    requests = f"sum (rate({metric('requests_total', of)}[{WINDOW}]))"
    return [
        _panel("use of each GPU", "percent", {each: f"DCGM_FI_DEV_GPU_UTIL{chosen}"}),
        _panel("memory in use on each GPU", "mbytes", {each: f"DCGM_FI_DEV_FB_USED{chosen}"}),
        _panel("power of each GPU", "watt", {each: f"DCGM_FI_DEV_POWER_USAGE{chosen}"}),
        _panel("energy of 1,000 requests", "watth", {"energy": f"1000 * {used} / 3.6e6 / ({requests} > 0)"}),
    ]


def _panel(title: str, unit: str, targets: dict[str, str]) -> dict[str, Any]:
    return {
        "type": "timeseries",
        "title": title,
        "datasource": _SOURCE,
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + number), "legendFormat": legend, "expr": expr.replace(WINDOW, _SPAN)}
            for number, (legend, expr) in enumerate(targets.items())
        ],
    }


def _place(number: int) -> dict[str, Any]:
    return {"id": number + 1, "gridPos": {"x": 12 * (number % 2), "y": 8 * (number // 2), "w": 12, "h": 8}}
