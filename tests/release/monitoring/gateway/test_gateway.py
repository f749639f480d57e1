"""The gateway as a process before a stand-in that breaks, and before a real server of a tiny model."""

import contextlib
import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import requests

from checks.formats import captures
from release import runtimes
from release.serving import processes, server
from tests import tuned
from tests.checks.machine.test_full_disk import full, small
from tests.conftest import as_params
from tests.gateway_process import GatewayProcess, running
from tests.gateway_requests import CHAT, Got, ask_all, body, mixed, wrong
from tests.model_standin import RELEASE, ModelStandIn, text, whole
from tests.ports import unused_port
from tests.release.serving.test_containers import healthy

__all__ = ["small"]
pytest.importorskip("prometheus_client", reason="pip install -c constraints.txt -e '.[gateway]'")
pytestmark = pytest.mark.slow

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def model() -> Iterator[ModelStandIn]:
    with ModelStandIn() as found:
        yield found


@pytest.fixture(scope="module")
def gateway(model: ModelStandIn, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """One without captures, for questions about single requests."""
    with running(model.url, tmp_path_factory.mktemp("gateway"), "--max-body", "5000", "--deadline", "3") as found:
        yield found


def rows(folder: Path) -> list[captures.Capture]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    assert all(path.name.endswith((captures.CLOSED, captures.OPEN)) for path in files), files
    return [row for path in files for row in captures.parse(path.read_bytes(), path.name)]


@pytest.mark.parametrize(("kept", "count"), [("folder", 2000), ("full disk", 400), ("collector down", 400)])
def test_among_thousands_of_requests_with_faults_no_answer_is_lost_or_mixed_up(
    kept: str, count: int, model: ModelStandIn, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    place = request.getfixturevalue("small") if kept == "full disk" else tmp_path
    asked = mixed(count)
    where = "ftp://127.0.0.1:1/captures" if kept == "collector down" else str(place / "captures")
    with contextlib.ExitStack() as stack:
        found = stack.enter_context(running(model.url, tmp_path, "--captures", where, "--deadline", "6"))
        if kept == "full disk":
            stack.enter_context(full(place))
        got = ask_all(found.url, asked)
        assert Counter((wrong(each), each.fault) for each in got if wrong(each)) == {}
        assert found.total("lockstep_gateway_requests_total") == len(asked)
        assert found.total("lockstep_gateway_in_flight") == 0
        until = time.monotonic() + 20
        while found.total("lockstep_gateway_captures_total") + found.total(
            "lockstep_gateway_captures_dropped_total"
        ) < len(asked):
            assert time.monotonic() < until
            time.sleep(0.2)
        dropped = found.total("lockstep_gateway_captures_dropped_total")
        assert (dropped == len(asked)) if kept == "full disk" else (dropped == 0)
        assert found.stop() == 0
        log = found.log.read_text()
    assert "Traceback" not in log
    assert ("No space left" in log, "cannot be moved" in log) == (kept == "full disk", kept == "collector down")
    if kept != "full disk":
        check_rows(rows(place / "captures" if kept == "folder" else tmp_path / ".lockstep" / "captures"), got)


def check_rows(stored: list[captures.Capture], got: list[Got]) -> None:
    """Each request has one row, with its own prompt and what was answered."""
    by_id = {row.request_id: row for row in stored}
    assert len(stored) == len(by_id) == len(got)
    for each in got:
        row = by_id[f"r{each.number}"]
        assert (row.prompt, row.status, row.release) == (f"{each.number} {each.fault}", each.status, RELEASE)
        if each.whole and each.status == 200:
            assert ((row.answer or "").strip(), row.error) == (text(each.number), None)
            assert row.output_messages[0].finish_reason == "stop"
            assert (row.seconds_to_first_token is not None) == each.streamed
            assert row.input_tokens == (None if each.streamed else each.number % 97 + 1)
        else:
            assert row.error == {"stall": "timeout", "error": "500"}.get(each.fault, "upstream_error")


LIMITS = {
    "no such path": ("GET", "/load_model", b"", {}, 404, "not_found"),
    "the server's metrics": ("GET", "/metrics", b"", {}, 404, "not_found"),
    "a path that leads out": ("POST", "/v1/chat/completions/../../reset", b"{}", {}, 404, "not_found"),
    "a double slash": ("POST", "//v1/chat/completions", b"{}", {}, 404, "not_found"),
    "another method": ("GET", CHAT, b"", {}, 405, "method_not_allowed"),
    "too large": ("POST", CHAT, b"x" * 5001, {}, 413, "request_too_large"),
    "no JSON: the server says so": ("POST", CHAT, b"{", JSON, 400, None),
    "the list of models too late": ("GET", "/v1/models?stall", b"", {}, 504, "timeout"),
    "too late": ("POST", CHAT, json.dumps(body(1, "stall")).encode(), JSON, 504, "timeout"),
}


@pytest.mark.parametrize("case", LIMITS)
def test_what_the_gateway_refuses_has_openais_shape_and_an_id(
    case: str, gateway: GatewayProcess, model: ModelStandIn
) -> None:
    method, path, data, headers, status, code = LIMITS[case]
    asked = ("/v1/models", "/v1/models?stall", CHAT)
    before = len([each for each in model.seen if each[1] not in asked])
    prepared = requests.Request(method, gateway.url, data=data, headers=headers).prepare()
    prepared.url = gateway.url + path  # as it stands
    reply = requests.Session().send(prepared, timeout=30)
    assert (reply.status_code, reply.json()["error"]["code"]) == (status, code)
    assert reply.json()["error"].keys() == {"message", "type", "param", "code"}
    assert reply.headers["X-Request-Id"]
    assert "aiohttp" not in reply.headers["Server"]
    assert len([each for each in model.seen if each[1] not in asked]) == before


def test_a_body_without_a_length_is_held_to_the_limit_too(gateway: GatewayProcess) -> None:
    reply = requests.post(gateway.url + CHAT, data=(b"x" * 1000 for _ in range(9)), timeout=30)
    assert reply.status_code == 413


def test_the_list_of_models_and_completions_are_passed_on_with_the_bytes_of_the_request(
    gateway: GatewayProcess, model: ModelStandIn
) -> None:
    listed = requests.get(f"{gateway.url}/v1/models", timeout=9)
    assert (listed.json()["data"][0]["id"], listed.headers["Lockstep-Release"]) == ("standin", RELEASE)
    sent = b'{ "prompt" : "7 none",\n "x": 1e2 }'
    reply = requests.post(
        f"{gateway.url}/v1/completions?a=%2F", data=sent, headers=JSON | {"Authorization": "Bearer k"}, timeout=9
    )
    assert (reply.content, model.bodies[-1]) == (whole(7), sent)
    _, path, headers = model.seen[-1]
    assert path == "/v1/completions?a=%2F"
    assert (headers["authorization"], headers["host"], headers["content-type"]) == (
        "Bearer k",
        model.host,
        "application/json",
    )
    assert headers["x-request-id"] == reply.headers["X-Request-Id"]


@pytest.mark.parametrize(
    ("said", "kept"),
    [("a-1.b:C", True), ("", False), ("a b", False), ("é", False), ("x" * 129, False), (f"sha256:{'a' * 64}", False)],
)
def test_an_id_of_the_client_is_kept_if_it_is_one(said: str, kept: bool, gateway: GatewayProcess) -> None:
    reply = requests.post(gateway.url + CHAT, json=body(1), headers={"X-Request-Id": said.encode()}, timeout=9)
    assert (reply.headers["X-Request-Id"] == said) is kept
    assert len(reply.headers["X-Request-Id"]) == (len(said) if kept else 32)


def test_one_request_more_than_allowed_gets_429_and_the_others_their_answers(
    model: ModelStandIn, tmp_path: Path
) -> None:
    with running(model.url, tmp_path, "--max-concurrent", "4") as found:
        got = ask_all(found.url, [(number, "slow", False) for number in range(40)], at_once=40)
        codes = Counter(each.status for each in got)
        assert codes.keys() == {200, 429}
        assert codes[200] >= 4
        assert all(each.data == whole(each.number) for each in got if each.status == 200)
        assert all(each.headers["retry-after"] == "1" for each in got if each.status == 429)
        assert found.metrics()['lockstep_gateway_requests_total{code="429",finish_reason="error"}'] == codes[429]


def test_only_a_key_of_the_file_opens_and_the_server_never_sees_it(model: ModelStandIn, tmp_path: Path) -> None:
    made = subprocess.run("printf %s sk-ada | sha256sum", shell=True, capture_output=True, check=True, text=True).stdout
    (tmp_path / "keys").write_text(f"{'0' * 64}  nobody\n{made}")
    with running(model.url, tmp_path, "--keys", str(tmp_path / "keys")) as found:
        for header, status in (
            ("Bearer sk-ada", 200),
            ("bearer  sk-ada", 200),
            ("Bearer sk-adb", 401),
            ("Basic sk-ada", 401),
            ("Bearer", 401),
            (None, 401),
        ):
            headers = {} if header is None else {"Authorization": header}
            for path, sent in ((CHAT, body(1)), ("/v1/models", None)):
                reply = requests.request(
                    "POST" if sent else "GET", found.url + path, json=sent, headers=headers, timeout=9
                )
                assert (reply.status_code, header) == (status, header)
        assert not any("sk-ad" in value for _, _, headers in model.seen for value in headers.values())


def test_after_sigterm_streams_in_flight_are_completed_and_nothing_more_is_taken(
    model: ModelStandIn, tmp_path: Path
) -> None:
    with running(model.url, tmp_path, "--captures", "kept") as found:
        got: list[Got] = []
        asked = threading.Thread(target=lambda: got.extend(ask_all(found.url, [(n, "slow", True) for n in range(8)])))
        asked.start()
        until = time.monotonic() + 20
        while found.total("lockstep_gateway_in_flight") < 8:
            assert time.monotonic() < until
        found.process.send_signal(signal.SIGTERM)
        found.wait(status=503)
        with pytest.raises(requests.ConnectionError):
            requests.post(found.url + CHAT, json=body(1), timeout=9)
        asked.join()
        assert found.process.wait(30) == 0
    assert [wrong(each) for each in got] == [None] * 8
    assert not list((tmp_path / "kept").rglob(f"*{captures.OPEN}"))
    check_rows(rows(tmp_path / "kept"), got)


def test_a_killed_gateway_loses_at_most_a_part_of_a_line_and_the_next_one_closes_its_file(
    model: ModelStandIn, tmp_path: Path
) -> None:
    """What is killed is the gateway itself, and not what stands for it."""
    with running(model.url, tmp_path, "--captures", "kept", python=sys.executable) as found:
        ask_all(found.url, [(number, "none", False) for number in range(20)])
        until = time.monotonic() + 20
        while len(rows(tmp_path / "kept")) < 20:
            assert time.monotonic() < until
        found.process.kill()
        found.process.wait()
    (left,) = (tmp_path / "kept").rglob(f"*{captures.OPEN}")
    with left.open("ab") as file:
        file.write(b'{"time": "20')
    with running(model.url, tmp_path, "--captures", "kept") as found:
        assert not list((tmp_path / "kept").rglob(f"*{captures.OPEN}"))
        assert len(rows(tmp_path / "kept")) == 20


def test_a_client_that_goes_away_ends_the_request_at_the_server_too(model: ModelStandIn, tmp_path: Path) -> None:
    with running(model.url, tmp_path, "--captures", "kept") as found:
        with pytest.raises(requests.Timeout):
            requests.post(found.url + CHAT, json=body(3, "stall"), timeout=1)
        until = time.monotonic() + 20
        while not (stored := rows(tmp_path / "kept") if (tmp_path / "kept").exists() else []):
            assert time.monotonic() < until
        assert (stored[0].status, stored[0].error) == (499, "client_closed")
        assert found.total("lockstep_gateway_in_flight") == 0


def test_it_is_ready_once_the_server_has_generated_and_follows_the_release_behind_an_address(tmp_path: Path) -> None:
    model = ModelStandIn()
    with running(model.url, tmp_path, ready=False) as found:
        assert requests.get(f"{found.private}/ready", timeout=9).status_code == 503
        reply = requests.post(found.url + CHAT, json=body(1), timeout=9)
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "no_server")
        with model:
            found.wait()
            assert any(path == CHAT for _, path, _ in model.seen)
        port = model.server_port
        assert requests.post(found.url + CHAT, json=body(1), timeout=9).status_code in (502, 503)
        other = OtherPort(port, "ba9876543210")
        with other:
            until = time.monotonic() + 30
            while (reply := requests.post(found.url + CHAT, json=body(1), timeout=9)).status_code != 200:
                assert time.monotonic() < until
                time.sleep(0.2)
            assert reply.headers["Lockstep-Release"] == "ba9876543210"


def test_of_a_server_that_adds_an_adapter_the_release_and_the_first_question_are_the_adapters(tmp_path: Path) -> None:
    model = ModelStandIn("c" * 12)
    model.beside_base = True
    with model, running(model.url, tmp_path) as gateway:
        reply = requests.post(gateway.url + CHAT, json=body(1), timeout=9)
        assert reply.headers["Lockstep-Release"] == "c" * 12
        assert json.loads(model.bodies[0])["model"] == "standin"


def test_of_a_server_with_several_adapters_each_request_is_counted_and_stored_for_the_one_that_it_names(
    tmp_path: Path,
) -> None:
    names = {"writer": "b" * 12, f"writer-{'b' * 12}": "b" * 12, "router": "d" * 12}
    expected = {"standin": "c" * 12, **names}
    model = ModelStandIn("c" * 12)
    model.beside_base, model.adapters = True, names
    with model, running(model.url, tmp_path, "--captures", str(tmp_path / "captures")) as gateway:
        before = requests.get(f"{gateway.private}/metrics", timeout=9).text
        for number, (name, release) in enumerate(expected.items()):
            assert f'outcome="answered",release="{release}"}} 0.0' in before  # So a rule sees its first request.
            for streamed in (False, True):
                asked = body(number, model=name, stream=streamed)
                reply = requests.post(gateway.url + CHAT, json=asked, timeout=9)
                assert (reply.status_code, reply.headers["Lockstep-Release"]) == (200, release)
        # What names no adapter is the server's own release, as without others.
        for asked in (body(7), body(8, model=["router"]), body(9, model="stranger")):
            reply = requests.post(gateway.url + CHAT, json=asked, timeout=9)
            assert reply.headers["Lockstep-Release"] == "c" * 12
        assert reply.status_code == 404
        counted = requests.get(f"{gateway.private}/metrics", timeout=9).text
        assert gateway.stop() == 0
    lines = [line for line in counted.splitlines() if "lockstep_gateway_requests_total{" in line and '="200"' in line]
    by_release = Counter[str]()
    for line in lines:
        by_release[line.partition('release="')[2][:12]] += int(float(line.rpartition(" ")[2]))
    assert by_release == {"c" * 12: 3, "b" * 12: 4, "d" * 12: 2}
    stored = Counter(row.release for row in rows(tmp_path / "captures") if row.status == 200)
    assert stored == {"c" * 12: 3, "b" * 12: 4, "d" * 12: 2}


def test_a_share_of_an_adapters_requests_goes_to_its_canary_on_the_same_server(tmp_path: Path) -> None:
    old, new = "a" * 12, "b" * 12
    model = ModelStandIn("c" * 12)
    model.beside_base = True
    model.adapters = {"router": old, f"router-{old}": old, "router-canary": new, "writer": "d" * 12}
    options = ("--canary", "router=20", "--canary", "writer=50", "--captures", str(tmp_path / "captures"))
    with model, running(model.url, tmp_path, *options, "--sticky", "X-Session") as gateway:
        releases = Counter[str]()
        for number in range(300):
            asked = body(number, model="router", stream=number % 2 == 0)
            reply = requests.post(gateway.url + CHAT, json=asked, timeout=9)
            releases[reply.headers["Lockstep-Release"]] += 1
        # Requests for another adapter, or for one release by its digest, are not drawn.
        for number, name in enumerate(("writer", f"router-{old}", "standin") * 10):
            reply = requests.post(gateway.url + CHAT, json=body(number, model=name), timeout=9)
            assert reply.json()["model"] == name
        for session in ("one", "two", "three", "four"):
            stays = {
                requests.post(
                    gateway.url + CHAT, json=body(number, model="router"), headers={"X-Session": session}, timeout=9
                ).headers["Lockstep-Release"]
                for number in range(5)
            }
            assert len(stays) == 1
        metrics = requests.get(f"{gateway.private}/metrics", timeout=9).text
        model.adapters = {"router": old, "writer": "d" * 12}
        time.sleep(3)  # The gateway asks every two seconds what the server has.
        for number in range(30):
            reply = requests.post(gateway.url + CHAT, json=body(number, model="router"), timeout=9)
            assert (reply.status_code, reply.json()["model"]) == (200, "router")
        assert gateway.stop() == 0
    assert releases.total() == 300
    assert set(releases) == {old, new}
    assert 30 < releases[new] < 95
    stored = rows(tmp_path / "captures")
    by_name = {(row.model, row.release) for row in stored if row.model and row.model.startswith("router")}
    assert by_name == {("router", old), (f"router-{old}", old), ("router-canary", new)}
    assert sum(row.release == new for row in stored) >= releases[new]
    assert f'lockstep_gateway_tokens_total{{direction="out",environment="local",release="{new}"}}' in metrics


def test_a_client_cannot_bias_a_canary_or_hide_whose_adapter_it_asks(tmp_path: Path) -> None:
    old, new, other = "a" * 12, "b" * 12, "d" * 12
    model = ModelStandIn("c" * 12)
    model.beside_base = True
    # A canary has one name. The project writer-canary is another one, whatever writer's share says.
    model.adapters = {
        "router": old, f"router-{old}": old, "router-canary": new,
        "writer": old, f"writer-{old}": old, "writer-canary": other, f"writer-canary-{other}": other,
    }  # fmt: skip
    options = ("--canary", "router=50", "--canary", "writer=50", "--captures", str(tmp_path / "captures"))
    hidden = json.dumps(body(1, model="router"))
    bodies = {
        "a byte order mark": b"\xef\xbb\xbf" + hidden.encode(), "UTF-16": hidden.encode("utf-16"),
        "half a character": hidden.replace("router", "router\", \"more\": \"\\ud800").encode(),
        "depth": hidden.replace("{", '{"more": ' + "[" * 500 + "]" * 500 + ", ", 1).encode(),
        "no JSON": b"{",
    }  # fmt: skip
    with model, running(model.url, tmp_path, *options) as gateway:
        for number in range(40):
            reply = requests.post(gateway.url + CHAT, json=body(number, model="writer"), timeout=9)
            assert (reply.json()["model"], reply.headers["Lockstep-Release"]) == ("writer", old)
        reply = requests.post(gateway.url + CHAT, json=body(1, model="router-canary"), timeout=9)
        assert (reply.json()["model"], reply.headers["Lockstep-Release"]) == ("router-canary", new)
        seen = len(model.seen)
        for what, data in bodies.items():
            reply = requests.post(gateway.url + CHAT, data=data, headers=JSON, timeout=9)
            assert (reply.status_code, reply.json()["error"]["code"]) == (400, "bad_request"), what
        assert not [path for _, path, *_ in model.seen[seen:] if path == CHAT]
        assert gateway.stop() == 0
    stored = Counter((row.model, row.release) for row in rows(tmp_path / "captures"))
    assert stored == {("writer", old): 40, (f"router-canary-{new}", new): 1}


def test_a_request_that_is_drawn_names_one_model_and_no_other_is_drawn(tmp_path: Path) -> None:
    """Of two fields with one name, one server reads the first and another one the last."""
    old, new = "a" * 12, "b" * 12
    model = ModelStandIn("c" * 12)
    model.beside_base, model.adapters = True, {"router": old, f"router-{old}": old, "router-canary": new}
    field = '"model": "router"'
    whole = json.dumps(body(1, model="router") | {"more": '"model": "router", \\'})
    assert whole.count(field) == 1
    left_alone = [
        whole.replace(field, replaced)
        for replaced in (
            '"model": "writer", "model": "router"', '"model": 7, "model": "router"', '"model": null, "model": "router"',
            '"\\u006dodel": "writer", "model": "router"', '"model": "\\u0072outer"', '"mode\\u006c": "router"',
            '"\\"model": "router", "mod\\u0065l": "router"', '"model": "router", "model": "router"',
            '"metadata": {"model": "router"}, "model": "router"',
        )
    ]  # fmt: skip
    drawn = [
        whole,
        whole.replace(field, '"model"\n:\t"router"'),
        whole.replace(field, '"\\"model": "x", "model": "router"'),
    ]
    options = ("--canary", "router=50", "--captures", str(tmp_path / "captures"))
    with model, running(model.url, tmp_path, *options) as gateway:
        seen = len(model.bodies)
        for number in range(20):
            for text in (*left_alone, *drawn):
                reply = requests.post(gateway.url + CHAT, data=text.encode(), headers=JSON, timeout=9)
                assert reply.headers["Lockstep-Release"] in ((old, new) if text in drawn else (old,)), (text, number)
        got = [sent.decode() for sent in model.bodies[seen:]]
        assert gateway.stop() == 0
    assert {text for text in got if text in left_alone} == set(left_alone)
    others = {text for text in got if text not in (*left_alone, *drawn)}
    assert others == {re.sub(r'"model"\s*:\s*"router"', '"model":"router-canary"', text) for text in drawn}
    stored = Counter((row.model, row.release) for row in rows(tmp_path / "captures"))
    assert stored[f"router-{old}", old] == 20 * len(left_alone)  # As if they named the release: nothing compares them.
    assert 10 < stored["router-canary", new] < 50


def counted_releases(gateway: GatewayProcess, part: str) -> dict[str, str]:
    """The values of all samples whose line has ``part``, by release."""
    text = requests.get(f"{gateway.private}/metrics", timeout=9).text
    lines = [line for line in text.splitlines() if part in line]
    return {line.partition('release="')[2][:12]: line.rpartition(" ")[2] for line in lines}


def test_a_request_that_no_server_took_is_counted_for_the_adapter_that_it_names(tmp_path: Path) -> None:
    model, other = ModelStandIn("c" * 12), ModelStandIn("c" * 12)
    for each in (model, other):
        each.beside_base, each.adapters = True, {"writer": "b" * 12, "router": "d" * 12}
    with model, other, running(model.url, tmp_path, other.url) as gateway:
        until = time.monotonic() + 30
        while gateway.metrics()['lockstep_gateway_servers{state="ready"}'] < 2:
            assert time.monotonic() < until
        assert requests.post(gateway.url + CHAT, json=body(1, model="router"), timeout=9).status_code == 200
        other.stop()  # Its open connections stay, so that the gateway does not notice.
        for number in range(8):
            reply = requests.post(gateway.url + CHAT, json=body(number, model="writer"), timeout=9)
            assert reply.status_code == 200
        assert counted_releases(gateway, "lockstep_gateway_retries_total{") == {"b" * 12: "1.0"}
        assert requests.post(gateway.url + CHAT, json=body(1, model="router"), timeout=9).status_code == 200
        model.die()
        for _ in range(3):
            assert requests.post(gateway.url + CHAT, json=body(2, model="writer"), timeout=9).status_code == 503
        assert counted_releases(gateway, 'code="503"') == {"b" * 12: "3.0"}


def test_each_server_of_several_says_its_own_release_and_one_that_ended_is_passed_by(tmp_path: Path) -> None:
    with ModelStandIn("a" * 12) as one, running(one.url, tmp_path, (other := ModelStandIn("b" * 12)).url) as found:
        other.start()
        until = time.monotonic() + 30
        while {
            each.headers["lockstep-release"] for each in ask_all(found.url, [(n, "slow", False) for n in range(8)])
        } != {"a" * 12, "b" * 12}:
            assert time.monotonic() < until
        other.stop()
        got = ask_all(found.url, [(number, "none", number % 2 == 0) for number in range(60)])
        assert {(each.status, each.headers["lockstep-release"]) for each in got} == {(200, "a" * 12)}


class OtherPort(ModelStandIn):
    """A stand-in on the port of an earlier one."""

    def __init__(self, port: int, release: str) -> None:
        super().__init__(release)
        self.server_close()
        self.__init_port(port)

    def __init_port(self, port: int) -> None:
        import socket

        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.server_address = ("127.0.0.1", port)
        self.server_bind()
        self.server_activate()


def test_before_a_real_server_answers_are_its_own_and_rows_say_who_answered(tiny_base: Path, tmp_path: Path) -> None:
    folder = tmp_path / f"tiny-{RELEASE}"
    folder.symlink_to(tiny_base, target_is_directory=True)
    serve = as_params(tuned.document()).serve
    with closing(processes.start(runtimes.load("transformers"), serve, tiny_base)) as real:
        server.wait_until(real, lambda: healthy(real), 60)
        with running(real.url, tmp_path, "--captures", "kept", "--release", f"sha256:{RELEASE}{'0' * 52}") as found:
            asked = {
                "messages": [{"role": "user", "content": "list disk of ada@mail.example.org"}],
                "max_tokens": 8,
                "temperature": 0,
            }
            direct, passed = (requests.post(url + CHAT, json=asked, timeout=60) for url in (real.url, found.url))
            assert passed.json()["choices"] == direct.json()["choices"]
            assert passed.headers["Lockstep-Release"] == RELEASE
            streams = [
                requests.post(url + CHAT, json=asked | {"stream": True}, timeout=60) for url in (real.url, found.url)
            ]
            one, other = (
                [json.loads(line[6:])["choices"] for line in each.text.splitlines() if line.startswith("data: {")]
                for each in streams
            )
            assert one == other
            for path in ("/load_model", "/reset", "/metrics", "/docs", "/openapi.json", "/health"):
                assert requests.post(found.url + path, json={}, timeout=9).status_code == 404
            assert found.stop() == 0
    whole_row, streamed = rows(tmp_path / "kept")
    assert whole_row.answer == streamed.answer == passed.json()["choices"][0]["message"]["content"]
    assert whole_row.prompt == "list disk of [email]"
    assert whole_row.redactions == {"email": 1}
    assert (whole_row.error, streamed.error) == (None, None)
    assert whole_row.output_tokens == passed.json()["usage"]["completion_tokens"]


REFUSED = {
    "an address": (["ftp://x"], 14, "URL: 'ftp://x' is no address of a server"),
    "a port": (["http://x:99999"], 14, "is no address"),
    "a login": (["http://u:secret@x"], 14, "URL: 'x' is no"),
    "a server twice": (["http://x", "http://x/v1"], 14, "URL: http://x is there twice"),
    "a weight for one of two": (["http://x=1", "http://y"], 14, "some have no weight, or all have 0"),
    "no weight above 0": (["http://x=0", "http://y=0"], 14, "write each as URL=WEIGHT, or none"),
    "a weight below 0": (["http://x=-1"], 14, "is no address of a server"),
    "no header": (["http://x", "--sticky", "a b"], 14, "--sticky: 'a b' is no name of a header"),
    "a header of users without a secret": (
        ["http://x", "--user-header", "X-User"],
        14,
        "--user-header: needs --user-secret",
    ),
    "a short secret": (
        ["http://x", "--user-secret", "short.txt"],
        14,
        "short.txt: has 5 bytes; openssl rand -hex 32 > short.txt",
    ),
    "a release": (["http://x", "--release", "latest"], 14, "'latest' is no digest"),
    "a provider": (["http://x", "--provider", "a/b"], 14, "--provider: 'a/b'"),
    "a collector": (["http://x", "--otlp", "http://u:secret@y"], 14, "--otlp: 'y' is no address"),
    "an environment": (["http://x", "--environment", "a/b"], 14, "'a/b'"),
    "buckets": (["http://x", "--buckets", "2,1"], 14, "--buckets: '2,1'"),
    "a file of keys": (["http://x", "--keys", "nowhere"], 14, "nowhere: No such file"),
    "keys that are none": (["http://x", "--keys", "gateway.txt"], 14, "gateway.txt:2: does not begin with a SHA-256"),
    "a store": (["http://x", "--captures", "foo://x"], 14, "foo://x: no such kind of store"),
    "a share": (["http://x", "--sample", "0"], 2, "--sample"),
    **{
        f"the canary {canary}": (
            ["http://x", "--canary", canary],
            14,
            f"--canary: {canary!r}; write it as NAME=PERCENT",
        )
        for canary in ("router", "router=0", "router=51", "=5", "router=x", "ro uter=5")
    },
    "a folder": (["http://x", "--captures", "gateway.txt"], 9, "captures cannot be written"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_before_anything_listens(case: str, tmp_path: Path) -> None:
    words, code, said = REFUSED[case]
    (tmp_path / "gateway.txt").write_text(f"{'a' * 64}  ada\nsk-plain\n")
    (tmp_path / "short.txt").write_text("12345\n")
    from click.testing import CliRunner

    from release.cli import main

    with contextlib.chdir(tmp_path):
        done = CliRunner().invoke(main, ["gateway", *words])
    assert (done.exit_code, said in done.output, done.exception is None or isinstance(done.exception, SystemExit)) == (
        code,
        True,
        True,
    ), done.output


VARIABLES = {
    "no keys": ("LOCKSTEP_GATEWAY_KEYS", "", "LOCKSTEP_GATEWAY_KEYS: is empty; give it a value, or unset it"),
    "blank keys": ("LOCKSTEP_GATEWAY_KEYS", " \t", "LOCKSTEP_GATEWAY_KEYS: is empty"),
    "misspelt keys": ("LOCKSTEP_GATEWAY_KEY", "keys", "LOCKSTEP_GATEWAY_KEY: no option of the gateway has this name"),
    "an argument": ("LOCKSTEP_GATEWAY_UPSTREAMS", "http://x", "LOCKSTEP_GATEWAY_UPSTREAMS: no option"),
    "an empty folder": ("LOCKSTEP_GATEWAY_CAPTURES", "", "LOCKSTEP_GATEWAY_CAPTURES: is empty"),
}


@pytest.mark.parametrize("case", VARIABLES)
def test_a_variable_that_would_be_ignored_is_refused(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty or misspelt variable for the keys would open the gateway to everyone."""
    name, value, said = VARIABLES[case]
    from click.testing import CliRunner

    from release.cli import main
    from release.monitoring.gateway import run

    monkeypatch.setattr(run, "run", lambda *_: pytest.fail("the gateway started"))
    monkeypatch.setenv(name, value)
    done = CliRunner().invoke(main, ["gateway", "http://x"])
    assert done.exit_code == 14, done.output
    assert said in " ".join(done.output.split())


def test_a_port_that_is_taken_is_named(gateway: GatewayProcess, model: ModelStandIn, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "release.cli", "gateway", model.url, "--port", str(gateway.port)]
    command += ["--metrics-port", str(unused_port())]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 9
    assert f"127.0.0.1:{gateway.port}: " in done.stderr
    assert "Traceback" not in done.stderr
