"""`lockstep monitor rules`: promtool checks and tests the rules, and a real Prometheus answers every query."""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import requests
from click.testing import CliRunner

from checks.config.monitor import Monitor
from checks.process.errors import ParamsRefused
from checks.storage import plain_yaml
from release import runtimes
from release.cli import main
from release.monitoring import component, rules
from release.monitoring.objectives import Scope
from tests.conftest import REPOSITORY, as_params, dumped, read_yaml
from tests.http_standin import Handler, StandIn
from tests.pipeline_repository import write_params
from tests.ports import unused_port
from tests.programs import require

ALL = {
    "availability": 0.999, "latency": {"seconds": 1.5, "share": 0.95}, "first_token": {"seconds": 0.5, "share": 0.9},
    "whole_answers": 0.95,
}  # fmt: skip
NONE = dict.fromkeys(ALL)
MODEL = read_yaml((REPOSITORY / "params.yaml").read_text())["serve"]["name"]
PRODUCTION = Scope(MODEL, "production")
OTHER = PRODUCTION._replace(model="other")  # in the same Prometheus
COST = {"devices": 2, "hourly_price": 1.8}
MONITORS: dict[str, dict[str, Any]] = {
    "default": {},
    "all": {"objectives": ALL, "cost": COST, "gpus": {"production": {"namespace": "router-production"}}},
    "none": {"objectives": NONE},
}
METRICS = runtimes.load("vllm").metrics


def _expressions(filled: dict[str, Any], span: str) -> list[str]:
    """Every query of a dashboard, with ``span`` for Grafana's own variable."""
    queries = [target["expr"] for panel in filled["panels"] for target in panel["targets"]]
    queries += [annotation["expr"] for annotation in filled["annotations"]["list"]]
    return [query.replace("$__rate_interval", span) for query in queries]


def _made(tmp_path: Path, monitor: dict[str, Any], environment: str = "production", runtime: str = "tgi") -> Path:
    root, folder = tmp_path / "root", tmp_path / "rules"
    root.mkdir(exist_ok=True)
    document = read_yaml((REPOSITORY / "params.yaml").read_text())
    document["serve"]["runtime"] = runtime
    write_params(root, document | {"monitor": monitor})
    done = CliRunner().invoke(main, ["-C", str(root), "monitor", "rules", environment, "--output", str(folder)])
    assert done.exit_code == 0, done.output
    assert [line.rpartition("/")[2] for line in done.output.splitlines()] == [
        "rules.yaml",
        "rules_test.yaml",
        "dashboard.json",
    ]
    return folder


