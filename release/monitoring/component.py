"""The kustomize component monitoring of an environment: what the operators of Prometheus, Grafana and KEDA read.

Written to release/environments/ENV/monitoring by `lockstep monitor component ENV`, from the section monitor:
PodMonitor (the gateway is scraped, and its metrics get the label model), PrometheusRule (the rules of `lockstep monitor
rules`), a ConfigMap with the dashboard, a ScaledObject if monitor.scaling names the environment, and an
AlertmanagerConfig if monitor.alerts does. Field by field they follow the documentation of the Prometheus Operator
(monitoring.coreos.com/v1) and of KEDA 2 (keda.sh/v1alpha1).
"""

import json
from typing import Any

from checks import plain_yaml
from checks.config.monitor import Monitor, Scaling
from release.monitoring import dashboard, queries, route, rules
from release.monitoring.queries import Scope
from release.overlay import gateway
from release.overlay.overlays import CONTAINER

DASHBOARD = "lockstep-dashboard"
SCALER = "scaledobject.yaml"
_GRAFANA = {"grafana_dashboard": "1"}  # by this label Grafana's sidecar finds a ConfigMap
_HEADER = "# Written by `lockstep monitor component {}` from the section monitor: `promote` refuses edits.\n"


def files(of: Scope, monitor: Monitor) -> dict[str, bytes]:
    """The files of the folder, by name. The same arguments give the same bytes. Raises ParamsRefused as ``rules``."""
    found = objects(of, monitor)
    made = {f"{each['kind'].lower()}.yaml": each for each in found if each["kind"] != "ConfigMap"}
    ((name, text),) = found[-1]["data"].items()
    kustomization: dict[str, Any] = {
        "apiVersion": "kustomize.config.k8s.io/v1alpha1",
        "kind": "Component",
        "resources": list(made),
        "configMapGenerator": [
            {
                "name": DASHBOARD,
                "files": [f"{name}=dashboard.json"],
                "options": {"disableNameSuffixHash": True, "labels": _GRAFANA},
            }
        ],
    }
    if of.environment in monitor.scaling:
        # KEDA sets it: in git it would undo each scaling.
        operations = plain_yaml.dump([{"op": "remove", "path": "/spec/replicas"}])
        kustomization["patches"] = [{"target": {"kind": "Deployment", "name": CONTAINER}, "patch": operations}]
    written = {"kustomization.yaml": kustomization, **made}
    head = _HEADER.format(of.environment)
    return {name: f"{head}{plain_yaml.dump(value)}".encode() for name, value in written.items()} | {
        "dashboard.json": text.encode()
    }


def objects(of: Scope, monitor: Monitor) -> list[dict[str, Any]]:
    """The objects of the component, the ConfigMap last. Raises as ``files``."""
    scaling, alerts = monitor.scaling.get(of.environment), monitor.alerts.get(of.environment)
    text = json.dumps(dashboard.dashboard(of, monitor), indent=2) + "\n"
    return [
        _pods(of),
        {
            "apiVersion": "monitoring.coreos.com/v1",
            "kind": "PrometheusRule",
            "metadata": {"name": gateway.NAME},
            "spec": rules.rules(of, monitor),
        },
        *([] if scaling is None else [_scaled(of, scaling)]),
        *([] if alerts is None else [route.config(of, alerts)]),
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": DASHBOARD, "labels": _GRAFANA},
            # The sidecar puts all dashboards into one folder.
            "data": {f"lockstep-{of.model}.{of.environment}.json": text},
        },
    ]


def _pods(of: Scope) -> dict[str, Any]:
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": {"name": gateway.NAME},
        "spec": {
            "selector": {"matchLabels": dict(gateway.LABELS)},
            "podMetricsEndpoints": [
                {
                    "port": "metrics",
                    "path": "/metrics",
                    "interval": "15s",
                    # `replace` is the default, which the API server adds.
                    "relabelings": [{"action": "replace", "targetLabel": "model", "replacement": of.model}],
                }
            ],
        },
    }


def _scaled(of: Scope, scaling: Scaling) -> dict[str, Any]:
    """KEDA adds servers until each has at most ``scaling.requests`` in flight: those that it answers or queues."""
    alive = queries.metric("captures_dropped_total", of)  # before the first request nothing is in flight
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": {"name": CONTAINER},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": CONTAINER},
            "minReplicaCount": scaling.least,
            "maxReplicaCount": scaling.most,
            "triggers": [
                {
                    "type": "prometheus",
                    "metricType": "AverageValue",
                    "metadata": {
                        "serverAddress": scaling.prometheus,
                        "query": f"sum({queries.metric('in_flight', of)}) or sum(0 * {alive})",
                        "threshold": str(scaling.requests),
                        "ignoreNullValues": "false",  # a gateway that is not scraped is no gateway without requests
                    },
                }
            ],
        },
    }
