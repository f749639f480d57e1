"""Sends what the gateway measures to an OpenTelemetry collector, by OTLP over HTTP.

Names, units and bounds are those of the semantic conventions for generative AI: metrics of a server
(github.com/open-telemetry/semantic-conventions-genai). No text of a request is sent. Needs the extra otel. The SDK's
own variables hold too, such as OTEL_EXPORTER_OTLP_HEADERS and OTEL_METRIC_EXPORT_INTERVAL.
"""

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource

from release.monitoring.gateway.outcomes import ANSWERS, outcome_of
from release.monitoring.gateway.rows import Exchange

_DURATION = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_FIRST = (
    0.001,
    0.005,
    0.01,
    0.02,
    0.04,
    0.06,
    0.08,
    0.1,
    0.25,
    0.5,
    0.75,
    1.0,
    2.5,
    5.0,
    7.5,
    10.0,
)
_TOKEN = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
_SECONDS = 5.0  # Seconds for the last metrics to be sent.


class Telemetry:
    """Metrics of requests that ended, sent to the collector at ``url`` every minute."""

    def __init__(self, url: str, environment: str) -> None:
        resource = Resource.create(
            {"service.name": "lockstep-gateway", "deployment.environment.name": environment}
        )
        exporter = OTLPMetricExporter(f"{url}/v1/metrics", timeout=_SECONDS)
        # Not the process's own provider: a program that is instrumented from outside keeps its own.
        self._provider = MeterProvider(
            [PeriodicExportingMetricReader(exporter)], resource, shutdown_on_exit=False
        )
        meter = self._provider.get_meter("lockstep.gateway")
        self._duration, self._first, self._token = (
            meter.create_histogram(
                f"gen_ai.server.{name}", "s", text, explicit_bucket_boundaries_advisory=bounds
            )
            for name, text, bounds in (
                ("request.duration", "Generative AI server request duration.", _DURATION),
                (
                    "time_to_first_token",
                    "Time to generate the first token for successful responses.",
                    _FIRST,
                ),
                (
                    "time_per_output_token",
                    "Time per output token after the first, for successful responses.",
                    _TOKEN,
                ),
            )
        )

    def ended(self, exchange: Exchange) -> None:
        """Measure a request that ended."""
        answer, outcome = exchange.answer, outcome_of(exchange)
        succeeded = outcome in ANSWERS
        optional = {
            "gen_ai.provider.name": exchange.provider,
            "gen_ai.response.model": answer.model,
            "lockstep.release": exchange.release,
            "error.type": None if succeeded else outcome,
        }
        attributes = {"gen_ai.operation.name": str(exchange.operation)}
        attributes |= {name: value for name, value in optional.items() if value is not None}
        self._duration.record(exchange.seconds, attributes)
        if succeeded and exchange.first is not None:
            self._first.record(exchange.first, attributes)
            if (tokens := answer.written_tokens) > 1:
                self._token.record((exchange.seconds - exchange.first) / (tokens - 1), attributes)

    def stop(self) -> None:
        """Send what was measured since the last time."""
        self._provider.shutdown(timeout_millis=_SECONDS * 1000)
