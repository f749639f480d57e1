"""A Grafana dashboard of a model in an environment, as JSON."""

import hashlib
import json
from typing import Any

from checks.config.monitor import Monitor
from release.monitoring import objectives, templates
from release.monitoring.objectives import Scope


def dashboard(scope: Scope, monitor: Monitor) -> dict[str, Any]:
    """The dashboard, for `POST /api/dashboards/db` or a folder that Grafana watches.

    Raises ParamsRefused as ``objectives.from_params``.
    """
    # Prometheus reads the values of labels as JSON writes them.
    labels = monitor.gpus.get(scope.environment, {}).items()
    gpus = ",".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in labels)
    filled: dict[str, Any] = templates.fill(
        "dashboard.yaml.jinja",
        scope=scope,
        monitor=monitor,
        objectives=objectives.from_params(monitor.objectives),
        gpus=f"{{{gpus}}}" if gpus else "",
        # Grafana takes at most 40 characters. A digest, because two long names can begin alike.
        uid=f"lockstep-{hashlib.sha256('/'.join(scope).encode()).hexdigest()[:12]}",
    )
    filled["panels"] = [_panel(number, **panel) for number, panel in enumerate(filled["panels"])]
    return filled


def expressions(filled: dict[str, Any], span: str) -> list[str]:
    """Every query of a dashboard, with ``span`` for Grafana's own variable."""
    queries = [target["expr"] for panel in filled["panels"] for target in panel["targets"]]
    queries += [annotation["expr"] for annotation in filled["annotations"]["list"]]
    return [query.replace("$__rate_interval", span) for query in queries]


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