def _promtool(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    require("promtool")
    return subprocess.run(["promtool", *arguments], cwd=folder, capture_output=True, text=True, check=False)


def _holds(folder: Path, number: int) -> bool:
    """Whether one case of the tests holds: promtool takes seconds for all."""
    tests = read_yaml((folder / "rules_test.yaml").read_text())
    (folder / "case.yaml").write_text(dumped(tests | {"tests": [tests["tests"][number]]}))
    return _promtool(folder, "test", "rules", "case.yaml").returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "environment", "runtime"),
    [
        ("default", "production", "tgi"),
        ("all", "staging", "vllm"),
        ("none", "production", "transformers"),
        ("none", "production", "sglang"),
        ("none", "staging", "llamacpp"),
    ],
)
def test_promtool_accepts_the_rules_and_their_tests_hold(
    tmp_path: Path, name: str, environment: str, runtime: str
) -> None:
    folder = _made(tmp_path, MONITORS[name], environment, runtime)
    for command in (("check", "rules", "rules.yaml"), ("test", "rules", "rules_test.yaml")):
        done = _promtool(folder, *command)
        assert done.returncode == 0, done.stdout + done.stderr
    text = (folder / "rules.yaml").read_text() + (folder / "dashboard.json").read_text()
    assert ({"production", "staging"} - {environment}).pop() not in text


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rules of all objectives. Read-only by custom."""
    return _made(tmp_path_factory.mktemp("watched"), MONITORS["all"], runtime="vllm")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new", "number"),
    [
        ("> 0.0144", "> 0.144", 15),
        ("> 0.006", "> 0.0006", 2),
        ("no_server|overloaded|shutdown", "no_server|overloaded|shutdown|client_error", 16),
        ("upstream_error|", "", 15),
        ("|answered", "", 1),
        ('outcome=~"cut_off"', 'outcome=~"cut"', 21),
        (">= 10", ">= 1", 16),
        (">= 10", ">= 100000", 23),
        ("for: 1m", "for: 0s", 15),
        ("for: 1m", "for: 1h", 15),
        ('after="1.5"', 'after="1"', 23),
        ("> 60", "> 6000", 23),
        ('state="ready"', 'state="read"', 26),
        ('state="out"', 'state="ready"', 26),
        ('le=~"1.5', 'le=~"2', 17),
        (f'model="{MODEL}",', "", 15),
        ("by (model, environment)", "by (environment)", 15),
        ("num_requests_waiting", "num_request_waiting", -6),
        ("waiting{", "running{", -6),
        ("} > 0\n    for: 10m", "} > 5\n    for: 10m", -6),
        ("for: 10m", "for: 1m", -5),
        ("for: 10m", "for: 1h", -3),
        ("kv_cache_usage_perc", "gpu_cache_usage_perc", -2),
        ("max by", "min by", -2),
        ("> 0.95", "> 0.9", -1),
    ],
)
def test_a_rule_that_is_changed_by_hand_fails_its_test(
    watched: Path, tmp_path: Path, old: str, new: str, number: int
) -> None:
    """``number``: a case of rules_test.yaml that sees the change."""
    folder = Path(shutil.copytree(watched, tmp_path / "rules"))
    assert _holds(folder, number)
    text = (folder / "rules.yaml").read_text()
    assert old in text
    (folder / "rules.yaml").write_text(text.replace(old, new))
    assert _promtool(folder, "check", "rules", "rules.yaml").returncode == 0  # a check sees none of them
    assert not _holds(folder, number)


@pytest.mark.parametrize(
    ("objectives", "said"),
    [
        ({"latency": {"seconds": 9.3, "share": 0.9}}, "monitor.objectives.latency.seconds: 9.3 is no bucket of the gateway.*; use one of 0.05, "),
        ({"whole_answers": 0.5}, "answers that are cut off may be 50%, and no alert can be about that.*; allow less than 16.7%"),
    ],
)  # fmt: skip
def test_an_objective_that_cannot_be_a_rule_is_refused(tmp_path: Path, objectives: dict[str, Any], said: str) -> None:
    write_params(
        tmp_path, read_yaml((REPOSITORY / "params.yaml").read_text()) | {"monitor": {"objectives": objectives}}
    )
    for arguments, wanted in (
        (("production",), said),
        (("nowhere",), "promote.environments has no 'nowhere'; use one of staging"),
    ):
        done = CliRunner().invoke(main, ["-C", str(tmp_path), "monitor", "rules", *arguments])
        assert (done.exit_code, len(done.stderr.splitlines()), done.stdout) == (2, 1, ""), done.output
        assert re.search(wanted, done.stderr), done.stderr
    assert not (tmp_path / "reports").exists()


class _Scraped(Handler):
    def do_GET(self) -> None:
        server: Any = self.server
        self.reply(200, server.metrics.text(), {"Content-Type": "text/plain; version=0.0.4"})


@pytest.fixture
def scraped() -> Iterator[Any]:
    with _scraped("a" * 12) as server:
        yield server


@pytest.fixture
def other() -> Iterator[Any]:
    """Another model's gateway, of an environment of the same name."""
    with _scraped("b" * 12) as server:
        yield server


@pytest.fixture
def gpus() -> Iterator[str]:
    """Where a STAND-IN for NVIDIA's dcgm-exporter answers: the GPUs of two models, at 300 watts."""

    class Exporter(Handler):
        def do_GET(self) -> None:
            joules = 300 * time.monotonic()
            lines = []
            for number, (namespace, use) in enumerate((("router-production", 73), ("other-production", 5))):
                labels = f'{{gpu="{number}",Hostname="node-1",namespace="{namespace}"}}'
                lines += [
                    f"DCGM_FI_DEV_GPU_UTIL{labels} {use}",
                    f"DCGM_FI_DEV_FB_USED{labels} 61440",
                    f"DCGM_FI_DEV_POWER_USAGE{labels} 300.5",
                    f"DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{labels} {1000 * joules:.0f}",
                ]
            self.reply(200, "\n".join(["# TYPE DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION counter", *sorted(lines), ""]))

    with StandIn(Exporter) as server:
        yield server.host


