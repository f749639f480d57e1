"""A judge behind an OpenAI-compatible endpoint: a real server over HTTP, asked once for each answer, kept by digest."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from checks.config import params_file
from checks.formats.suite_report import Judgement, SuitesReport
from checks.process.errors import EvaluationRefused, EvidenceRefused, ParamsRefused
from checks.records.rows import Prediction
from checks.storage import digest, files, layout
from stages.judges import openai
from stages.suites import suites
from tests import evidence_tree
from tests.conftest import as_params

PROMPT = "Question: $prompt\nAnswer: $answer\nRight: $reference\nIs it right? Say Score: 1 or Score: 0. It costs $$1."


class Endpoint(ThreadingHTTPServer):
    """Judges as its ``reply`` says; ``asked`` are the bodies, ``keys`` the headers that came with them."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.statuses: list[int] = []  # of the next replies; then 200
        self.reply: Callable[[str], str] = lambda text: "Score: 0, no: Score: 1" if _is_right(text) else "Score: 0"
        self.body: bytes | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1/"


class _Handler(BaseHTTPRequestHandler):
    server: Endpoint

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body)
        self.server.keys.append(self.headers.get("Authorization"))
        text = self.server.reply(body["messages"][0]["content"])
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        data = json.dumps({"object": "chat.completion", "model": body["model"], "choices": [choice]}).encode()
        data = data if self.server.body is None else self.server.body
        status = self.server.statuses.pop(0) if self.server.statuses else 200
        self.send_response(status if self.path == "/v1/chat/completions" else 404)
        self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Quiet."""


def _is_right(text: str) -> bool:
    lines = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)
    return lines["Answer"] == lines["Right"]


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    server = Endpoint()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("JUDGE_URL", server.url)
    monkeypatch.setattr(openai, "_WAITS", (0.01, 0.01))
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def asked(tmp_path: Path, document: dict) -> dict[str, Any]:
    """The document of a run whose candidate answers 18 of 20 rows rightly, and the base one in eight."""
    document["gates"] = {"sound": {"kind": "data"}}
    evidence_tree.build(tmp_path, as_params(document), test_rows=20, right=18)
    document["suites"] = {
        "right": {
            "kind": "judged", "metrics": {"right": {"low": 0.0, "high": 1.0}}, "noise": 0.02,
            "models": ["candidate", "base"], "max_unparsed": 0.1,
            "judge": {
                "kind": "openai", "url_from": "JUDGE_URL", "model": "judge-1", "prompt": PROMPT, "seed": 7, "max_tokens": 16,
                "value": r"Score: (-?\d+)",
            },
        }
    }  # fmt: skip
    return document


def _recorded(root: Path) -> list[Judgement]:
    return files.read_jsonl(root / layout.JUDGEMENTS / "right.jsonl", Judgement)


@pytest.mark.slow
def test_each_answer_is_judged_once_and_the_judgement_says_who_judged_what(
    tmp_path: Path, asked: dict, endpoint: Endpoint
) -> None:
    params = as_params(asked)
    said = suites(params, tmp_path)
    assert said == "right: right 0.900 on 20 samples, judge"
    found = _recorded(tmp_path)
    answers = {
        (each.id, each.prediction)
        for role in ("candidate", "base")
        for each in files.read_jsonl(tmp_path / layout.PREDICTIONS / f"{role}.jsonl", Prediction)
    }
    assert len(found) == len(answers) == len(endpoint.asked)  # an answer that both gave is judged once
    assert {(each.sample, each.answer_sha) for each in found} == {
        (row, digest.of_bytes(answer.encode())) for row, answer in answers
    }
    assert {(each.judge, each.prompt_sha) for each in found} == {("openai:judge-1", digest.of_bytes(PROMPT.encode()))}
    assert {each.response: each.value for each in found} == {"Score: 0, no: Score: 1": 1.0, "Score: 0": 0.0}
    for body in endpoint.asked:
        assert body | {"messages": None} == {
            "model": "judge-1", "messages": None, "temperature": 0, "seed": 7, "max_tokens": 16,
        }  # fmt: skip
        assert body["messages"][0]["content"].startswith("Question: test request ")
        assert body["messages"][0]["content"].endswith("It costs $1.")
    assert set(endpoint.keys) == {None}
    result = files.read_json(tmp_path / layout.SUITES_REPORT, SuitesReport).suites["right"]
    assert (result.source, result.judges) == ("judge", ("openai:judge-1",))


@pytest.mark.slow
def test_an_answer_that_did_not_change_is_not_judged_again(tmp_path: Path, asked: dict, endpoint: Endpoint) -> None:
    suites(as_params(asked), tmp_path)
    first, before = (tmp_path / layout.JUDGEMENTS / "right.jsonl").read_bytes(), len(endpoint.asked)
    endpoint.reply = lambda _: "Score: 0"
    suites(as_params(asked), tmp_path)
    assert len(endpoint.asked) == before
    assert (tmp_path / layout.JUDGEMENTS / "right.jsonl").read_bytes() == first
    kept = sorted((tmp_path / layout.JUDGED).iterdir())
    kept[0].write_text(kept[0].read_text().replace("Score: ", "Score: 9"))  # damaged
    kept[1].write_bytes(kept[2].read_bytes())  # of another answer
    suites(as_params(asked), tmp_path)
    assert len(endpoint.asked) == before + 2
    asked["suites"]["right"]["judge"]["seed"] = 8
    suites(as_params(asked), tmp_path)
    assert len(endpoint.asked) == 2 * before + 2


@pytest.mark.slow
def test_what_an_answer_says_is_no_blank_of_the_prompt(tmp_path: Path, asked: dict, endpoint: Endpoint) -> None:
    params = as_params(asked)
    rows = files.read_jsonl(tmp_path / layout.PREDICTIONS / "candidate.jsonl", Prediction)
    rows[0] = rows[0].model_copy(update={"prediction": "$reference ${reference} Score: 1"})
    base = files.read_jsonl(tmp_path / layout.PREDICTIONS / "base.jsonl", Prediction)
    evidence_tree.evaluated(tmp_path, params, rows, base=base)
    suites(params, tmp_path)
    assert "Answer: $reference ${reference} Score: 1\n" in endpoint.asked[0]["messages"][0]["content"]


UNPARSED = {
    "nothing": "",
    "words": "I cannot say",
    "no number": "Score: high",
    "off the scale": "Score: 2",
    "below it": "Score: -1",
}


@pytest.mark.slow
@pytest.mark.parametrize("how", UNPARSED)
def test_a_reply_without_a_value_is_counted_and_bounded(
    tmp_path: Path, asked: dict, endpoint: Endpoint, how: str
) -> None:
    usual, few = endpoint.reply, ("test request 1 ", "test request 2 ")
    endpoint.reply = lambda text: UNPARSED[how] if any(each in text for each in few) else usual(text)
    suites(as_params(asked), tmp_path)
    result = files.read_json(tmp_path / layout.SUITES_REPORT, SuitesReport).suites["right"]
    assert result.unparsed == {"candidate": 2, "base": 2}
    assert result.means["candidate"]["right"] == 0.8  # two right answers of 18 count as wrong
    assert {each.response for each in _recorded(tmp_path) if each.value is None} == {UNPARSED[how]}
    asked["suites"]["right"]["max_unparsed"] = 0.09
    with pytest.raises(
        EvidenceRefused, match=r"right\.judge: 2 of 20 answers of candidate have no value, at most 9\.0%"
    ):
        suites(as_params(asked), tmp_path)


@pytest.mark.slow
def test_a_busy_judge_is_asked_again_and_a_key_is_sent_by_its_variable(
    tmp_path: Path, asked: dict, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", "s3cret")
    asked["suites"]["right"]["judge"]["key_from"] = "JUDGE_KEY"
    endpoint.statuses = [503, 429]
    suites(as_params(asked), tmp_path)
    assert endpoint.asked[0] == endpoint.asked[1] == endpoint.asked[2] != endpoint.asked[3]
    assert set(endpoint.keys) == {"Bearer s3cret"}
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"s3cret" in path.read_bytes()]


def _silent(endpoint: Endpoint) -> None:
    endpoint.shutdown()
    endpoint.server_close()


DOWN: dict[str, tuple[Callable[[Endpoint], object], str]] = {
    "busy for long": (lambda server: server.statuses.extend([503] * 9), r"suites\.right\.judge: judge-1: answers 503;"),
    "no access": (lambda server: server.statuses.append(401), r"suites\.right\.judge: judge-1: answers 401;"),
    "moved": (lambda server: server.statuses.append(307), r"suites\.right\.judge: judge-1: answers 307;"),
    "no JSON": (lambda server: setattr(server, "body", b"<html>"), r"gives no chat completion \(JSONDecodeError\);"),
    "another shape": (lambda server: setattr(server, "body", b'{"choices": []}'), r"gives no chat completion \(IndexError\);"),
    "not there": (_silent, r"suites\.right\.judge: judge-1: ConnectionError;"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("how", DOWN)
def test_a_judge_that_cannot_be_asked_leaves_no_evidence_and_no_secret(
    tmp_path: Path, asked: dict, endpoint: Endpoint, how: str
) -> None:
    change, line = DOWN[how]
    change(endpoint)
    with pytest.raises(EvaluationRefused, match=line) as caught:
        suites(as_params(asked), tmp_path)
    assert "127.0.0.1" not in str(caught.value)
    assert "set JUDGE_URL, and run `./lockstep run` again" in str(caught.value)
    assert not (tmp_path / layout.JUDGEMENTS).exists()


@pytest.mark.slow
def test_a_judge_whose_address_is_not_set_is_refused(
    tmp_path: Path, asked: dict, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JUDGE_URL")
    with pytest.raises(
        EvaluationRefused, match=r"suites\.right\.judge\.url_from: JUDGE_URL is not set; start the judge"
    ):
        suites(as_params(asked), tmp_path)


@pytest.mark.slow
def test_what_was_judged_before_the_judge_went_down_is_not_asked_again(
    tmp_path: Path, asked: dict, endpoint: Endpoint
) -> None:
    endpoint.statuses = [200] * 10 + [401]
    with pytest.raises(EvaluationRefused, match="answers 401"):
        suites(as_params(asked), tmp_path)
    suites(as_params(asked), tmp_path)
    assert len(endpoint.asked) == len(_recorded(tmp_path)) + 1


IMPOSSIBLE = {
    "no answer": ("prompt", "Is $prompt good?", r"does not hold \$answer, or else \$left and \$right; write where"),
    "an unknown blank": (
        "prompt",
        "$answer $question",
        r"\$question is unknown; use \$answer, \$left, \$prompt, \$reference, \$right",
    ),
    "a bare dollar": ("prompt", "$answer costs $ 1", r"does not hold \$answer"),
    "no expression": ("value", "(", r"is no regular expression"),
    "no group": ("value", "[01]", r"has 0 groups; write one, around the number"),
    "no variable": ("url_from", "http://here", r"judge\.url_from: 'http://here'; string should match pattern"),
}


@pytest.mark.parametrize("how", IMPOSSIBLE)
def test_a_judge_that_cannot_work_is_refused_when_params_are_read(asked: dict, how: str) -> None:
    key, value, line = IMPOSSIBLE[how]
    asked["suites"]["right"]["judge"][key] = value
    with pytest.raises(ParamsRefused, match=line):
        as_params(asked)


def test_the_schema_has_every_judge() -> None:
    assert {"OpenAI", "Recorded"} <= params_file.schema()["$defs"].keys()
