"""Sends results as events ``gen_ai.evaluation.result`` to an OpenTelemetry collector, by OTLP over HTTP in JSON.

Event and attributes ``gen_ai.…`` are those of the semantic conventions for generative AI
(github.com/open-telemetry/semantic-conventions-genai). They have no attributes yet for which model was evaluated
against what (issue 79 there): our own, ``lockstep.…``, have the digests. The variable OTEL_EXPORTER_OTLP_HEADERS
holds, as in OpenTelemetry's own exporters.
"""

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote

import requests

from checks.formats.verdict import Finding, Verdict
from checks.formats.watch_report import WatchFinding, WatchReport
from checks.process.errors import RemoteRefused
from checks.storage import digest, layout
from release.adapters import http

EVENT = "gen_ai.evaluation.result"
_TIMES = (5.0, 30.0)  # seconds to connect, and between two reads
_INFO = 9  # OTLP's number of the severity
Attributes = Mapping[str, str | float | int | None]


def of_verdict(verdict: Verdict, data: bytes) -> Iterator[Attributes]:
    """Yield the attributes of one event for each gate of ``verdict``, whose file has the bytes ``data``."""
    shared = {
        "lockstep.model": verdict.model,
        "lockstep.dataset": verdict.judged.get((layout.SPLITS / "test.jsonl").as_posix()),
        "lockstep.evaluation": verdict.judged.get(layout.EVALUATION.as_posix()),
        "lockstep.policy": verdict.policy,
        "lockstep.verdict": digest.of_bytes(data),
    }
    for finding in verdict.findings:
        own = {"lockstep.metric": finding.metric, "lockstep.suite": finding.suite}
        yield _attributes(finding.gate, finding) | own | shared


def of_window(report: WatchReport) -> Iterator[Attributes]:
    """Yield the attributes of one event for each finding of a window."""
    shared = {
        "lockstep.model": report.model,
        "lockstep.release": report.version,
        "lockstep.dataset": report.traffic,
        "deployment.environment.name": report.environment,
    }
    for finding in report.findings:
        yield _attributes(finding.name, finding) | shared


def _attributes(name: str, finding: Finding | WatchFinding) -> dict[str, str | float | int | None]:
    return {
        "gen_ai.evaluation.name": name,
        "gen_ai.evaluation.score.value": finding.value,
        "gen_ai.evaluation.score.label": finding.status,
        "gen_ai.evaluation.explanation": finding.reason,
        "lockstep.kind": finding.kind,
        "lockstep.low": finding.low,
        "lockstep.high": finding.high,
        "lockstep.rows": finding.n,
    }


def send(url: str, events: Iterable[Attributes]) -> int:
    """Send the events to the collector at ``url``, and return their number.

    Raises RemoteRefused unless the collector accepts every event.
    """
    now = str(time.time_ns())
    records = [
        {
            "timeUnixNano": now, "observedTimeUnixNano": now, "severityNumber": _INFO, "eventName": EVENT,
            "attributes": _written(attributes),
        }
        for attributes in events
    ]  # fmt: skip
    scope = {"scope": {"name": "lockstep"}, "logRecords": records}
    resource = {"attributes": _written({"service.name": "lockstep"})}
    body = {"resourceLogs": [{"resource": resource, "scopeLogs": [scope]}]}
    place = f"{url.rstrip('/')}/v1/logs"
    try:
        answer = requests.post(
            place, json=body, headers=_headers(), timeout=_TIMES, allow_redirects=False
        )
        rejected = answer.json().get("partialSuccess") if answer.ok else None
    except (requests.RequestException, ValueError, AttributeError) as error:
        raise _refused(http.reason(error, _TIMES)) from None
    if answer.status_code != requests.codes.ok:
        raise _refused(f"answers {answer.status_code}")
    if rejected and int(rejected.get("rejectedLogRecords", 0)):
        raise _refused(f"rejects {rejected['rejectedLogRecords']} of {len(records)} events")
    return len(records)


def _refused(why: str) -> RemoteRefused:
    return RemoteRefused(
        f"--otlp: the collector {why}", "name its address for OTLP over HTTP, as http://HOST:4318"
    )


def _headers() -> dict[str, str]:
    pairs = os.environ.get("OTEL_EXPORTER_OTLP_HEADERS", "").split(",")
    split = (pair.partition("=") for pair in pairs)
    return {name.strip(): unquote(value.strip()) for name, equals, value in split if equals}


def _written(attributes: Attributes) -> list[dict[str, Any]]:
    """Return those attributes that have a value, as OTLP writes them in JSON."""
    return [
        {"key": name, "value": _value(value)}
        for name, value in attributes.items()
        if value is not None
    ]


def _value(value: str | float) -> dict[str, Any]:
    if isinstance(value, str):
        return {"stringValue": value}
    return {"intValue": str(value)} if isinstance(value, int) else {"doubleValue": value}