@contextmanager
def _server(waiting: int) -> Iterator[str]:
    """Where a STAND-IN for vLLM says how many requests wait, and the rest of what ``METRICS`` names."""

    class Served(Handler):
        def do_GET(self) -> None:
            model = 'model_name="x",engine="0"'
            first, requests = "vllm:time_to_first_token_seconds", int(100 * time.monotonic())
            lines = [
                f"vllm:num_requests_waiting{{{model}}} {waiting}",
                f"vllm:num_requests_running{{{model}}} 4",
                f"vllm:kv_cache_usage_perc{{{model}}} 0.5",
                *(f'{first}_bucket{{{model},le="{le}"}} {requests}' for le in ("0.1", "1.0", "+Inf")),
            ]
            self.reply(200, "\n".join([f"# TYPE {first} histogram", *lines[3:], *lines[:3], ""]))

    with StandIn(Served) as server:
        yield server.host


@pytest.fixture
def servers() -> Iterator[tuple[str, str]]:
    """A server of each of two models."""
    with _server(3) as ours, _server(50) as others:
        yield ours, others


@contextmanager
def _scraped(release: str) -> Iterator[Any]:
    """The gateway's own metrics, of requests of each kind."""
    pytest.importorskip("prometheus_client", reason="pip install -c constraints.txt -e '.[gateway]'")
    from release.monitoring.gateway.answers import Choice, ParsedAnswer
    from release.monitoring.gateway.metrics import Metrics
    from release.monitoring.gateway.options import GatewaySettings
    from release.monitoring.gateway.rows import Exchange

    settings = GatewaySettings(("http://127.0.0.1:1",), environment="production", release=release, scrape_interval=1.0)
    metrics = Metrics(settings)

    def request(status: int = 200, error: str | None = None, finish: str = "stop") -> None:
        answer = ParsedAnswer(choices={0: Choice(text=["az vm list"], finish=finish)}, input_tokens=5, output_tokens=3)
        found = Exchange(
            datetime.now(UTC),
            "r",
            "chat",
            release=release,
            status=status,
            error=error,
            answer=answer,
            seconds=0.2,
            first=0.1,
        )
        metrics.entered(found.release, 1)
        metrics.ended(found)
        metrics.between(found.release, 0.02)
        metrics.entered(found.release, -1)

    class Serving(StandIn):
        pass

    server: Any = Serving(_Scraped)
    server.metrics, server.request = metrics, request
    with server:
        yield server


@pytest.mark.slow
def test_a_real_prometheus_of_two_models_answers_every_query_about_one(
    tmp_path: Path, scraped: Any, other: Any, gpus: str, servers: tuple[str, str]
) -> None:
    require("prometheus")
    other.metrics.entered("b" * 12, 7)
    folder = _made(tmp_path, MONITORS["all"], runtime="vllm")
    text = (folder / "rules.yaml").read_text()
    (folder / "rules.yaml").write_text(text.replace("[5m]", "[10s]"))  # a shorter window, so that a test need not wait
    config = {
        "global": {"scrape_interval": "500ms", "evaluation_interval": "500ms"},
        "rule_files": ["rules.yaml"],
        "scrape_configs": [
            _scrape(PRODUCTION, scraped.host),
            _scrape(OTHER, other.host),
            *(
                _scrape(of, host, "serverpodmonitor.yaml")
                for of, host in zip((PRODUCTION, OTHER), servers, strict=True)
            ),
            {"job_name": "gpus", "static_configs": [{"targets": [gpus]}]},
        ],
    }
    (folder / "prometheus.yaml").write_text(dumped(config))
    port = unused_port()
    url = f"http://127.0.0.1:{port}/api/v1"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            ["prometheus", f"--config.file={folder}/prometheus.yaml", f"--storage.tsdb.path={folder}/data",
             f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log,
        )  # fmt: skip
    try:
        queries = _expressions(json.loads((folder / "dashboard.json").read_text()), "10s")
        queries += [trigger["query"] for trigger in _triggers("vllm")]
        queries = [each for each in queries if "silent_requests" not in each]  # none is silent here
        deadline, unanswered = time.monotonic() + 120, queries
        while unanswered and time.monotonic() < deadline:
            scraped.request()
            scraped.request(finish="length")
            scraped.request(500, "http_500")
            other.request(500, "http_500")
            time.sleep(0.4)
            unanswered = [each for each in unanswered if not _asked(url, each)]
        assert unanswered == [], (folder / "log").read_text()[-2000:]
        share = {
            each["metric"]["__name__"]: float(each["value"][1])
            for each in _asked(url, '{__name__=~"lockstep:.*_rate5m"}')
        }
        assert share["lockstep:availability:error_ratio_rate5m"] == pytest.approx(1 / 3, abs=0.12)
        assert share["lockstep:whole_answers:error_ratio_rate5m"] == pytest.approx(1 / 2, abs=0.15)
        assert share["lockstep:latency:error_ratio_rate5m"] == 0
        assert [each["value"][1] for each in _asked(url, "sum(lockstep_gateway_in_flight)")] == ["7"]
        assert [_asked(url, trigger["query"])[0]["value"][1] for trigger in _triggers("vllm")] == ["0", "3"]
        assert [each["value"][1] for each in _asked(url, "lockstep:server:cache")] == ["0.5"]
        assert [each["value"][1] for each in _asked(url, "sum(vllm:num_requests_waiting)")] == ["53"]
        seen = {each["metric"].get("release") for query in queries for each in _asked(url, query)}
        assert seen == {None, "a" * 12}
        loaded = requests.get(f"{url}/rules", timeout=10).json()["data"]["groups"]
        assert {rule["health"] for group in loaded for rule in group["rules"]} == {"ok"}
        used = [each for each in queries if each.startswith("DCGM_FI_DEV_GPU_UTIL")]
        assert [each["value"][1] for each in _asked(url, used[0])] == ["73"]  # not the other model's GPU
    finally:
        process.terminate()
        process.wait(30)


