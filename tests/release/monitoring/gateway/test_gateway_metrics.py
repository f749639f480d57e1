"""What the gateway counts, shows of requests that wait, and says of those that failed; servers that hang."""

import re
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import requests

from release.monitoring.gateway.answers import Choice, ParsedAnswer
from release.monitoring.gateway.options import GatewaySettings
from release.monitoring.gateway.outcomes import OUTCOMES, outcome_of
from release.monitoring.gateway.rows import Exchange
from tests.gateway_process import GatewayProcess, running
from tests.gateway_requests import CHAT, body
from tests.http_standin import Handler, StandIn
from tests.model_standin import RELEASE, ModelStandIn

pytest.importorskip("prometheus_client", reason="pip install -c constraints.txt -e '.[gateway]'")

WAIT = 30.0  # seconds


def exchange(status: int = 200, error: str | None = None, finish: str = "stop", **more: Any) -> Exchange:
    answer = ParsedAnswer(choices={0: Choice(text=["az"], finish=finish)})
    return Exchange(
        datetime.now(UTC), "r", "chat", status=status, error=error, answer=answer, **({"release": "a" * 12} | more)
    )


@pytest.mark.parametrize(
    ("status", "error", "finish", "outcome"),
    [
        (200, None, "stop", "answered"),
        (200, None, "length", "cut_off"),
        (200, "upstream_error", "stop", "upstream_error"),
        (200, "timeout", "stop", "timeout"),
        (200, "something new", "stop", "server_error"),
        (502, "upstream_error", "", "upstream_error"),
        (503, "no_server", "", "no_server"),
        (503, "503", "", "server_error"),
        (504, "timeout", "", "timeout"),
        (500, "500", "", "server_error"),
        (429, "too_many_requests", "", "overloaded"),
        (429, "429", "", "overloaded"),
        (400, "400", "", "client_error"),
        (401, "invalid_api_key", "", "client_error"),
        (413, "request_too_large", "", "client_error"),
        (499, "client_closed", "", "client_closed"),
        (499, "shutdown", "", "shutdown"),
        (503, "shutdown", "", "shutdown"),
    ],
)
def test_each_request_has_one_outcome(status: int, error: str | None, finish: str, outcome: str) -> None:
    assert outcome_of(exchange(status, error, finish)) == outcome


def samples(metrics: Any) -> dict[str, float]:
    lines = metrics.text().decode().splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}


def counted(release: str, outcome: str) -> str:
    return f'lockstep_gateway_outcomes_total{{environment="local",outcome="{outcome}",release="{release}"}}'


def test_tokens_of_thoughts_are_counted_beside_those_of_answers() -> None:
    from release.monitoring.gateway.metrics import Metrics

    metrics = Metrics(GatewaySettings(("http://127.0.0.1:1",)))
    choice = Choice(text=["b" * 10], reasoning=["a" * 30], finish="stop")
    metrics.ended(replace(exchange(), answer=ParsedAnswer(choices={0: choice}, output_tokens=12)))
    metrics.ended(exchange())
    of = '{environment="local",release="aaaaaaaaaaaa"}'
    assert samples(metrics)[f"lockstep_gateway_thought_tokens_total{of}"] == 9


def test_counters_of_a_new_release_are_0_until_a_scrape_must_have_seen_them() -> None:
    """A burst of errors before the first scrape is an increase for Prometheus all the same."""
    from release.monitoring.gateway.metrics import Metrics

    metrics = Metrics(GatewaySettings(("http://127.0.0.1:1",), scrape_interval=0.4))
    for release in ("a" * 12, "b" * 12):  # a start, and a promotion
        for _ in range(300):
            metrics.ended(exchange(502, "upstream_error", release=release))
        first = samples(metrics)
        assert {first[counted(release, outcome)] for outcome in OUTCOMES} == {0}
        assert first[f'lockstep_gateway_request_seconds_count{{environment="local",release="{release}"}}'] == 0
        time.sleep(0.6)
        second = samples(metrics)
        assert second[counted(release, "upstream_error")] == 300
        assert second[f'lockstep_gateway_request_seconds_count{{environment="local",release="{release}"}}'] == 300
        metrics.ended(exchange(502, "upstream_error", release=release))
        assert samples(metrics)[counted(release, "upstream_error")] == 301


def test_what_a_client_did_wrong_makes_no_server_look_fast() -> None:
    from release.monitoring.gateway.metrics import Metrics

    metrics = Metrics(GatewaySettings(("http://127.0.0.1:1",), scrape_interval=0))
    metrics.ended(exchange(401, "invalid_api_key"))
    assert samples(metrics)[counted("a" * 12, "client_error")] == 1
    assert samples(metrics)[f'lockstep_gateway_request_seconds_count{{environment="local",release="{"a" * 12}"}}'] == 0


