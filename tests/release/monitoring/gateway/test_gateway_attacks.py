"""What clients and dying servers do to a gateway, and what the others notice of it."""

import asyncio
import contextlib
import gc
import json
import resource
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import pytest
import requests

pytest.importorskip("prometheus_client", reason="pip install -c constraints.txt -e '.[gateway]'")

from aiohttp import web

from checks.process.errors import MachineRefused
from release.monitoring.gateway import app, connections, sessions
from release.monitoring.gateway.app import Gateway
from release.monitoring.gateway.connections import Connections
from release.monitoring.gateway.forward import Rejected, named_adapter, renamed
from release.monitoring.gateway.metrics import Metrics
from release.monitoring.gateway.options import GatewaySettings
from release.monitoring.gateway.rows import TooLarge, sampled
from release.monitoring.gateway.upstreams import Server, Upstreams
from tests.gateway_process import GatewayProcess, running
from tests.gateway_requests import CHAT, Got, ask_all, body
from tests.http_standin import Handler, StandIn
from tests.model_standin import ModelStandIn, whole
from tests.ports import unused_port
from tests.release.monitoring.gateway.test_gateway import OtherPort, rows
from tests.release.monitoring.gateway.test_gateway_rows import stored

pytestmark = pytest.mark.slow
MANY = 130_000
LARGE: dict[str, bytes] = {
    "parts": b'{"messages": [{"role": "user", "content": [%s""]}]}' % (b'"",' * MANY),
    "messages": b'{"messages": [%s{}]}' % (b"{}," * MANY),
    "an answer of a tool": b'{"messages": [{"role": "tool", "content": [%s{}]}]}' % (b"{}," * MANY),
    "calls of tools": b'{"messages": [{"role": "assistant", "tool_calls": [%s{}]}]}' % (b"{}," * MANY),
    "prompts": b'{"prompt": [%s""]}' % (b'"",' * MANY),
    "one text": b'{"prompt": "%s"}' % (b"a" * (1 << 20)),
}


@pytest.mark.parametrize("case", LARGE)
def test_a_request_that_would_cost_seconds_to_redact_is_not_stored(case: str) -> None:
    with pytest.raises(TooLarge):
        stored(json.loads(LARGE[case]))


@pytest.mark.parametrize("case", LARGE)
def test_the_adapter_that_a_request_names_is_read_without_an_object_for_each_part_of_it(case: str) -> None:
    """Objects of 4 MiB took four seconds, in which the gateway answered nobody."""
    releases = {"router": "a" * 12, "writer": "b" * 12}
    collections: list[str] = []
    gc.callbacks.append(lambda phase, _: collections.append(phase))
    try:
        asks_writer = LARGE[case][:-1] + b', "model": "writer"}'
        assert named_adapter(releases, asks_writer) == "writer"
        asks_router = renamed(asks_writer, "writer", "router")
        assert asks_router == LARGE[case][:-1] + b', "model":"router"}'
        assert named_adapter(releases, asks_router) == "router"
        assert renamed(LARGE[case], "writer", "router") is None
        assert named_adapter(releases, LARGE[case]) is None
        with pytest.raises(Rejected, match="cannot be read as JSON in UTF-8"):
            named_adapter(releases, LARGE[case][:-1])
    finally:
        gc.callbacks.pop()
    assert len(collections) < 20


def test_a_long_conversation_is_stored_still() -> None:
    turns = [{"role": "user", "content": "word " * 25} for _ in range(1000)]
    assert len(stored({"messages": turns})["gen_ai.input.messages"]) == 1000


