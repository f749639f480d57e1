"""The component monitoring: what it builds to, and that only its command changes it."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from checks.config.monitor import Monitor
from checks.storage import layout
from release import runtimes
from release.cli import main
from release.monitoring import component, rules
from release.monitoring.objectives import Scope
from release.overlay import edits, gateway, overlays, scaling
from tests import kubernetes_tools, programs, spoil
from tests.conftest import REPOSITORY, dumped, read_yaml
from tests.overlay_sample import KINDS, UNRENDERED, edit, lying, put, rendered, rewrite, watched
from tests.pipeline_repository import write_params

pytestmark = pytest.mark.slow

ALERTS = {
    "alerts": {
        "staging": {"page": {"kind": "pagerduty", "secret": "oncall", "key": "key"}, "ticket": {"secret": "team"}}
    }
}
SCALING = {"scaling": {"staging": {"most": 4, "requests": 16}}}
HOME = "staging/monitoring"
SERVE = read_yaml((REPOSITORY / "params.yaml").read_text())["serve"]
STAGING, METRICS = Scope(SERVE["name"], "staging"), runtimes.load(SERVE["runtime"]).metrics


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A release in staging, behind the gateway and with the component."""
    programs.require("kustomize")
    tree = shutil.copytree(REPOSITORY / layout.ENVIRONMENTS, tmp_path / layout.ENVIRONMENTS)
    put(tree, rendered())
    made(tmp_path, {})
    return tmp_path


def made(root: Path, monitor: dict[str, Any]) -> None:
    write_params(root, read_yaml((REPOSITORY / "params.yaml").read_text()) | {"monitor": monitor})
    watched(root / layout.ENVIRONMENTS, root, "staging")


def scaled(root: Path) -> None:
    """KEDA decides how many servers there are, so the environment says no number."""
    made(root, SCALING)
    edit(root / layout.ENVIRONMENTS, "staging", lambda own: own.update(replicas=None))


def failures(root: Path, monitor: dict[str, Any] | None = None) -> list[str]:
    """``monitor``: as on the target branch; None: what the files were made of."""
    tree, found = root / layout.ENVIRONMENTS, monitor
    if found is None:
        found = read_yaml((root / layout.PARAMS).read_text())["monitor"]
    wanted = component.committed(STAGING, Monitor.model_validate(found), METRICS)
    return edits.failures("staging", lying(tree), rendered(), lambda: (wanted,))


@pytest.mark.parametrize("monitor", [{}, SCALING, ALERTS], ids=["default", "scaling", "alerts"])
def test_it_builds_to_what_promote_accepts(root: Path, monitor: dict[str, Any]) -> None:
    if monitor is SCALING:
        scaled(root)
    else:
        made(root, monitor)
    assert failures(root) == []
    items = kubernetes_tools.build(root / layout.ENVIRONMENTS / "staging")
    for item in items:
        kubernetes_tools.validate(item, kubernetes_tools.VERSIONS[0])
    found = {item["kind"]: item for item in items if item["metadata"]["name"] not in ("server-pods",)}
    assert ("ScaledObject" in found, "AlertmanagerConfig" in found) == (monitor is SCALING, monitor is ALERTS)
    of = {(item["kind"], item["metadata"]["name"]): item["spec"] for item in items if "spec" in item}
    for name in (gateway.NAME, overlays.CONTAINER):
        pods, scraped = of["Deployment", name]["template"], of["PodMonitor", name]
        assert scraped["selector"]["matchLabels"].items() <= pods["metadata"]["labels"].items()
        ports = {port["name"] for port in pods["spec"]["containers"][0]["ports"]}
        assert {each["port"] for each in scraped["podMetricsEndpoints"]} <= ports
    if monitor is SCALING:
        assert "replicas" not in of["Deployment", "server"]
    assert found["PrometheusRule"]["spec"] == rules.rules(STAGING, Monitor.model_validate(monitor), METRICS)


