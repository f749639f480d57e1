"""Evaluation events: OpenTelemetry's own types read what is sent to a collector, and nothing that it refuses is lost."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from google.protobuf import json_format  # type: ignore[import-untyped]
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from checks.formats.verdict import Finding, Verdict
from checks.formats.watch_report import WatchFinding, WatchReport
from checks.process.errors import RemoteRefused
from checks.storage import digest, files, layout
from release.cli import main
from release.monitoring import evaluation_events
from tests import report_tree
from tests.http_standin import Handler, StandIn

MODEL, POLICY, TEST, REPORT = (f"sha256:{number * 64}" for number in "1234")
VERDICT = Verdict(
    status="fail", model=MODEL, policy=POLICY,
    judged={"data/splits/test.jsonl": TEST, "reports/evaluation.json": REPORT},
    findings=(
        Finding(gate="data_is_sound", kind="data", status="pass", reason="all 44 expectations hold"),
        Finding(
            gate="still_chats", kind="non_inferior", status="fail", reason="worse by 0.2", metric="match",
            suite="general", value=-0.2, low=-0.3, high=0.0, n=400,
        ),
    ),
)  # fmt: skip


class Collector(StandIn):
    """It keeps what was sent, and answers as it is told."""

    def __init__(self) -> None:
        super().__init__(_Logs)
        self.status, self.answer = 200, dict[str, Any]()
        self.sent: list[tuple[str, str | None, bytes]] = []


class _Logs(Handler):
    def do_POST(self) -> None:
        collector = self.server
        assert isinstance(collector, Collector)
        collector.sent.append((self.path, self.headers.get("api-key"), self.body()))
        self.reply(collector.status, collector.answer)


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        yield server


def received(collector: Collector) -> list[dict[str, Any]]:
    """Return the attributes of each event, as OpenTelemetry's types read them."""
    request = ExportLogsServiceRequest()
    ((path, _, body),) = collector.sent
    assert path == "/v1/logs"
    json_format.Parse(body, request)
    (resource,) = request.resource_logs
    (scope,) = resource.scope_logs
    assert {record.event_name for record in scope.log_records} == {"gen_ai.evaluation.result"}
    return [
        {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in record.attributes}
        for record in scope.log_records
    ]


def test_each_gate_is_an_event_with_the_digests_of_what_it_rests_on(collector: Collector) -> None:
    data = VERDICT.model_dump_json().encode()
    assert evaluation_events.send(collector.url, evaluation_events.of_verdict(VERDICT, data)) == 2
    shared = {
        "lockstep.model": MODEL, "lockstep.dataset": TEST, "lockstep.evaluation": REPORT, "lockstep.policy": POLICY,
        "lockstep.verdict": digest.of_bytes(data),
    }  # fmt: skip
    assert received(collector) == [
        {
            "gen_ai.evaluation.name": "data_is_sound", "gen_ai.evaluation.score.label": "pass",
            "gen_ai.evaluation.explanation": "all 44 expectations hold", "lockstep.kind": "data", **shared,
        },
        {
            "gen_ai.evaluation.name": "still_chats", "gen_ai.evaluation.score.label": "fail",
            "gen_ai.evaluation.score.value": -0.2, "gen_ai.evaluation.explanation": "worse by 0.2",
            "lockstep.kind": "non_inferior", "lockstep.metric": "match", "lockstep.suite": "general",
            "lockstep.low": -0.3, "lockstep.high": 0.0, "lockstep.rows": 400, **shared,
        },
    ]  # fmt: skip


def test_each_finding_of_a_window_is_an_event_of_its_environment(collector: Collector) -> None:
    finding = {"name": "quality", "kind": "quality", "status": "pass", "reason": "as good", "value": 0.8}
    report = WatchReport(
        environment="production", since="2026-03-02T00:00:00Z", until="2026-03-09T00:00:00Z", version="v0.2.0",
        model=MODEL, commit="1" * 40, status="pass", alpha=0.02, confidence=0.95, traffic=TEST, reference={},
        requests=9, prompts=9, labelled=3, findings=(WatchFinding.model_validate(finding),), costs=None, notes=(),
    )  # fmt: skip
    assert evaluation_events.send(f"{collector.url}/", evaluation_events.of_window(report)) == 1
    assert received(collector) == [
        {
            "gen_ai.evaluation.name": "quality", "gen_ai.evaluation.score.label": "pass",
            "gen_ai.evaluation.score.value": 0.8, "gen_ai.evaluation.explanation": "as good",
            "lockstep.kind": "quality", "lockstep.model": MODEL, "lockstep.release": "v0.2.0", "lockstep.dataset": TEST,
            "deployment.environment.name": "production",
        }
    ]  # fmt: skip


def test_the_headers_of_opentelemetrys_variable_are_sent(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "api-key=a%20b,other=c")
    evaluation_events.send(collector.url, evaluation_events.of_verdict(VERDICT, b""))
    ((_, key, body),) = collector.sent
    assert key == "a b"
    assert b"a b" not in body
    assert json.loads(body)["resourceLogs"]


@pytest.mark.parametrize(
    ("status", "answer", "line"),
    [
        (503, {}, "--otlp: the collector answers 503; name its address for OTLP over HTTP, as http://HOST:4318"),
        (302, {}, "answers 302"),
        (200, {"partialSuccess": {"rejectedLogRecords": "1"}}, "rejects 1 of 2 events"),
        (200, "no JSON", "cannot be asked: JSONDecodeError"),
    ],
)
def test_a_collector_that_does_not_accept_every_event_is_refused(
    collector: Collector, status: int, answer: Any, line: str
) -> None:
    collector.status, collector.answer = status, answer
    with pytest.raises(RemoteRefused, match=line):
        evaluation_events.send(collector.url, evaluation_events.of_verdict(VERDICT, b""))


@pytest.mark.parametrize(
    ("url", "line"),
    [("http://127.0.0.1:1", "Connection refused"), ("collector:4318", "cannot be asked: InvalidSchema")],
)
def test_an_address_without_a_collector_is_refused_in_one_line(url: str, line: str) -> None:
    with pytest.raises(RemoteRefused, match=line) as caught:
        evaluation_events.send(url, evaluation_events.of_verdict(VERDICT, b""))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_report_sends_a_verdict_that_holds_and_no_other(collector: Collector, tmp_path: Path) -> None:
    root = tmp_path / "pr"
    report_tree.pull_request(root, edit=lambda made: report_tree.trained(made, seconds=1.2))
    command = ["-C", str(root), "report", "--target", "main", "--otlp", collector.url]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    verdict = files.read_json(root / layout.VERDICT, Verdict)
    events = received(collector)
    assert [event["gen_ai.evaluation.name"] for event in events] == [finding.gate for finding in verdict.findings]
    assert {event["lockstep.model"] for event in events} == {verdict.model}
    assert {event["lockstep.verdict"] for event in events} == {digest.of_file(root / layout.VERDICT).sha256}
    with (root / layout.PREDICTIONS / "candidate.jsonl").open("a") as stream:
        stream.write("\n")
    refused = CliRunner().invoke(main, command)
    assert (refused.exit_code, len(collector.sent)) == (8, 1), refused.output
    assert "--otlp: no verdict holds here; run `./lockstep gate`" in " ".join(refused.stderr.split())
