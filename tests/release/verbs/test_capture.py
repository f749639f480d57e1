"""Requests that other tools recorded become captures: KServe's events, access logs, and traces of a real MLflow."""

import base64
import json
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import requests
from click.testing import CliRunner, Result

from checks.formats.captures import Capture
from checks.storage import layout
from release.cli import main
from release.monitoring.gateway.rows import Exchange, row
from release.monitoring.logs import mlflow
from release.monitoring.store import CaptureStore
from tests import mlflow_service as service
from tests.conftest import REPOSITORY, read_yaml
from tests.http_standin import Handler, StandIn
from tests.pipeline_repository import write_params

tables = service.tables
MODEL = "2bf8835691b3"
WHOLE = f"sha256:{MODEL}{'0' * 52}"
ASKED = {"model": "router", "messages": [{"role": "user", "content": "mail ada@mail.example.org"}]}
SAID = {
    "model": "router", "usage": {"prompt_tokens": 3, "completion_tokens": 1},
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "to 8.8.8.8"}, "finish_reason": "stop"}],
}  # fmt: skip


def stream(*texts: str, end: str = "stop") -> str:
    events: list[dict[str, Any]] = [
        {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]} for text in texts
    ]
    events.append({"choices": [{"index": 0, "delta": {}, "finish_reason": end or None}]})
    return "".join(
        f"data: {json.dumps({'model': 'router'} | each)}\n\n" for each in events
    ) + "data: [DONE]\n\n" * bool(end)


LINE: dict[str, Any] = {
    "time": "2026-11-26T17:59:59.5+01:00", "request_id": "r1", "status": 200, "seconds": 0.31, "release": WHOLE,
    "client": "203.0.113.7", "request": ASKED, "response": SAID,
}  # fmt: skip


def event(kind: str, data: Any, at: str, **more: Any) -> dict[str, Any]:
    """As a sink of CloudEvents writes what KServe's pkg/logger/worker.go sends."""
    return {
        "specversion": "1.0", "id": "e1", "type": f"org.kubeflow.serving.inference.{kind}", "time": at, "data": data,
        "source": "http://localhost:9081/", "datacontenttype": "application/json", "inferenceservicename": "server",
        "namespace": "model-production", "component": "predictor", "endpoint": "default", "metadata": "{}",
        "annotations": json.dumps({"lockstep/model": WHOLE}),
    } | more  # fmt: skip


def record(kind: str, data: Any, at: str, **more: Any) -> dict[str, Any]:
    """As KServe's pkg/logger/types.go writes a file to a bucket."""
    body = data if isinstance(data, str) else json.dumps(data)
    return {
        "url": {"Scheme": "s3", "Host": "logs"}, "bytes": base64.b64encode(body.encode()).decode(), "id": "e1",
        "contentType": "application/json", "reqType": f"org.kubeflow.serving.inference.{kind}", "endpoint": "default",
        "annotations": {"lockstep/model": WHOLE}, "occurrenceTime": at,
    } | more  # fmt: skip


BEGAN, ENDED = "2026-11-26T16:59:59.500000001Z", "2026-11-26T16:59:59.81Z"
PAIR = [event("request", ASKED, BEGAN), event("response", SAID, ENDED)]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, value in mlflow.PATIENCE.items():  # the command sets them, and here it is no process of its own
        monkeypatch.setenv(name, value)
    write_params(tmp_path, read_yaml((REPOSITORY / "params.yaml").read_text()))
    return tmp_path


def lines(*values: Any) -> str:
    return "".join(f"{value if isinstance(value, str) else json.dumps(value)}\n" for value in values)


def lockstep(root: Path, *words: str) -> Result:
    return CliRunner().invoke(main, ["-C", str(root), *words])


def stored(root: Path) -> list[Capture]:
    store = CaptureStore(str(root / layout.CAPTURES))
    return list(store.requests("production", datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)))