def test_alertmanager_sends_each_alert_to_its_receiver_and_those_of_another_environment_to_none(tmp_path: Path) -> None:
    programs.require("amtool")
    spec = read_yaml(component.files(STAGING, Monitor.model_validate(ALERTS), METRICS)["alertmanagerconfig.yaml"])[
        "spec"
    ]
    receivers = {each["name"]: {**each, "name": None} for each in spec["receivers"]}
    secret = {"name": "oncall", "key": "key"}
    assert receivers["page"] == {"name": None, "pagerdutyConfigs": [{"sendResolved": True, "routingKey": secret}]}
    assert receivers["ticket"]["webhookConfigs"][0]["urlSecret"] == {"name": "team", "key": "url"}
    # As the operator writes it for Alertmanager, below a route of its own.
    written = {
        "route": {"receiver": "none", "routes": [_of_alertmanager(spec["route"])]},
        "receivers": [{"name": name} for name in ("none", *receivers)],
    }
    (tmp_path / "alertmanager.yaml").write_text(dumped(written))
    alerts = [
        each["labels"]
        for group in rules.rules(STAGING, Monitor(), METRICS)["groups"]
        for each in group["rules"]
        if "alert" in each
    ]
    assert {each["severity"] for each in alerts} == {"page", "ticket"}
    cases = [(labels, labels["severity"]) for labels in alerts]
    cases += [({**alerts[0], "environment": "production"}, "none"), ({**alerts[0], "model": "other"}, "none")]
    for labels, receiver in {str(case): case for case in cases}.values():
        command = [
            "amtool",
            "config",
            "routes",
            "test",
            "--config.file=alertmanager.yaml",
            *(f"{name}={value}" for name, value in labels.items()),
        ]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout.strip()) == (0, receiver), done.stderr


def _of_alertmanager(given: dict[str, Any]) -> dict[str, Any]:
    found = {re.sub("[A-Z]", lambda letter: f"_{letter[0].lower()}", key): value for key, value in given.items()}
    matchers = [f'{each["name"]}{each["matchType"]}"{each["value"]}"' for each in given["matchers"]]
    return {**found, "matchers": matchers, "routes": [_of_alertmanager(each) for each in given.get("routes", ())]}


def test_it_builds_with_kserve_and_where_nothing_runs_and_its_command_changes_nothing_the_second_time(
    root: Path,
) -> None:
    tree = root / layout.ENVIRONMENTS
    before = lying(tree)
    watched(tree, root, "staging")
    assert lying(tree) == before
    edit(tree, "staging", lambda own: own.update(variant=KINDS[1]))
    assert failures(root) == []
    edit(tree, "staging", lambda own: own.update(variant=KINDS[0]))
    scaled(root)
    put(tree, overlays.nothing("staging"))
    kinds = {item["kind"] for item in kubernetes_tools.build(tree / "staging")}
    assert {"PodMonitor", "PrometheusRule", "ScaledObject"} <= kinds


def patched(kind: str, *operations: dict[str, Any]) -> spoil.Spoil:
    patch = {"target": {"kind": kind}, "patch": yaml.safe_dump(list(operations))}
    return lambda tree: rewrite(tree, lambda own: own.update(patches=[*own.get("patches", []), patch]))


def test_the_labels_by_which_an_operator_finds_them_are_a_knob(root: Path) -> None:
    tree = root / layout.ENVIRONMENTS
    edit(tree, "staging", lambda own: own.update(labels={"release": "monitoring"}))
    assert failures(root) == []
    for item in kubernetes_tools.build(tree / "staging"):
        assert item["metadata"]["labels"]["release"] == "monitoring"


def test_the_most_servers_of_a_scaler_have_to_fit_into_the_capacity(root: Path) -> None:
    scaled(root)
    tree = root / layout.ENVIRONMENTS
    edit(tree, "staging", lambda own: own.update(gpus=1, capacity=4))
    (failure,) = failures(root)
    assert "capacity: is 4, but 5 GPUs are needed, 1 each for 4 servers and for one more during an update" in failure
    edit(tree, "staging", lambda own: own.update(update="replace", capacity=3))
    only, most = failures(root)
    assert "update: replace: the only server ends" in only, "the fewest are one"
    assert "1 each for 4 servers: write a smaller `most` in monitor.scaling, or `capacity: 4`" in most
    for text in ("[", "[]", "spec: 1", "spec: {minReplicaCount: many, maxReplicaCount: 4}"):
        (tree / HOME / "scaledobject.yaml").write_text(text)
        assert len(edits.stuck("staging", lying(tree))) == 1, "its own check refuses the file"