def _scrape(of: Scope, host: str, file: str = "podmonitor.yaml") -> dict[str, Any]:
    """Of a PodMonitor what the operator makes of its labels: relabel_configs, whose keys have underscores."""
    pods = plain_yaml.load(component.files(of, Monitor(), METRICS)[file].decode())
    (endpoint,) = pods["spec"]["podMetricsEndpoints"]
    relabelings = [
        {"target_label": each["targetLabel"], "replacement": each["replacement"]} for each in endpoint["relabelings"]
    ]
    return {"job_name": f"{of.model} {file}", "static_configs": [{"targets": [host]}], "relabel_configs": relabelings}


def _scaling_query() -> str:
    """What KEDA asks of Prometheus."""
    return _triggers("transformers")[0]["query"]


def _triggers(runtime: str, **scaling: Any) -> list[dict[str, str]]:
    """What each trigger of the ScaledObject says, with this runtime."""
    monitor = Monitor.model_validate({"scaling": {"production": {"most": 2} | scaling}})
    files = component.files(PRODUCTION, monitor, runtimes.load(runtime).metrics)
    return [each["metadata"] for each in plain_yaml.load(files[component.SCALER].decode())["spec"]["triggers"]]


@pytest.mark.parametrize("runtime", [name for name in runtimes.names() if name != "transformers"])
def test_servers_are_added_where_requests_wait_in_their_queues(runtime: str) -> None:
    metrics = runtimes.load(runtime).metrics
    assert metrics is not None
    gateway, queue = _triggers(runtime, waiting=3)
    assert "lockstep_gateway_in_flight" in gateway["query"]
    assert (queue["query"], queue["threshold"]) == (f"sum({metrics.watched.waiting}{{{PRODUCTION.labels}}})", "3")
    assert _triggers(runtime, waiting=None) == _triggers("transformers")


@pytest.mark.parametrize("runtime", runtimes.names())
def test_the_dashboard_shows_what_the_runtime_measures(runtime: str) -> None:
    metrics = runtimes.load(runtime).metrics
    panels = [each["title"] for each in rules.dashboard(PRODUCTION, Monitor(), metrics)["panels"]]
    shown = [title for title in panels if title.startswith("servers: ")]
    watched = [] if metrics is None else metrics.watched.names
    wanted = {0: 0, 2: 1, 4: 3}  # panels, by the number of metrics
    assert len(shown) == wanted[len(watched)]
    text = json.dumps([rules.rules(PRODUCTION, Monitor(), metrics), rules.dashboard(PRODUCTION, Monitor(), metrics)])
    assert [name for name in watched if name not in text] == []
    assert len(set(panels)) == len(panels)


def _asked(url: str, expression: str) -> list[Any]:
    try:
        reply = requests.get(f"{url}/query", params={"query": expression}, timeout=10)
    except requests.ConnectionError:
        return []
    if reply.status_code == 503:  # it is still starting
        return []
    assert reply.status_code == 200, f"{expression}: {reply.text}"
    found: list[Any] = reply.json()["data"]["result"]
    return found