def test_a_request_that_is_too_large_to_be_stored_is_answered_and_counted_apart_from_those_that_were_dropped(
    tmp_path: Path,
) -> None:
    with ModelStandIn() as model, running(model.url, tmp_path, "--captures", "kept") as gateway:
        pad = [{"role": "user", "content": ["x"] * 600_000}]
        sent = body(3) | {"messages": pad + body(3)["messages"]}
        assert requests.post(gateway.url + CHAT, json=sent, timeout=30).content == whole(3)
        assert requests.post(gateway.url + CHAT, json=body(4), timeout=30).content == whole(4)
        until = time.monotonic() + 20
        while gateway.total("lockstep_gateway_captures_total") < 1:
            assert time.monotonic() < until
        assert gateway.total("lockstep_gateway_captures_too_large_total") == 1
        assert gateway.total("lockstep_gateway_captures_dropped_total") == 0
    assert [row.prompt for row in rows(tmp_path / "kept")] == ["4 none"]


def connect(gateway: GatewayProcess, data: bytes = b"") -> socket.socket:
    client = socket.create_connection(("127.0.0.1", gateway.port), timeout=20)
    client.sendall(data)
    return client


def is_closed(client: socket.socket) -> bool:
    client.settimeout(0.1)
    try:
        return client.recv(1) == b""
    except TimeoutError:
        return False
    except ConnectionError:
        return True


def half(length: int, sent: int = 10) -> bytes:
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    return head.encode() + b"x" * sent