LOGS: dict[str, tuple[str, dict[str, str]]] = {
    "an access log": ("jsonl", {"access.log": lines(LINE)}),
    "bodies as text": ("jsonl", {"access.log": lines(LINE | {"request": json.dumps(ASKED), "response": json.dumps(SAID)})}),
    "CloudEvents, the answer first, one twice": ("kserve", {"events.jsonl": lines(PAIR[1], PAIR[0], PAIR[1])}),
    "CloudEvents with their data in base64": ("kserve", {"events.jsonl": lines(
        *({k: v for k, v in each.items() if k != "data"} | {"data_base64": base64.b64encode(json.dumps(each["data"]).encode()).decode()} for each in PAIR)
    )}),
    "files of a bucket": ("kserve", {
        "ns/server/e1-request.json": json.dumps(record("request", ASKED, BEGAN), indent=1),
        "ns/server/e1-response.json": json.dumps([record("response", SAID, ENDED)]),
    }),
}  # fmt: skip


@pytest.mark.parametrize("case", LOGS)
def test_a_log_of_another_tool_becomes_the_row_that_the_gateway_would_have_stored(case: str, root: Path) -> None:
    kind, documents = LOGS[case]
    for name, text in documents.items():
        (root / "log" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "log" / name).write_text(text)
    done = lockstep(root, "capture", "production", kind, str(root / "log"), "--sample", "0.5")
    assert (done.exit_code, done.stderr) == (0, ""), done.output
    assert "stored 1 of 1 requests" in done.stdout
    (row,) = stored(root)
    said = row.model_dump(mode="json")
    assert re.fullmatch(r"2026-11-26T16:59:59\.50*Z", said.pop("time"))
    assert said.pop("lockstep.request_id") in ("r1", "e1")
    assert said == {
        "gen_ai.operation.name": "chat", "gen_ai.provider.name": None, "gen_ai.response.model": "router",
        "gen_ai.input.messages": [{"role": "user", "parts": [{"type": "text", "content": "mail [email]"}]}],
        "gen_ai.output.messages": [{"role": "assistant", "finish_reason": "stop", "parts": [{"type": "text", "content": "to [ip_address]"}]}],
        "gen_ai.usage.input_tokens": 3, "gen_ai.usage.output_tokens": 1, "http.response.status_code": 200,
        "error.type": None, "lockstep.release": MODEL, "lockstep.environment": "production", "lockstep.seconds": 0.31,
        "lockstep.seconds_to_first_token": None, "lockstep.redactions": {"email": 1, "ip_address": 1},
        "lockstep.sampled_share": 0.5,
    }  # fmt: skip
    (path,) = (root / layout.CAPTURES / "production").rglob("*.jsonl")
    assert path.name.startswith(f"16-{kind}-"), "the hour in which it arrived, in UTC"
    assert "example.org" not in path.read_text()


OTLP = REPOSITORY / "tests" / "logs" / "otlp.jsonl"  # as OpenTelemetry's opentelemetry-util-genai 1.3b0 wrote it


def test_spans_of_opentelemetry_become_rows_and_those_without_messages_are_counted(root: Path) -> None:
    done = lockstep(root, "capture", "production", "otlp", str(OTLP), "--release", WHOLE)
    assert done.exit_code == 0, done.output
    assert "stored 3 of 3 requests" in done.stdout
    assert "left out: 1: a span without messages: the application records none" in done.stderr
    assert "left out: 1: no chat and no completion" in done.stderr
    first, second, third = sorted(stored(root), key=lambda capture: capture.time)
    assert [(message.role, message.text) for message in first.input_messages] == [
        ("system", "Route the question."), ("user", "create a group"),
    ]  # fmt: skip
    assert (first.answer, first.model, first.input_tokens, first.output_tokens) == ("az group create", "router", 11, 4)
    assert first.request_id == "187661ea2a130808a0e419cdd66e08be-95da7c10bcc88d03"
    assert first.seconds == pytest.approx((1796128072355186870 - 1796128072354957978) / 1e9)
    assert [message.role for message in second.input_messages] == ["user", "assistant", "tool", "user"]
    (call,), (result,) = second.input_messages[1].parts[-1:], second.input_messages[2].parts
    assert (call.type, call.name, result.response or result.content) == ("tool_call", "weather", "sunny")
    (answer,) = second.output_messages
    assert {(part.type, part.content) for part in answer.parts} == {("reasoning", "Polite."), ("text", "welcome")}
    assert answer.finish_reason == "length"
    assert (third.status, third.answer, third.release) == (500, None, MODEL)