@pytest.mark.slow
def test_the_energy_of_1000_requests_is_what_their_gpus_used(tmp_path: Path) -> None:
    """Two GPUs of 300 watts, another model's beside them, and two requests a second."""
    monitor = Monitor.model_validate({"gpus": {"production": {"namespace": "router-production"}}})
    (energy,) = [each for each in _expressions(rules.dashboard(PRODUCTION, monitor, None), "5m") if "ENERGY" in each]

    def counter(gpu: int, namespace: str) -> dict[str, str]:
        series = f'DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{{gpu="{gpu}",namespace="{namespace}"}}'
        return {"series": series, "values": f"0+{300 * 15 * 1000}x40"}  # millijoules in 15 seconds

    series = [counter(0, "router-production"), counter(1, "router-production"), counter(2, "other-production")]
    requests = f"lockstep_gateway_requests_total{{{PRODUCTION.labels}}}"
    series.append({"series": requests, "values": "0+30x40"})
    wanted = {"expr": energy, "eval_time": "10m", "exp_samples": [{"labels": "{}", "value": 1000 * 600 / 3600 / 2}]}
    case = {"interval": "15s", "input_series": series, "promql_expr_test": [wanted]}
    (tmp_path / "test.yaml").write_text(dumped({"tests": [case]}))
    done = _promtool(tmp_path, "test", "rules", "test.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ({"name space": "x"}, "monitor.gpus.production.name space"),
        ({"namespace": ""}, "monitor.gpus.production.namespace"),
        ({}, "monitor.gpus.production"),
    ],
)
def test_labels_of_gpus_that_no_series_can_have_are_refused(labels: dict[str, str], said: str, document: dict) -> None:
    document["monitor"] = {"gpus": {"production": labels}}
    with pytest.raises(ParamsRefused, match=re.escape(said)):
        as_params(document)


def test_a_label_of_gpus_is_quoted_as_prometheus_reads_it() -> None:
    monitor = Monitor.model_validate({"gpus": {"production": {"namespace": 'a"b\\c', "cluster": "ü😀"}}})
    queries = _expressions(rules.dashboard(PRODUCTION, monitor, None), "5m")
    assert 'DCGM_FI_DEV_FB_USED{namespace="a\\"b\\\\c",cluster="ü😀"}' in queries
    elsewhere = rules.dashboard(PRODUCTION._replace(environment="staging"), monitor, None)
    assert not [each for each in _expressions(elsewhere, "5m") if "DCGM" in each]


def test_every_alert_has_a_section_in_the_runbook() -> None:
    monitor = Monitor.model_validate({"objectives": ALL})
    alerts = [rule for rule in rules.rules(PRODUCTION, monitor, METRICS)["groups"][0]["rules"] if "alert" in rule]
    page = (REPOSITORY / monitor.runbook).read_text()
    sections = set(re.findall(r"^## (Lockstep\w+)$", page, re.MULTILINE))
    assert sections == {rule["alert"] for rule in alerts}
    assert {rule["annotations"]["runbook_url"] for rule in alerts} == {
        f"docs/how-to/alerts.md#{name.lower()}" for name in sections
    }
    elsewhere = Monitor.model_validate({"runbook": "https://docs.example.org/alerts"})
    last = rules.rules(PRODUCTION, elsewhere, METRICS)["groups"][0]["rules"][-1]
    assert last["annotations"]["runbook_url"] == f"https://docs.example.org/alerts#{last['alert'].lower()}"


@pytest.mark.parametrize("runbook", ["", "docs/a b", "https://x/#y", '"<script>'])
def test_an_address_of_the_runbook_that_is_none_is_refused(runbook: str, document: dict) -> None:
    document["monitor"] = {"runbook": runbook}
    with pytest.raises(ParamsRefused, match=re.escape("monitor.runbook")):
        as_params(document)


def test_every_metric_that_a_rule_or_a_panel_names_is_one_of_the_gateways(scraped: Any) -> None:
    scraped.request()
    monitor = Monitor.model_validate({"objectives": ALL})
    text = json.dumps([rules.rules(PRODUCTION, monitor, None), rules.dashboard(PRODUCTION, monitor, None)])
    named = set(re.findall(r"lockstep_gateway_[a-z_]+", text + _scaling_query()))
    there = set(re.findall(r"^(lockstep_gateway_[a-z_]+)", scraped.metrics.text().decode(), re.MULTILINE))
    assert named <= there
    assert len(named) >= 12