def test_requests_are_shown_while_they_wait_for_text() -> None:
    from release.monitoring.gateway.metrics import Metrics

    metrics = Metrics(GatewaySettings(("http://127.0.0.1:1",), seconds=(0.5, 10.0)))
    waiting = [exchange(upstream="http://a", heard=time.monotonic() - age) for age in (0, 1, 20)]
    not_sent = exchange()
    for one in (*waiting, not_sent):
        metrics.began(one)

    def silent() -> list[float]:
        return [
            samples(metrics)[f'lockstep_gateway_silent_requests{{after="{after}",environment="local"}}']
            for after in ("0.5", "10")
        ]

    assert silent() == [2, 1]
    metrics.spoke(waiting[2])
    assert silent() == [1, 0]
    for one in (*waiting, not_sent):
        metrics.ended(one)
    assert silent() == [0, 0]


@pytest.fixture
def model() -> Iterator[ModelStandIn]:
    with ModelStandIn() as server:
        yield server


def post(gateway: GatewayProcess, prompt: str, request_id: str, *, stream: bool = False) -> int | None:
    """The status of an answer; None if it broke off."""
    number, _, fault = prompt.partition(" ")
    sent = body(int(number), fault, **({"stream": True} if stream else {}))
    try:
        reply = requests.post(gateway.url + CHAT, json=sent, headers={"X-Request-Id": request_id}, timeout=WAIT)
    except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError):
        return None
    return reply.status_code


@pytest.mark.slow
def test_a_server_that_hangs_gets_no_more_requests_until_it_generates(model: ModelStandIn, tmp_path: Path) -> None:
    with running(model.url, tmp_path, "--stall", "1") as gateway:
        assert gateway.metrics()['lockstep_gateway_servers{state="ready"}'] == 1
        model.hangs = True
        clients = [threading.Thread(target=post, args=(gateway, f"{n} none", f"hung-{n}")) for n in range(3)]
        for client in clients:
            client.start()
        gateway.wait(status=503, seconds=WAIT)
        shown = gateway.metrics()
        assert (shown['lockstep_gateway_servers{state="ready"}'], shown['lockstep_gateway_servers{state="out"}']) == (
            0,
            1,
        )
        assert shown['lockstep_gateway_silent_requests{after="1"}'] == 3
        assert shown['lockstep_gateway_silent_requests{after="600"}'] == 0
        assert post(gateway, "1 none", "refused") == 503
        model.hangs = False
        gateway.wait(seconds=WAIT)
        assert post(gateway, "1 none", "answered") == 200
        for client in clients:
            client.join()
    lines = [line for line in gateway.log.read_text().splitlines() if "takes" in line]
    assert [line.partition(": takes ")[2].partition(":")[0] for line in lines] == [
        "requests", "no more requests", "requests",
    ]  # fmt: skip
    assert f"server {model.url}, release {RELEASE}" in lines[1]


@pytest.mark.slow
def test_a_server_that_is_slow_with_one_answer_keeps_its_requests(model: ModelStandIn, tmp_path: Path) -> None:
    """It is silent for long, but generates a token when it is asked."""
    with running(model.url, tmp_path, "--stall", "0.5", "--deadline", "8") as gateway:
        before = len(model.bodies)
        assert post(gateway, "1 stall", "slow") == 504
        assert len(model.bodies) > before + 1  # it was asked for a token
        assert gateway.metrics()['lockstep_gateway_servers{state="ready"}'] == 1
        assert "no more requests" not in gateway.log.read_text()


@pytest.mark.slow
def test_a_server_that_hangs_is_passed_by_while_another_answers(model: ModelStandIn, tmp_path: Path) -> None:
    with ModelStandIn("b" * 12) as other, running(model.url, tmp_path, other.url, "--stall", "1") as gateway:
        until = time.monotonic() + WAIT
        while gateway.metrics()['lockstep_gateway_servers{state="ready"}'] < 2:
            assert time.monotonic() < until
        model.hangs = True
        clients = [threading.Thread(target=post, args=(gateway, f"{n} none", f"r-{n}")) for n in range(4)]
        for client in clients:
            client.start()
        while gateway.metrics()['lockstep_gateway_servers{state="out"}'] < 1:
            assert time.monotonic() < until
            time.sleep(0.1)
        assert requests.get(f"{gateway.private}/ready", timeout=9).status_code == 200
        assert [post(gateway, f"{n} none", f"s-{n}") for n in range(20)] == [200] * 20
        model.hangs = False
        for client in clients:
            client.join()


@pytest.mark.slow
def test_a_stream_without_a_first_token_is_broken_off(model: ModelStandIn, tmp_path: Path) -> None:
    with running(model.url, tmp_path, "--first-token", "1", "--scrape-interval", "0") as gateway:
        began = time.monotonic()
        assert post(gateway, "1 mute", "mute", stream=True) is None
        assert time.monotonic() - began < 10
        assert post(gateway, "2 slow", "slow", stream=True) == 200
        assert gateway.metrics()['lockstep_gateway_outcomes_total{outcome="timeout"}'] == 1
    assert re.search("gateway: 200 timeout: request mute, .* cause no first token", gateway.log.read_text())


