"""`lockstep monitor up`: a real Prometheus and Alertmanager beside a real gateway, and the refusals before they start."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import requests
from click.testing import CliRunner

from release.cli import main
from tests import gateway_process, programs
from tests.conftest import REPOSITORY, read_yaml
from tests.gateway_process import GatewayProcess
from tests.gateway_requests import ask_all
from tests.http_standin import Handler, StandIn
from tests.model_standin import ModelStandIn
from tests.pipeline_repository import write_params
from tests.ports import unused_port

SECONDS = 120  # that an alert may take: one minute of them is its `for:`


class Webhook(StandIn):
    """``alerts``: every one that Alertmanager sent."""

    def __init__(self) -> None:
        super().__init__(_Handler)
        self.alerts: list[dict[str, Any]] = []


class _Handler(Handler):
    server: Webhook

    def do_POST(self) -> None:
        self.server.alerts += json.loads(self.body())["alerts"]
        self.reply(200)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_params(tmp_path, read_yaml((REPOSITORY / "params.yaml").read_text()))
    return tmp_path


@pytest.fixture
def ports() -> tuple[str, str]:
    return str(unused_port()), str(unused_port())


def _up(root: Path, ports: tuple[str, str], *arguments: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "release.cli", "-C", str(root), "monitor", "up", *arguments]
    command += ["--interval", "5", "--port", ports[0], "--alertmanager-port", ports[1]]
    with (root / "log").open("wb") as log:
        return subprocess.Popen(command, stderr=log, env=os.environ | {"PYTHONPATH": str(REPOSITORY)})


def _wait_for_log(root: Path, process: "subprocess.Popen[bytes]", line: bytes) -> None:
    until, log = time.monotonic() + SECONDS, root / "log"
    while line not in log.read_bytes():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.1)


def _children(process: "subprocess.Popen[bytes]") -> list[int]:
    return [int(each) for each in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def _ended(root: Path, ports: tuple[str, str], pids: list[int]) -> None:
    assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == [], (root / "log").read_text()
    for port in ports:
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", int(port))) != 0


class Watched(NamedTuple):
    """A gateway before a server, the programs that watch it, and the webhook that gets their alerts."""

    webhook: Webhook
    server: ModelStandIn
    gateway: GatewayProcess
    process: "subprocess.Popen[bytes]"
    prometheus: str


@contextmanager
def _watched(root: Path, ports: tuple[str, str], *options: str) -> "Iterator[Watched]":
    """A real Prometheus, which scrapes a real gateway every 5 seconds."""
    for program in ("prometheus", "prometheus-alertmanager"):
        programs.require(program)
    pytest.importorskip("prometheus_client", reason="pip install -c constraints.txt -e '.[gateway]'")
    with (
        Webhook() as webhook,
        ModelStandIn() as server,
        gateway_process.running(server.url, root, "--scrape-interval", "5", *options) as gateway,
    ):
        address = gateway.private.removeprefix("http://")
        process = _up(root, ports, address, "--webhook", f"{webhook.url}/T0/secret")
        try:
            _wait_for_log(root, process, b"alertmanager: http")
            watched = Watched(webhook, server, gateway, process, f"http://127.0.0.1:{ports[0]}")
            _wait_until(lambda: _total(watched) is not None)  # in production it runs before a gateway starts
            yield watched
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(30)


def _wait_until(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.2)


def _total(watched: Watched) -> float | None:
    """The requests that Prometheus knows to have ended; None before its first scrape."""
    query = {"query": "sum(lockstep_gateway_outcomes_total)"}
    found = requests.get(f"{watched.prometheus}/api/v1/query", params=query, timeout=10).json()["data"]["result"]
    return float(found[0]["value"][1]) if found else None


def _begun(watched: Watched) -> set[str]:
    """The alerts whose condition holds. Each is sent once it has held for its minute, as promtool shows of the rules."""
    alerts = requests.get(f"{watched.prometheus}/api/v1/alerts", timeout=10).json()["data"]["alerts"]
    return {alert["labels"]["alertname"] for alert in alerts}


@pytest.mark.slow
def test_a_burst_of_errors_between_two_scrapes_reaches_a_webhook_and_ctrl_c_ends_everything(
    root: Path, ports: tuple[str, str]
) -> None:
    """300 of 480 requests fail in about two seconds: the first ones that this gateway has got."""
    with _watched(root, ports) as watched:
        asked = [(number, "error" if number % 8 < 5 else "none", False) for number in range(480)]
        assert Counter(answer.status for answer in ask_all(watched.gateway.url, asked)) == {500: 300, 200: 180}
        _wait_until(lambda: watched.webhook.alerts != [])
        (alert, *others) = watched.webhook.alerts
        assert {each["labels"]["alertname"] for each in (alert, *others)} == {"LockstepAvailabilityBurn"}
        name = read_yaml((root / "params.yaml").read_text())["serve"]["name"]
        assert alert["status"] == "firing"
        assert (alert["labels"]["model"], alert["labels"]["environment"]) == (name, "local")
        summary = f"{name} in local: requests without a whole answer are above 1.000%"
        assert alert["annotations"]["summary"].startswith(summary)
        pids = _children(watched.process)
        assert len(pids) == 2
        watched.process.send_signal(signal.SIGINT)
        assert watched.process.wait(30) == 0
        _ended(root, ports, pids)
    said = (root / "log").read_text()
    assert said.splitlines()[-1] == "monitor: ending"
    assert "secret" not in said
    home = root / ".lockstep/monitor"
    assert home.stat().st_mode & 0o077 == 0
    assert {path.name for path in root.iterdir()} == {".lockstep", "params.yaml", "log", "gateway.log"}


@pytest.mark.slow
def test_one_failed_request_of_15_reaches_nobody_and_a_server_that_hangs_raises_an_alert_before_its_requests_end(
    root: Path, ports: tuple[str, str]
) -> None:
    """The counters are there before: one request failed at the very start, too."""
    with _watched(root, ports, "--stall", "5") as watched:
        ask_all(watched.gateway.url, [(0, "error", False), (1, "none", False)])
        _wait_until(lambda: _total(watched) == 2)
        asked = [(number, "none" if number else "error", False) for number in range(15)]
        assert Counter(answer.status for answer in ask_all(watched.gateway.url, asked)) == {500: 1, 200: 14}
        _wait_until(lambda: _total(watched) == 17)
        for _ in range(15):  # seconds: three evaluations
            assert _begun(watched) == set()
            time.sleep(1)

        watched.server.hangs = True
        asked = [(number, "none", False) for number in range(20)]
        clients = threading.Thread(target=ask_all, args=(watched.gateway.url, asked))
        clients.start()
        _wait_until(lambda: "LockstepNoServer" in _begun(watched))
        assert clients.is_alive()
        watched.server.hangs = False
        clients.join()


@pytest.mark.slow
def test_a_program_that_ends_takes_the_other_with_it_and_is_told(root: Path, ports: tuple[str, str]) -> None:
    for program in ("prometheus", "prometheus-alertmanager"):
        programs.require(program)
    process = _up(root, ports)
    try:
        log = root / "log"
        _wait_for_log(root, process, b"alertmanager: http")
        pids = _children(process)
        os.kill(pids[1], signal.SIGKILL)
        assert process.wait(30) == 9
        _ended(root, ports, pids)
        assert "lockstep: prometheus: ended with -9: " in log.read_text().splitlines()[-1]
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        yield held.getsockname()[1]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["http://127.0.0.1:9464/metrics"], 14, "TARGET: 'http://127.0.0.1:9464/metrics' is no HOST:PORT"),
        (["localhost"], 14, "TARGET: 'localhost' is no HOST:PORT"),
        (["--webhook", "hooks.example/x"], 14, "--webhook: is no address; write it as https://HOST/PATH"),
        (["--webhook", "http://h:port/"], 14, "--webhook: is no address"),
        (["--webhook", "http://hooks.example/secret%zz"], 14, "--webhook: is no address"),
        (["--environment", 'a"b'], 14, "--environment: 'a\"b'; name that of the gateway"),
        (["--port", "9093"], 14, "--alertmanager-port: 9093 is the port of Prometheus"),
        (["--port", "TAKEN"], 9, "in use; choose another port, or end what listens there: systemctl disable --now prom"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_before_anything_starts(
    root: Path, taken: int, arguments: list[str], code: int, said: str
) -> None:
    if code == 9:
        for program in ("prometheus", "prometheus-alertmanager"):
            programs.require(program)
    arguments = [str(taken) if each == "TAKEN" else each for each in arguments]
    done = CliRunner().invoke(main, ["-C", str(root), "monitor", "up", *arguments])
    assert (done.exit_code, len(done.stderr.splitlines()), done.stdout) == (code, 1, ""), done.output
    assert said in done.stderr


def test_without_the_programs_it_says_how_to_install_them(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(root))
    done = CliRunner().invoke(main, ["-C", str(root), "monitor", "up"])
    assert (done.exit_code, done.stderr) == (
        9, "lockstep: alertmanager is not installed; apt-get install prometheus prometheus-alertmanager\n",
    )  # fmt: skip