OPEN: dict[str, tuple[int, bytes]] = {
    "idle connections": (320, b""),
    "half a head": (320, b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nX: "),
    "half a body": (64, half(1000)),
    "a body without an end": (64, b"POST %s HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab" % CHAT.encode()),
    "half of many large bodies": (24, half(4 << 20, (4 << 20) - 1)),
}  # fmt: skip


@pytest.fixture
def few_files() -> Iterator[None]:
    """As systemd and containers give: a small number of files that may be raised."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize("case", OPEN)
def test_whoever_opens_connections_and_ends_no_request_locks_nobody_out(
    case: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    number, data = OPEN[case]
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    request.getfixturevalue("few_files")
    with ModelStandIn() as model, running(model.url, tmp_path, "--max-concurrent", "16") as gateway:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        with contextlib.ExitStack() as stack:
            opened = [stack.enter_context(contextlib.closing(connect(gateway, data))) for _ in range(number)]
            got = ask_all(gateway.url, [(number, "none", False) for number in range(40)], at_once=8)
            assert [answer.data for answer in got] == [whole(answer.number) for answer in got]
            assert requests.get(f"{gateway.private}/health", timeout=20).status_code == 200
            assert is_closed(opened[0]) == (case not in ("half a body", "a body without an end"))
            assert not is_closed(opened[-1])
        assert gateway.log.read_text().count("\n") == 2  # its start, and that the server takes requests


def test_an_idle_connection_is_closed_for_another_one_and_the_port_of_the_probes_is_bounded_too(tmp_path: Path) -> None:
    with ModelStandIn() as model, running(model.url, tmp_path) as gateway:
        port = int(gateway.private.rpartition(":")[2])
        with contextlib.ExitStack() as stack:
            for _ in range(200):
                stack.enter_context(contextlib.closing(socket.create_connection(("127.0.0.1", port))))
            assert requests.get(f"{gateway.private}/ready", timeout=20).status_code == 200


@pytest.mark.parametrize(("files", "at_once", "most"), [(65536, 256, 1088), (1024, 256, 608), (512, 256, None)])
def test_the_number_of_connections_follows_from_the_files_that_may_be_open(
    files: int, at_once: int, most: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (files, files))
    if most is not None:
        assert connections.most_connections(at_once) == most
        return
    with pytest.raises(
        MachineRefused, match="256 requests at a time need 928 open files, and this process may open 512"
    ):
        connections.most_connections(at_once)


async def in_process(test: Callable[[int], object]) -> None:
    """Run ``test`` in a thread, with the port of a gateway in this process that has no server."""
    settings = GatewaySettings(("http://127.0.0.1:9",))
    async with sessions.sending() as session:
        gateway = Gateway(settings, session, Upstreams(session, settings.upstreams, None), Metrics(settings), None)
        runner = web.ServerRunner(Connections(gateway.public, lambda status, _: gateway.failed(status), 10))
        await runner.setup()
        port = unused_port()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        await asyncio.to_thread(test, port)
        await runner.cleanup()


@pytest.mark.parametrize(
    ("sent", "answer"),
    [(b"POST /v1/chat/comple", b""), (half(1000), b"HTTP/1.1 408 "), (half(1000, 0), b"HTTP/1.1 408 ")],
)
def test_a_head_and_a_body_have_their_time(sent: bytes, answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_HEAD", 0.3)
    monkeypatch.setattr(connections, "_LINGER", 0.1)
    monkeypatch.setattr(app, "_BODY", 0.3)

    def test(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
            client.sendall(sent)
            got = b""
            while data := client.recv(4096):
                got += data
        assert got[:13] == answer

    asyncio.run(in_process(test))


def post(headers: bytes = b"", data: bytes = b"{}", path: bytes = CHAT.encode(), method: bytes = b"POST") -> bytes:
    length = b"Content-Length: %d\r\n" % len(data)
    return b"%s %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%s%s\r\n%s" % (method, path, length, headers, data)


def test_what_breaks_in_the_gateway_is_500_and_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object) -> web.Response:
        raise RuntimeError("sk-secret")

    counted: list[tuple[int, str | None]] = []
    monkeypatch.setattr(Gateway, "_passed", broken)
    monkeypatch.setattr(Metrics, "ended", lambda _, exchange: counted.append((exchange.status, exchange.error)))

    def test(port: int) -> None:
        reply = requests.post(f"http://127.0.0.1:{port}{CHAT}", json=body(1), timeout=20)
        assert (reply.status_code, reply.json()["error"]["code"]) == (500, "internal_error")

    asyncio.run(in_process(test))
    assert counted == [(500, "internal_error")]


SECRET = b"sk-of-somebody-else"
REJECTED: dict[str, tuple[bytes, int, str]] = {
    "no key": (post(), 401, "invalid_api_key"),
    "another key": (post(b"Authorization: Bearer %s\r\n" % SECRET), 401, "invalid_api_key"),
    "a key that is no UTF-8": (post(b"Authorization: Bearer %s\xff\r\n" % SECRET), 401, "invalid_api_key"),
    "no such path": (post(path=b"/v1/embeddings?key=%s" % SECRET), 404, "not_found"),
    "a path that is written in another way": (post(path=b"/v1/chat%2Fcompletions"), 404, "not_found"),
    "another method": (post(method=b"DELETE"), 405, "method_not_allowed"),
    "too large": (post(b"Authorization: Bearer sk-ada\r\n", b"x" * 6000), 413, "request_too_large"),
    "no HTTP": (b"hello %s\r\n\r\n" % SECRET, 400, "bad_request"),
    "a header that is none": (post(b"Authorization Bearer %s\r\n" % SECRET), 400, "bad_request"),
    "two lengths": (post(b"Authorization: Bearer %s\r\nContent-Length: 3\r\n" % SECRET), 400, "bad_request"),
    "a chunk that is none": (
        b"POST %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sk-ada\r\nTransfer-Encoding: chunked\r\n\r\n%s\r\n"
        % (CHAT.encode(), SECRET), 400, "bad_request",
    ),
    "a head that is too long": (post(b"X: %s\r\n" % (SECRET * 1000)), 400, "bad_request"),
}  # fmt: skip


def test_invalid_requests_count_for_no_release_are_never_stored_and_stand_in_no_log(tmp_path: Path) -> None:
    digest = subprocess.run("printf %s sk-ada | sha256sum", shell=True, capture_output=True, check=True).stdout
    (tmp_path / "keys").write_bytes(digest)
    options = ("--keys", str(tmp_path / "keys"), "--captures", "kept", "--max-body", "5000")
    with ModelStandIn() as model, running(model.url, tmp_path, *options) as gateway:
        before = len(model.seen)
        for name, (data, status, code) in REJECTED.items():
            with connect(gateway, data) as client:
                head, _, text = client.makefile("rb").read().partition(b"\r\n\r\n")
            assert (name, int(head.split()[1]), json.loads(text)["error"]["code"]) == (name, status, code)
            assert (b"\r\nX-Request-Id: " in head, b"aiohttp" in head) == (True, False)
            assert (b"\r\nWWW-Authenticate: Bearer" in head) == (status == 401)
            assert (b"\r\nAllow: POST" in head) == (status == 405)
        counted = Counter(status for _, status, _ in REJECTED.values())
        metrics = gateway.metrics()
        assert {status: metrics[f'lockstep_gateway_rejected_total{{code="{status}"}}'] for status in counted} == counted
        assert gateway.total("lockstep_gateway_requests_total") == 0
        assert gateway.total("lockstep_gateway_request_seconds_count") == 0
        reply = requests.post(gateway.url + CHAT, json=body(5), headers={"Authorization": "Bearer sk-ada"}, timeout=20)
        assert reply.content == whole(5)
        assert not [path for method, path, _ in model.seen[before:] if method == "POST"][1:]
        assert gateway.stop() == 0
        log = gateway.log.read_text()
    assert (SECRET.decode() in log, "Traceback" in log, log.count("\n")) == (False, False, 3)
    assert [row.prompt for row in rows(tmp_path / "kept")] == ["5 none"]


def test_headers_of_one_connection_are_passed_on_in_neither_direction(tmp_path: Path) -> None:
    class Named(Handler):
        protocol_version = "HTTP/1.1"
        seen: ClassVar[list[dict[str, str]]] = []

        def do_GET(self) -> None:
            self.reply(
                200, {"data": [{"id": "m"}]}, {"Connection": "X-Server-Secret", "X-Server-Secret": "s", "X-Kept": "k"}
            )

        def do_POST(self) -> None:
            self.body()
            self.seen.append({name.lower(): value for name, value in self.headers.items()})
            headers = {"Connection": "X-Server-Secret", "X-Server-Secret": "s", "X-Kept": "k"}
            self.reply(200, {"choices": [{"index": 0, "text": "a", "finish_reason": "stop"}]}, headers)

    with StandIn(Named) as model, running(model.url, tmp_path) as gateway:
        headers = {"Connection": "keep-alive, X-Client-Secret", "X-Client-Secret": "c", "X-Kept": "k", "TE": "trailers"}
        reply = requests.post(gateway.url + CHAT, json=body(1), headers=headers, timeout=20)
        seen = Named.seen[-1]
        assert ("x-client-secret" in seen, "te" in seen, seen["x-kept"]) == (False, False, "k")
        assert seen["via"] == "1.1 lockstep"
        for answered in (reply, requests.get(f"{gateway.url}/v1/models", timeout=20)):
            assert ("X-Server-Secret" in answered.headers, answered.headers["X-Kept"]) == (False, "k")


def poisoned(models: list[ModelStandIn]) -> list[int]:
    return [sum(b"77 reset" in sent for sent in model.bodies) for model in models]


def test_a_request_that_kills_a_server_is_sent_to_no_other_one(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        models = [stack.enter_context(ModelStandIn(letter * 12)) for letter in "abc"]
        gateway = stack.enter_context(running(models[0].url, tmp_path, models[1].url, models[2].url))
        until = time.monotonic() + 30
        while len({answer.headers["lockstep-release"] for answer in warm(gateway)}) < 3:
            assert time.monotonic() < until
        reply = requests.post(gateway.url + CHAT, json=body(77, "reset"), timeout=20)
        assert (reply.status_code, reply.json()["error"]["code"]) == (502, "upstream_error")
        assert sorted(poisoned(models)) == [0, 0, 1]
        assert gateway.total("lockstep_gateway_retries_total") == 0
        assert {answer.status for answer in warm(gateway)} == {200}


def warm(gateway: GatewayProcess) -> list[Got]:
    """Ask so many at a time that every server gets some, and connections lie open after it."""
    return ask_all(gateway.url, [(number, "slow", False) for number in range(12)], at_once=12)


def test_a_request_that_no_connection_took_is_sent_elsewhere_and_counted(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        one, other = (stack.enter_context(ModelStandIn(letter * 12)) for letter in "ab")
        gateway = stack.enter_context(running(one.url, tmp_path, other.url))
        until = time.monotonic() + 30
        while len({answer.headers["lockstep-release"] for answer in warm(gateway)}) < 2:
            assert time.monotonic() < until
        one.stop()  # connections to it stay open, as of a server that ends its last requests
        got = ask_all(gateway.url, [(number, "none", False) for number in range(30)])
        assert {(answer.status, answer.headers["lockstep-release"]) for answer in got} == {(200, "b" * 12)}
        assert gateway.total("lockstep_gateway_retries_total") > 0


def test_after_a_server_was_replaced_in_place_no_answer_names_the_former_release(tmp_path: Path) -> None:
    with ModelStandIn("a" * 12) as model, running(model.url, tmp_path, "--captures", "kept") as gateway:
        for letter in "bcd":
            assert requests.post(gateway.url + CHAT, json=body(1), timeout=20).status_code == 200
            model.die()
            model = OtherPort(model.server_port, letter * 12)
            model.start()
            until = time.monotonic() + 30
            while (reply := requests.post(gateway.url + CHAT, json=body(2), timeout=20)).status_code != 200:
                assert time.monotonic() < until
            assert reply.headers["Lockstep-Release"] == letter * 12
        assert gateway.stop() == 0
        model.die()
    answered = [row.release for row in rows(tmp_path / "kept") if row.status == 200]
    assert answered == [letter * 12 for letter in "abbccd"]


def test_what_the_end_of_the_gateway_cuts_is_503_and_the_end_comes_when_it_was_announced(tmp_path: Path) -> None:
    with ModelStandIn() as model, running(model.url, tmp_path, "--captures", "kept", "--drain", "4") as gateway:
        got: list[Got] = []
        asked = [(1, "stall", False), (2, "stall", True), (3, "slow", False)]
        asking = threading.Thread(target=lambda: got.extend(ask_all(gateway.url, asked)))
        asking.start()
        idle = connect(gateway)
        until = time.monotonic() + 20
        while gateway.total("lockstep_gateway_in_flight") < 2:
            assert time.monotonic() < until
        began = time.monotonic()
        gateway.process.send_signal(signal.SIGTERM)
        gateway.wait(status=503)
        assert is_closed(idle)
        assert gateway.process.wait(30) == 0
        assert 3.5 < time.monotonic() - began < 8  # it was 11 when each step waited once more
        asking.join()
    one, stream, slow = got
    assert (one.status, json.loads(one.data)["error"]["code"], one.headers["retry-after"]) == (503, "shutdown", "1")
    assert (stream.status, stream.whole) == (200, False)
    assert (slow.status, slow.data) == (200, whole(3))
    by_id = {row.request_id: (row.status, row.error) for row in rows(tmp_path / "kept")}
    assert by_id == {"r1": (503, "shutdown"), "r2": (503, "shutdown"), "r3": (200, None)}


URLS = ("http://a", "http://b")


def upstreams(*weights: float) -> Upstreams:
    pool = Upstreams(None, URLS, None, weights)  # type: ignore[arg-type]
    pool.servers = {f"{url}:{port}": Server(url, f"{url}:{port}", "", ready=True) for url in URLS for port in (1, 2)}
    return pool


def drawn(pool: Upstreams, ids: list[str]) -> Counter[str]:
    servers = [pool._drawn(request_id) for request_id in ids]
    return Counter(server.url if server else "none" for server in servers)


IDS = [f"r{number}" for number in range(4000)]


@pytest.mark.parametrize(("weights", "share"), [((95, 5), 0.05), ((1, 1), 0.5), ((0, 1), 1.0), ((), 0.5)])
def test_each_url_gets_its_share_by_chance(weights: tuple[float, ...], share: float) -> None:
    pool = upstreams(*weights)
    assert drawn(pool, IDS)["http://b"] / len(IDS) == pytest.approx(share, abs=0.02)
    stored_ids = [request_id for request_id in IDS if sampled(request_id, 0.3)]  # sampling and weights are two draws
    assert drawn(pool, stored_ids)["http://b"] / len(stored_ids) == pytest.approx(share, abs=0.03)


def test_without_a_ready_server_the_others_get_its_share_and_weight_0_gets_nothing() -> None:
    pool = upstreams(95, 5)
    for server in pool.servers.values():
        server.ready = server.url == "http://b"
    assert drawn(pool, IDS[:100]) == {"http://b": 100}
    pool = upstreams(1, 0)
    for server in pool.servers.values():
        server.ready = server.url == "http://b"
    assert drawn(pool, IDS[:100]) == {"none": 100}


def test_of_the_drawn_url_the_server_with_the_fewest_requests_gets_it() -> None:
    pool = upstreams(1, 1)
    pool.servers["http://a:1"].in_flight = 3
    servers = Counter(server.base for request_id in IDS if (server := pool._drawn(request_id)))
    assert (servers["http://a:1"], min(servers[base] for base in ("http://a:2", "http://b:1", "http://b:2")) > 900) == (
        0,
        True,
    )


def test_two_releases_behind_one_gateway_share_the_requests_of_one_client_and_a_header_keeps_it_at_one(
    tmp_path: Path,
) -> None:
    with ModelStandIn("a" * 12) as one, ModelStandIn("b" * 12) as other:
        options = (f"{other.url}=0.25", "--sticky", "X-Session")
        with running(f"{one.url}=0.75", tmp_path, *options) as gateway:

            def ask(**headers: str) -> str:
                return requests.post(gateway.url + CHAT, json=body(1), headers=headers, timeout=20).headers[
                    "Lockstep-Release"
                ]

            until = time.monotonic() + 30
            while len({ask() for _ in range(30)}) < 2:
                assert time.monotonic() < until
            got = Counter(ask() for _ in range(400))
            assert got["b" * 12] == pytest.approx(100, abs=35)
            # A session's release is drawn: that all 100 are drawn for one has a chance of 0.75 to the power of 100.
            kept = [{ask(**{"X-Session": f"s{number}"}) for _ in range(3)} for number in range(100)]
            assert [len(releases) for releases in kept] == [1] * 100
            assert len({release for releases in kept for release in releases}) == 2


def test_sighup_reads_the_keys_again_and_keeps_them_if_the_file_is_broken(tmp_path: Path) -> None:
    def digest(key: str) -> str:
        return subprocess.run(["sha256sum"], input=key.encode(), capture_output=True, check=True).stdout.decode()

    keys = tmp_path / "keys"
    keys.write_text(digest("one"))
    with ModelStandIn() as model, running(model.url, tmp_path, "--keys", str(keys)) as gateway:

        def ask(key: str) -> int:
            headers = {"Authorization": f"Bearer {key}"}
            return requests.post(gateway.url + CHAT, json=body(1), headers=headers, timeout=20).status_code

        def reread(text: str, line: str) -> tuple[int, int]:
            keys.write_text(text)
            gateway.process.send_signal(signal.SIGHUP)
            until = time.monotonic() + 20
            while line not in gateway.log.read_text():
                assert time.monotonic() < until, gateway.log.read_text()
            return ask("one"), ask("two")

        assert (ask("one"), ask("two")) == (200, 401)
        assert reread(digest("one") + digest("two"), "gateway: 2 keys") == (200, 200)
        assert reread("sk-plain\n", "the keys stay as they were: ") == (200, 200)
        assert reread(digest("two"), "gateway: 1 keys") == (401, 200)


def test_sighup_ends_no_gateway_without_keys(tmp_path: Path) -> None:
    with ModelStandIn() as model, running(model.url, tmp_path) as gateway:
        gateway.process.send_signal(signal.SIGHUP)
        assert requests.post(gateway.url + CHAT, json=body(1), timeout=20).status_code == 200
        assert gateway.process.poll() is None
