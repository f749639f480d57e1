"""The kustomize component monitoring of an environment: what the operators of Prometheus, Grafana and KEDA read.

Written to release/environments/ENV/monitoring by `lockstep monitor component ENV`, from the section monitor:
PodMonitor (the gateway is scraped, and its metrics get the label model), PrometheusRule (the rules of `lockstep monitor
rules`), a ConfigMap with the dashboard, a ScaledObject if monitor.scaling names the environment, and an
AlertmanagerConfig if monitor.alerts does. Where the runtime has metrics for it, another PodMonitor scrapes the servers,
and a NetworkPolicy lets Prometheus in. Before alerts reach it, the cluster's operator objects need settings:
docs/how-to/monitoring.md#in-a-cluster.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from checks.config.monitor import Monitor
from checks.storage import layout, plain_yaml
from release.monitoring import rules, templates
from release.monitoring.objectives import Scope
from release.overlay import gateway, kustomization
from release.overlay.overlays import CONTAINER
from release.runtimes import Metrics

SCALER = "scaledobject.yaml"
_HEADER = "# Written by `lockstep monitor component {}` from the section monitor: `promote` refuses edits.\n"


def files(scope: Scope, monitor: Monitor, metrics: Metrics | None) -> dict[str, bytes]:
    """Return the folder's files by name. The same arguments give the same bytes. ``metrics``: those of the server.

    Raises ParamsRefused as ``objectives.from_params``.
    """
    header = _HEADER.format(scope.environment)
    manifests = templates.fill(
        "component.yaml.jinja",
        scope=scope,
        rules=rules.rules(scope, monitor, metrics),
        metrics=metrics,
        prometheus_namespace=monitor.prometheus_namespace,
        scaling=monitor.scaling.get(scope.environment),
        alerts=monitor.alerts.get(scope.environment),
        gateway=gateway.NAME,
        gateway_labels=gateway.LABELS,
        server=CONTAINER,
        server_labels={"app.kubernetes.io/name": CONTAINER},
    )
    texts = {name: header + plain_yaml.dump(value) for name, value in manifests.items()}
    texts["dashboard.json"] = json.dumps(rules.dashboard(scope, monitor, metrics), indent=2) + "\n"
    return {name: text.encode() for name, text in texts.items()}


def committed(
    scope: Scope, monitor: Monitor, metrics: Metrics | None
) -> Mapping[Path, bytes | None]:
    """Return ``files`` by their paths in the repository. Raises as ``files``."""
    folder = layout.ENVIRONMENTS / scope.environment / kustomization.MONITORING
    return {folder / name: data for name, data in files(scope, monitor, metrics).items()}