@pytest.mark.slow
def test_each_request_that_a_server_failed_has_a_line_without_content(model: ModelStandIn, tmp_path: Path) -> None:
    secret = "my password is 12345"
    with running(model.url, tmp_path, "--deadline", "2") as gateway:
        cases = {
            "reset": (502, False),
            "half": (502, False),
            "end": (502, False),
            "stall": (504, False),
            "error": (500, False),
        }
        for fault, (status, stream) in cases.items():
            assert post(gateway, f"4 {fault}", f"id-{fault}", stream=stream) == status
        assert post(gateway, "5 half", "id-stream", stream=True) is None
        assert post(gateway, "6 none", "id-none") == 200
        sent = {"messages": [{"role": "user", "content": secret}, *body(7, "reset")["messages"]], "model": secret}
        assert requests.post(gateway.url + CHAT, json=sent, timeout=WAIT).status_code == 502
    log = gateway.log.read_text()
    assert secret not in log
    lines = [line for line in log.splitlines() if re.match(r"gateway: \d{3} ", line)]
    pattern = rf"gateway: (\d+) (\w+): request (\S+), release {RELEASE}, server {re.escape(model.url)}, after [\d.]+ s, cause (.+)"
    parts = [match.groups() for line in lines if (match := re.fullmatch(pattern, line))]
    assert len(parts) == len(lines) == 6
    assert [(status, reason, request) for status, reason, request, _ in parts][:5] == [
        ("502", "upstream_error", "id-reset"),
        ("502", "upstream_error", "id-half"),
        ("502", "upstream_error", "id-end"),
        ("504", "timeout", "id-stall"),
        ("200", "upstream_error", "id-stream"),
    ]
    assert "-" not in {cause for *_, cause in parts}


class Collector(StandIn):
    """A STAND-IN for an OpenTelemetry collector. ``received``: bodies of the requests to each path."""

    def __init__(self) -> None:
        super().__init__(CollectorHandler)
        self.received: list[tuple[str, bytes]] = []


class CollectorHandler(Handler):
    server: Collector

    def do_POST(self) -> None:
        self.server.received.append((self.path, self.body()))
        self.reply(200, b"", {"Content-Type": "application/x-protobuf"})


@pytest.mark.slow
def test_a_collector_gets_the_metrics_that_opentelemetry_names(model: ModelStandIn, tmp_path: Path) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="pip install -c constraints.txt -e '.[otel]'")
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

    options = ("--provider", "vllm", "--environment", "production", "--captures", "kept")
    with Collector() as collector, running(model.url, tmp_path, "--otlp", collector.url, *options) as gateway:
        assert post(gateway, "1 none", "a") == 200
        assert post(gateway, "2 slow", "b", stream=True) == 200
        assert post(gateway, "3 reset", "c") == 502
        assert gateway.stop() == 0
    (path, data), *more = collector.received
    assert (path, more) == ("/v1/metrics", [])
    (sent,) = ExportMetricsServiceRequest.FromString(data).resource_metrics
    resource = {item.key: item.value.string_value for item in sent.resource.attributes}
    assert resource.items() >= {
        ("service.name", "lockstep-gateway"),
        ("deployment.environment.name", "production"),
    }
    points = {
        (metric.name, metric.unit): [
            (point.count, {item.key: item.value.string_value for item in point.attributes})
            for point in metric.histogram.data_points
        ]
        for metric in sent.scope_metrics[0].metrics
    }
    answered = {
        "gen_ai.operation.name": "chat", "gen_ai.provider.name": "vllm", "gen_ai.response.model": "standin",
        "lockstep.release": RELEASE,
    }  # fmt: skip
    failed = {name: value for name, value in answered.items() if "response" not in name} | {
        "error.type": "upstream_error"
    }
    assert points == {
        ("gen_ai.server.request.duration", "s"): [(2, answered), (1, failed)],
        ("gen_ai.server.time_to_first_token", "s"): [(1, answered)],
        ("gen_ai.server.time_per_output_token", "s"): [(1, answered)],
    }
    rows = [row for path in (tmp_path / "kept").rglob("*.jsonl") for row in path.read_text().splitlines()]
    assert len(rows) == 3
    assert all('"gen_ai.provider.name":"vllm"' in row.replace(" ", "") for row in rows)


@pytest.mark.slow
def test_a_collector_that_is_down_delays_neither_answers_nor_the_end(model: ModelStandIn, tmp_path: Path) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="pip install -c constraints.txt -e '.[otel]'")
    with running(model.url, tmp_path, "--otlp", "http://127.0.0.1:1") as gateway:
        assert post(gateway, "1 none", "a") == 200
        began = time.monotonic()
        assert gateway.stop() == 0
        assert time.monotonic() - began < 15
    assert "Traceback" not in gateway.log.read_text()