def test_a_span_says_how_many_tokens_were_thoughts(root: Path) -> None:
    counted = '"gen_ai.usage.output_tokens", "value": {"intValue": "4"}}'
    thought = '{"key": "gen_ai.usage.reasoning.output_tokens", "value": {"intValue": "3"}}'
    (root / "log").write_text(OTLP.read_text().replace(counted, f"{counted}, {thought}"))
    done = lockstep(root, "capture", "production", "otlp", str(root / "log"), "--release", WHOLE)
    assert done.exit_code == 0, done.output
    assert [capture.thought_tokens for capture in sorted(stored(root), key=lambda row: row.time)] == [3, None, None]


@pytest.mark.parametrize(
    "change", [{"resourceSpans": 3}, {"spans": []}, {"resourceSpans": [{"scopeSpans": [{"spans": [7]}]}]}]
)
def test_what_is_no_trace_of_otlp_is_refused_with_its_line(change: dict[str, Any], root: Path) -> None:
    (root / "log").write_text(OTLP.read_text() + json.dumps(change) + "\n")
    done = lockstep(root, "capture", "production", "otlp", str(root / "log"), "--release", WHOLE)
    assert done.exit_code == 8
    assert re.search(r"log:6: is no trace of OTLP: \w+Error: .*give OTLP as JSON", done.stderr.replace("\n", " ")), (
        done.stderr
    )
    assert not stored(root)


def test_the_same_log_adds_nothing_and_a_longer_one_adds_what_is_new(root: Path) -> None:
    log = root / "access.log"
    log.write_text(lines(*(LINE | {"request_id": f"r{n}"} for n in range(3))))
    for count, new in ((3, 3), (3, 0), (5, 2)):
        log.write_text(lines(*(LINE | {"request_id": f"r{n}"} for n in range(count))))
        done = lockstep(root, "capture", "production", "jsonl", str(log))
        assert f"stored {new} of {count} requests" in done.stdout, done.output
    assert sorted(each.request_id for each in stored(root)) == [f"r{n}" for n in range(5)]
    done = lockstep(root, "capture", "production", "jsonl", str(log), "--from", "2026-11-26T17:00Z")
    assert done.exit_code == 8, done.output
    assert "has no request to store (5 left out: outside of --from and --to)" in done.stderr


