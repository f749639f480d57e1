"""The section monitor of params.yaml: what production is held to, and how often `lockstep watch` may err.

It decides nothing about a model: no stage, gate or promotion reads it, and it is in no digest.
"""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from checks.records.sections import Fraction, Name, Positive, Section, Share, Strings, problems

DAYS_A_YEAR = 365.25
# Kubernetes' rule for the names of Secrets.
SecretName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$", max_length=253)]
SecretKey = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$", max_length=253)]
LabelName = Annotated[str, Field(pattern=r"^[a-zA-Z_][a-zA-Z0-9_]*$")]  # of Prometheus


class Within(Section):
    """A share of requests that must not take longer than so many seconds."""

    seconds: Annotated[
        float, Field(gt=0, description="most seconds; for alerts, use a bucket of the gateway")
    ]
    share: Annotated[Fraction, Field(description="share of the requests that must be as fast")]


class Objectives(Section):
    """Objectives of the service; one that is null is not checked."""

    availability: Annotated[
        Fraction | None,
        Field(
            description="share of requests with a whole answer; a server error, 429 or broken answer counts against"
        ),
    ] = 0.99
    latency: Annotated[
        Within | None, Field(description="from the request to the end of its answer")
    ] = Within(seconds=10.0, share=0.95)
    first_token: Annotated[
        Within | None,
        Field(description="from the request to the first token of a stream; null: not checked"),
    ] = None
    whole_answers: Annotated[
        Fraction | None,
        Field(description="share of answers that were not cut off at the most tokens of an answer"),
    ] = 0.95


class Drift(Section):
    """The changes that a window must be able to show before it may say that nothing changed.

    They are no thresholds: an alarm is raised by a p-value alone.
    """

    auc: Annotated[
        float,
        Field(
            gt=0,
            lt=0.5,
            description="area under the ROC curve above 0.5 that must be detectable; a share s of requests that are "
            "wholly unlike the reference gives s / 2",
        ),
    ] = 0.1
    w: Annotated[
        float,
        Field(
            gt=0,
            lt=1,
            description="Cohen's w that must be detectable: 0.3 is about a label whose share goes from 10 to 20 %",
        ),
    ] = 0.3


class Cost(Section):
    """The costs of an environment's devices."""

    devices: Annotated[Positive, Field(description="devices that the environment holds")] = 1
    hourly_price: Annotated[float, Field(gt=0, description="price of one device for an hour")]


class Scaling(Section):
    """How KEDA scales the servers of an environment: by requests at its gateway, and in the servers' own queues."""

    least: Annotated[Positive, Field(description="fewest servers")] = 1
    most: Annotated[Positive, Field(description="most servers")]
    requests: Annotated[
        Positive,
        Field(
            description="requests in flight for each server, answered or queued; above that one is added"
        ),
    ] = 8
    waiting: Annotated[
        Positive | None,
        Field(
            description="requests in the queue of each server, if its runtime counts them; above that one is added; "
            "null: they do not count"
        ),
    ] = 4
    prometheus: Annotated[
        str,
        Field(
            pattern=r"^https?://[^\s@]+$",
            description="address of Prometheus in the cluster, that KEDA asks",
        ),
    ] = "http://prometheus-operated.monitoring.svc:9090"

    def contradictions(self) -> Iterator[str]:
        """Yield each contradiction, as "problem|remedy"."""
        return problems(
            (self.most < self.least, f"most: {self.most} is below least, {self.least}|swap them")
        )


class Receiver(Section):
    """Where alerts are sent. A Secret in the environment's namespace has the address or the key of the service."""

    kind: Annotated[
        Literal["webhook", "slack", "msteams", "pagerduty", "opsgenie"],
        Field(description="the service that gets alerts"),
    ] = "webhook"
    secret: Annotated[SecretName, Field(description="name of the Secret")]
    key: Annotated[
        SecretKey,
        Field(
            description="key in the Secret; its value is the URL to send to, or the service's integration key"
        ),
    ] = "url"


class Alerts(Section):
    """Who gets the alerts of an environment."""

    page: Annotated[
        Receiver, Field(description="receiver of alerts that a person must look at now")
    ]
    ticket: Annotated[
        Receiver | None, Field(description="receiver of all other alerts; null: the same as `page`")
    ] = None


class Monitor(Section):
    """The demands of `lockstep watch` and the generated alerts on a running model."""

    window_days: Annotated[
        Positive,
        Field(le=366, description="days of a window; windows start on Mondays where it is 7"),
    ] = 7
    false_alarms_a_year: Annotated[
        float,
        Field(gt=0, description="most windows a year that fail by chance although nothing changed"),
    ] = 1.0
    confidence: Annotated[
        float, Field(gt=0.5, lt=1, description="of a pass, and of each bound in the report")
    ] = 0.95
    objectives: Objectives = Objectives()
    least_errors: Annotated[
        Positive,
        Field(
            le=1000,
            description="fewest requests that miss an objective, in the long window of an alert, to page",
        ),
    ] = 10
    runbook: Annotated[
        str,
        Field(
            pattern=r"^[^\s#<>\"]+$",
            max_length=300,
            description="address of the page that says what to do about each alert; #NAME is added, in lower case",
        ),
    ] = "docs/how-to/alerts.md"
    prometheus_namespace: Annotated[
        SecretName,
        Field(
            description="namespace of the cluster's Prometheus, which may ask servers for metrics"
        ),
    ] = "monitoring"
    drift: Drift = Drift()
    margin: Annotated[
        Share,
        Field(
            description="largest loss against the evaluation before release: labels, refusals, repetition, quality"
        ),
    ] = 0.05
    label_hours: Annotated[
        float,
        Field(
            gt=0,
            le=8784,
            description="hours after a request at which its label counts in `lockstep watch`, `canary` and `shadow`, "
            "so that it does not matter which labels come sooner; in canary and shadow a later label is left out",
        ),
    ] = 24.0
    labels: Annotated[
        Strings | None,
        Field(
            description="the valid answers; null: the references of the train split if validate.labels is set"
        ),
    ] = None
    cost: Annotated[Cost | None, Field(description="null: no cost is reported")] = None
    scaling: dict[Name, Scaling] = Field(
        default_factory=dict,
        description="by environment: the component `monitoring` then has a ScaledObject of KEDA",
    )
    alerts: dict[Name, Alerts] = Field(
        default_factory=dict,
        description="who gets an environment's alerts; the component `monitoring` then has an AlertmanagerConfig",
    )
    gpus: dict[
        Name, Annotated[dict[LabelName, Annotated[str, Field(min_length=1)]], Field(min_length=1)]
    ] = Field(
        default_factory=dict,
        description="for each environment, the labels that select its GPUs among the series of NVIDIA's dcgm-exporter; "
        "the dashboard then shows them",
    )

    @property
    def alpha(self) -> float:
        """Return the level of a window: ``false_alarms_a_year`` over windows a year."""
        return min(0.5, self.false_alarms_a_year * self.window_days / DAYS_A_YEAR)