COMMAND = "`lockstep monitor component staging` writes it from the section monitor"
EDITED: dict[str, spoil.Spoil] = {
    "an edited rule": spoil.replace(f"{HOME}/prometheusrule.yaml", "> 0.144", "> 0.9"),
    "no rules": spoil.remove(f"{HOME}/prometheusrule.yaml"),
    "rules that nothing names": spoil.replace(f"{HOME}/kustomization.yaml", "- prometheusrule.yaml\n", ""),
    "pods of something else": spoil.replace(f"{HOME}/podmonitor.yaml", "name: gateway\n  podM", "name: other\n  podM"),
    "another model's metrics": spoil.replace(f"{HOME}/podmonitor.yaml", f"replacement: {STAGING.model}", "replacement: other"),
    "an edited dashboard": spoil.replace(f"{HOME}/dashboard.json", "refresh", "fresh"),
    "a dashboard that Grafana does not find": spoil.replace(f"{HOME}/kustomization.yaml", "grafana_dashboard", "dashboard"),
    "alerts to somebody else": spoil.replace(f"{HOME}/alertmanagerconfig.yaml", "oncall", "x"),
    "a workload in its folder": spoil.write(f"{HOME}/podmonitor.yaml", "apiVersion: batch/v1\nkind: Job\nmetadata: {name: x}\n"),
    "a file more": spoil.write(f"{HOME}/more.yaml", "apiVersion: batch/v1\nkind: Job\nmetadata: {name: x}\n"),
}  # fmt: skip


@pytest.mark.parametrize("case", EDITED)
def test_what_its_command_did_not_write_is_refused(case: str, root: Path) -> None:
    made(root, ALERTS)
    EDITED[case](root / layout.ENVIRONMENTS)
    (failure,) = failures(root)
    assert re.fullmatch(rf"release/environments/{HOME}/\S+: is not what the section monitor gives: {COMMAND}", failure)


PATCHED: dict[str, spoil.Spoil] = {
    "a patched rule": patched("PrometheusRule", {"op": "replace", "path": "/spec/groups/0/rules/0/expr", "value": "vector(0) > 1"}),
    "alerts to somebody else": patched(
        "AlertmanagerConfig", {"op": "replace", "path": "/spec/receivers/0/pagerdutyConfigs/0/routingKey/name", "value": "x"}
    ),
    "the folder by another name": lambda tree: rewrite(tree, lambda own: own.update(components=["../components/gateway", f"../{HOME}"])),
    "no gateway": lambda tree: rewrite(tree, lambda own: own.update(components=["monitoring"])),
    "no server": patched("ScaledObject", {"op": "replace", "path": "/spec/minReplicaCount", "value": 0}),
    "none where Prometheus is gone": patched(
        "ScaledObject", {"op": "add", "path": "/spec/fallback", "value": {"failureThreshold": 3, "replicas": 0}}
    ),
    "idle": patched("ScaledObject", {"op": "add", "path": "/spec/idleReplicaCount", "value": 0}),
    "paused": patched(
        "ScaledObject", {"op": "add", "path": "/metadata/annotations", "value": {"autoscaling.keda.sh/paused-replicas": "0"}}
    ),
    "another": patched("ScaledObject", {"op": "replace", "path": "/spec/scaleTargetRef/name", "value": "x"}),
    "a number beside the scaler": patched("Deployment", {"op": "add", "path": "/spec/replicas", "value": 2}),
}  # fmt: skip


@pytest.mark.parametrize("case", PATCHED)
def test_its_objects_cannot_be_patched(case: str, root: Path) -> None:
    scaled(root)
    PATCHED[case](root / layout.ENVIRONMENTS)
    (failure,) = failures(root)
    assert UNRENDERED.search(failure), failure