ANSWERS: dict[str, tuple[dict[str, Any], tuple[Any, ...]]] = {
    "a stream": ({"response": stream("az ", "vm"), "seconds_to_first_token": 0.1}, ("az vm", None, 200, 0.1)),
    "a stream that broke off": ({"response": stream("az", end="")}, ("az", "upstream_error", 200, None)),
    "a server's error": ({"status": 503, "response": "no server"}, (None, "503", 503, None)),
    "no answer": ({"status": 499, "response": None}, (None, "499", 499, None)),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_streams_and_failures_of_a_log_are_kept_as_what_they_are(case: str, root: Path) -> None:
    change, expected = ANSWERS[case]
    (root / "access.log").write_text(lines(LINE | change))
    done = lockstep(root, "capture", "production", "jsonl", str(root / "access.log"))
    assert done.exit_code == 0, done.output
    (row,) = stored(root)
    assert (row.answer, row.error, row.status, row.seconds_to_first_token) == expected


LEFT_OUT: dict[str, tuple[str, list[Any], str]] = {
    "a request of something else": ("jsonl", [LINE, {**LINE, "request": None}], "no chat and no completion"),
    "a request that is too large to be stored": (
        "jsonl", [LINE, {**LINE, "request_id": "big", "request": {"prompt": ["a"] * 5000}}], "too large to be stored",
    ),
    "a request of shadow": ("jsonl", [LINE, LINE | {"request_id": "lockstep-shadow"}], "a request of `lockstep shadow`"),
    "a request without an answer": ("kserve", [*PAIR, event("request", ASKED, BEGAN, id="e2")], "KServe logs only answers with status 200"),
    "an answer alone": ("kserve", [*PAIR, event("response", SAID, ENDED, id="e2")], "an answer without its request"),
    "one id of two requests": ("kserve", [*PAIR, *(event("request", ASKED, at, id="e2") for at in (BEGAN, ENDED))], "two requests or answers with the same id"),
    "an event of somebody else": ("kserve", [*PAIR, event("request", ASKED, BEGAN, type="org.x")], "an event of type org.x"),
    "a release that cannot be read": (
        "kserve", [*PAIR, *(each | {"id": "e2", "endpoint": "canary", "annotations": "[" * 100_000} for each in PAIR)],
        "a request to endpoint canary that names no release",
    ),
    "KServe's canary without its release": (
        "kserve", [*PAIR, *(each | {"id": "e2", "endpoint": "canary", "annotations": ""} for each in PAIR)],
        "a request to endpoint canary that names no release",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LEFT_OUT)
def test_what_is_no_request_of_the_release_is_left_out_and_counted(case: str, root: Path) -> None:
    kind, values, why = LEFT_OUT[case]
    (root / "log").write_text(lines(*values))
    done = lockstep(root, "capture", "production", kind, str(root / "log"), "--release", "f" * 12)
    assert done.exit_code == 0, done.output
    assert [line for line in done.stderr.splitlines() if line.startswith("left out: 1: ") and why in line], done.stderr
    assert [each.release for each in stored(root)] == [MODEL], "what the log says goes before --release"


def test_requests_of_one_user_get_the_key_that_the_gateway_gives_him(root: Path) -> None:
    secret = root / "secret"
    secret.write_text("s" * 32)
    by_body = LINE | {"request_id": "r2", "request": ASKED | {"user": "ada"}}
    by_line = LINE | {"request_id": "r1", "user": "ada"}
    (root / "log").write_text(lines(by_line, by_body, LINE | {"request_id": "r3"}))
    done = lockstep(root, "capture", "production", "jsonl", str(root / "log"), "--user-secret", str(secret))
    assert "stored 3 of 3 requests" in done.stdout, done.output
    body = json.dumps(ASKED | {"safety_identifier": "ada"}).encode()
    exchange = Exchange(datetime.now(UTC), "r4", "chat", body, stored(root)[0].release, 200)
    of_gateway = row(exchange, "production", 1.0, b"s" * 32).user_key
    assert of_gateway is not None
    assert {each.request_id: each.user_key for each in stored(root)} == {"r1": of_gateway, "r2": of_gateway, "r3": None}
    secret.write_text("short")
    done = lockstep(root, "capture", "production", "jsonl", str(root / "log"), "--user-secret", str(secret))
    assert done.exit_code == 14, done.output
    assert "has 5 bytes; openssl rand -hex 32 >" in done.stderr


NAMELESS = {name: value for name, value in LINE.items() if name != "release"}
REFUSED: dict[str, tuple[str, str, str, int, tuple[str, ...]]] = {
    "half a line": ("jsonl", lines(LINE) + '{"time": "2026', r"log:2: Invalid JSON", 8, ()),
    "no request at all": ("jsonl", lines({**LINE, "request": None}), r"has no request to store \(1 left out: no chat", 8, ()),
    "no time zone": ("jsonl", lines(LINE, LINE | {"time": "2026-11-26T16:00:00"}), r"log:2: time: .*timezone", 8, ()),
    "no status": ("jsonl", lines({**LINE, "status": None}), r"log:1: status: ", 8, ()),
    "an id that is none": ("jsonl", lines(LINE | {"request_id": "a b"}), r"log:1: request_id: String should match", 8, ()),
    "no release": ("jsonl", lines(LINE, NAMELESS), r"log:2: the log does not say which release answered; give .* --release", 8, ()),
    "a release by name": ("jsonl", lines(LINE | {"release": "v1"}), r"log:1: release: 'v1' is no digest", 8, ()),
    "a body that is text": ("jsonl", lines(LINE | {"request": "hello"}), r"log:1: request: is no JSON object", 8, ()),
    "another API's answer": ("jsonl", lines(LINE | {"response": {"predictions": [1]}}), r"log:1: response: has no choices", 8, ()),
    "an event without a time": ("kserve", lines(PAIR[0], {**PAIR[1], "time": None}), r"log:2: time: ", 8, ()),
    "no file": ("jsonl", "", r"nothing: there is no file", 8, ()),
    "another kind": ("otel", "", r"'otel' is not a kind of log; use one of jsonl, kserve, mlflow, otlp", 2, ()),
    "no digest": ("jsonl", lines(NAMELESS), r"--release: 'v1' is no digest", 2, ("--release", "v1")),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_log_that_is_none_is_refused_with_its_line_and_nothing_is_stored(case: str, root: Path) -> None:
    kind, text, said, code, more = REFUSED[case]
    (root / "log").write_text(text)
    source = root / ("nothing" if case == "no file" else "log")
    done = lockstep(root, "capture", "production", kind, str(source), *more)
    assert done.exit_code == code, done.output
    assert re.search(said, done.stderr), done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (root / layout.CAPTURES).exists()


def test_captures_of_another_tool_go_to_an_object_store_too(root: Path) -> None:
    (root / "log").write_text(lines(LINE))
    for new in (1, 0):
        done = lockstep(root, "capture", "production", "jsonl", str(root / "log"), "--captures", "memory://captured")
        assert f"stored {new} of 1 requests" in done.stdout, done.output
    assert lockstep(root, "capture", "nowhere", "jsonl", "log").exit_code == 2


class Upstream(Handler):
    """A server behind MLflow's gateway: it streams, and fails where it is asked to."""

    def do_POST(self) -> None:
        asked = json.loads(self.body())
        if "fail" in str(asked["messages"]):
            self.reply(429, {"error": {"message": "busy"}})
        elif asked.get("stream"):
            self.reply(200, stream("to ", "8.8.8.8").encode(), {"Content-Type": "text/event-stream"})
        else:
            self.reply(200, {"id": "c1", "object": "chat.completion", "created": 1} | SAID)


class Gateway(NamedTuple):
    uri: str
    experiment: str
    database: Path


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, tables: Path) -> Iterator[Gateway]:
    """MLflow's real server, its gateway before a stand-in, with traces of a chat, a stream, a failure and a judge."""
    with pytest.MonkeyPatch.context() as patch, StandIn(Upstream) as upstream:
        for name, value in service.LOCAL_UPSTREAMS.items():
            patch.setenv(name, value)
        folder = tmp_path_factory.mktemp("mlflow")
        with service.server(folder, tables) as uri:
            chat = f"{service.add_endpoint(uri, 'router', upstream.url)}/v1/chat/completions"
            fail = {**ASKED, "messages": [{"role": "user", "content": "fail"}]}
            for body, caller in ((ASKED, ""), (ASKED | {"stream": True}, ""), (fail, ""), (ASKED, "judge")):
                headers = {"X-MLflow-Gateway-Caller": caller} if caller else {}
                requests.post(chat, json=body, headers=headers, timeout=120)
            yield Gateway(uri, "gateway/router", folder / "mlflow.db")


@pytest.mark.slow
def test_traces_of_mlflows_gateway_and_what_people_say_of_them_become_captures_and_labels(
    gateway: Gateway, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", gateway.uri)
    command = ("capture", "production", "mlflow", gateway.experiment, "--release", MODEL)
    deadline, told = time.monotonic() + 60, "left out: 1: a judge's request\n"
    while "stored 0 of 3 requests" not in (done := lockstep(root, *command)).stdout or done.stderr != told:
        assert time.monotonic() < deadline, done.output  # MLflow writes traces later, and a trace's spans one by one.
        time.sleep(0.5)
    assert len(stored(root)) == 3, "the same traces again add nothing"
    chat, streamed, failed = sorted(stored(root), key=lambda each: each.time)
    assert [each.prompt for each in (chat, streamed, failed)] == ["mail [email]", "mail [email]", "fail"]
    assert [each.answer for each in (chat, streamed, failed)] == ["to [ip_address]", "to [ip_address]", None]
    assert [(each.status, each.error) for each in (chat, streamed, failed)] == [(200, None), (200, None), (429, "429")]
    assert (chat.input_tokens, chat.output_tokens, chat.release) == (3, 1, MODEL)
    assert chat.seconds_to_first_token is None
    assert 0 < (streamed.seconds_to_first_token or 0) <= streamed.seconds + 0.001
    assert chat.redactions == {"email": 1, "ip_address": 1}

    import mlflow
    from mlflow.entities import AssessmentSource

    person, judge = (AssessmentSource(source_type=kind, source_id="x") for kind in ("HUMAN", "LLM_JUDGE"))
    given = {"trace_id": chat.request_id, "name": "expected_response"}
    first = mlflow.log_expectation(**given, value="az acr", source=person)
    mlflow.update_assessment(
        chat.request_id, first.assessment_id, mlflow.entities.Expectation(name=given["name"], value="az vm")
    )
    mlflow.log_feedback(trace_id=streamed.request_id, name="expected_response", value="az disk", source=person)
    mlflow.log_feedback(trace_id=failed.request_id, name="expected_response", value=False, source=person)
    mlflow.log_feedback(trace_id=failed.request_id, name="expected_response", value="az x", source=judge)
    mlflow.log_feedback(trace_id=failed.request_id, name="other", value="az y", source=person)
    for _ in range(2):
        done = lockstep(root, "feedback", "--mlflow", gateway.experiment)
        assert (done.exit_code, done.stdout[:33]) == (0, "stored 2 labels of 2 requests: fe"), done.output
        assert sorted(done.stderr.splitlines()) == [
            "left out: 1 assessments: from a judge, not from a person",
            "left out: 1 assessments: not the text of a correct answer",
        ]
    store = CaptureStore(str(root / layout.CAPTURES))
    given = {name: label.label for name, label in store.first_labels().items()}
    assert given == {chat.request_id: "az vm", streamed.request_id: "az disk"}
    assert len([*store.labels()]) == 2, "the same labels are stored once"

    # MLflow stores the spans of a trace one after another, and a search leaves the trace out meanwhile.
    database = sqlite3.connect(gateway.database, timeout=60)
    with closing(database), database:
        database.execute("DELETE FROM spans WHERE trace_id = ? AND parent_span_id IS NOT NULL", (streamed.request_id,))
    done = lockstep(root, *command)
    assert "stored 0 of 2 requests" in done.stdout
    assert sorted(done.stderr.splitlines()) == [
        "left out: 1: a judge's request", "left out: 1: a trace that has not ended",
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "address", "code", "said"),
    [
        (("capture", "production", "mlflow", "nothing"), "", 8, "has no experiment 'nothing'; use one of its experiments: 'gateway/router', 'Default'"),
        (("capture", "production", "mlflow", "Default"), "", 8, "Default: has no request to store"),
        (("feedback", "--mlflow", "gateway/router", "--assessment", "no"), "", 8, "no assessment 'no' has a label; name"),
        (("capture", "production", "mlflow", "x"), "unset", 9, "the variable MLFLOW_TRACKING_URI is not set; set it"),
        (("capture", "production", "mlflow", "x"), "http://ada:secret@127.0.0.1:1", 9, "http://127.0.0.1:1"),
        (("feedback",), "", 2, "Give either FILE or --mlflow EXPERIMENT"),
    ],
)  # fmt: skip
def test_an_mlflow_that_has_no_such_thing_is_refused_in_one_line(
    gateway: Gateway,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    address: str,
    code: int,
    said: str,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    if address == "unset":
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    else:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address or gateway.uri)
    done = lockstep(root, *words)
    assert done.exit_code == code, done.output
    assert said in done.stderr
    assert "secret" not in done.stderr
    assert "Traceback" not in done.output
