"""The AlertmanagerConfig of the component monitoring: who gets an environment's alerts, by the Prometheus Operator.

Field by field it follows the operator's documentation (monitoring.coreos.com/v1alpha1). Addresses and keys are never in
git: each receiver names a Secret. The cluster's operator objects need settings before alerts reach it:
docs/how-to/monitoring.md#in-a-cluster.
"""

from typing import Any

from checks.config.monitor import Alerts, Receiver
from release.monitoring.queries import Scope
from release.overlay import gateway

# The list of a kind of receiver, and its field for the Secret.
_FIELDS = {
    "webhook": ("webhookConfigs", "urlSecret"),
    "slack": ("slackConfigs", "apiURL"),
    "msteams": ("msteamsv2Configs", "webhookURL"),
    "pagerduty": ("pagerdutyConfigs", "routingKey"),
    "opsgenie": ("opsgenieConfigs", "apiKey"),
}
PAGE, TICKET = "page", "ticket"  # names of receivers; of alerts, values of the label severity


def config(of: Scope, alerts: Alerts) -> dict[str, Any]:
    """The object. Each receiver gets the alerts of one model and environment as one notification."""
    named = {PAGE: alerts.page, TICKET: alerts.ticket or alerts.page}
    return {
        "apiVersion": "monitoring.coreos.com/v1alpha1",
        "kind": "AlertmanagerConfig",
        "metadata": {"name": gateway.NAME},
        "spec": {
            "route": {
                "receiver": TICKET,
                "groupBy": list(Scope._fields),
                "groupWait": "30s",
                "groupInterval": "5m",
                "repeatInterval": "12h",
                "matchers": [_equal(name, value) for name, value in of._asdict().items()],
                "routes": [{"receiver": PAGE, "repeatInterval": "1h", "matchers": [_equal("severity", PAGE)]}],
            },
            "receivers": [{"name": name, **_receiver(each)} for name, each in named.items()],
        },
    }


def _equal(name: str, value: str) -> dict[str, str]:
    return {"name": name, "value": value, "matchType": "="}


def _receiver(receiver: Receiver) -> dict[str, Any]:
    kind, field = _FIELDS[receiver.kind]
    return {kind: [{"sendResolved": True, field: {"name": receiver.secret, "key": receiver.key}}]}