def test_an_older_section_monitor_is_refused(root: Path) -> None:
    found = failures(root, {"objectives": {"availability": 0.95}})
    assert {failure.partition(":")[0].rpartition("/")[2] for failure in found} == {
        "prometheusrule.yaml",
        "dashboard.json",
    }
    assert all(failure.endswith(COMMAND) for failure in found)


def test_a_component_that_is_not_used_is_refused(root: Path) -> None:
    edit(root / layout.ENVIRONMENTS, "staging", lambda own: own.update(monitoring=False))
    (failure,) = failures(root)
    assert failure.endswith(
        "staging/monitoring: is not used: remove it, or write `monitoring: true` in environment.yaml"
    )


@pytest.mark.parametrize("knobs", [{"replicas": 2}, {"variant": "kserve", "replicas": 1}, {"variant": "rollout"}])
def test_the_number_of_servers_is_not_in_git_too(knobs: dict[str, Any], root: Path) -> None:
    scaled(root)
    edit(root / layout.ENVIRONMENTS, "staging", lambda own: own.update(knobs))
    (failure,) = failures(root)
    assert failure.endswith(
        "KEDA sets the number of servers of a Deployment: write `variant: deployment` and `replicas: null`"
    )


def test_a_scaler_that_is_new_comes_with_the_command_that_keeps_the_number_of_servers(root: Path) -> None:
    write_params(root, read_yaml((REPOSITORY / "params.yaml").read_text()) | {"monitor": SCALING})
    arguments = ["-C", str(root), "monitor", "component", "staging"]
    wrote, why, command, argo = CliRunner().invoke(main, arguments).stdout.splitlines()
    assert why == "before a cluster applies the scaler, keep its number of servers, which else falls to 1:"
    assert command == f"  {scaling.hand_over('model-staging')}"
    assert argo.endswith(f"see {scaling.PAGE} instead")
    assert CliRunner().invoke(main, arguments).stdout.splitlines() == [wrote], "it is no news"
    page, _, anchor = scaling.PAGE.partition("#")
    text = (REPOSITORY / page).read_text()
    assert f"\n### {anchor.replace('-', ' ').capitalize()}\n" in text
    assert scaling.hand_over("model-production").split(" | ")[0] in text


@pytest.mark.parametrize(
    ("monitor", "environment", "said"),
    [
        ({}, "nowhere", "promote.environments has no 'nowhere'; use one of staging"),
        ({"scaling": {"prod": {"most": 2}}}, "staging", "monitor.scaling: promote.environments has no 'prod'"),
        ({"alerts": {"prod": {"page": {"secret": "a"}}}}, "staging", "monitor.alerts: promote.environments has no 'prod'"),
        ({"alerts": {"staging": {"page": {"secret": "https://hook"}}}}, "staging", "monitor.alerts.staging.page.secret"),
        ({"gpus": {"prod": {"pool": "a"}}}, "staging", "monitor.gpus: promote.environments has no 'prod'"),
        ({"scaling": {"staging": {"most": 2, "least": 3}}}, "staging", "most: 2 is below least, 3; swap them"),
        ({"scaling": {"staging": {"most": 2, "prometheus": "prom:9090"}}}, "staging", "monitor.scaling.staging.prometheus"),
        ({"objectives": {"latency": {"seconds": 9.3, "share": 0.9}}}, "staging", "9.3 is no bucket of the gateway"),
    ],
)  # fmt: skip
def test_what_cannot_be_generated_is_one_line(
    tmp_path: Path, monitor: dict[str, Any], environment: str, said: str
) -> None:
    write_params(tmp_path, read_yaml((REPOSITORY / "params.yaml").read_text()) | {"monitor": monitor})
    done = CliRunner().invoke(main, ["-C", str(tmp_path), "monitor", "component", environment])
    assert (done.exit_code, len(done.stderr.splitlines()), done.stdout) == (2, 1, ""), done.output
    assert said in done.stderr
    assert not (tmp_path / "release").exists()
