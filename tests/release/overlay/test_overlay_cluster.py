"""What documentation offers around an environment in a cluster, held to schemas and to what a promotion accepts."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from checks.storage import layout
from release.overlay import deployed, edits, overlays
from tests import kubernetes_tools, programs, spoil
from tests.conftest import REPOSITORY
from tests.overlay_sample import GATEWAY, UNRENDERED, edit, failures, lying, put, rendered, rewrite

pytestmark = pytest.mark.slow

KEYS = {"LOCKSTEP_GATEWAY_KEYS": "/etc/lockstep/keys"}
DOCS = REPOSITORY / "docs" / "how-to"


def examples(page: str, section: str) -> list[Any]:
    """Every YAML document of a section of a page."""
    text = (DOCS / page).read_text().partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    return [document for block in blocks for document in yaml.safe_load_all(block)]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of release/environments with a release promoted to staging."""
    programs.require("kustomize")
    found = shutil.copytree(REPOSITORY / layout.ENVIRONMENTS, tmp_path / layout.ENVIRONMENTS)
    put(found, rendered())
    return found


def refused(tree: Path, said: str) -> None:
    found = failures(tree)
    assert any(re.search(said, failure) for failure in found), found
    assert all("\n" not in failure for failure in found)


def knobs(tree: Path, environment: str = "staging", **changes: Any) -> None:
    edit(tree, environment, lambda own: own.update(changes))


def patched(kind: str, *operations: dict[str, Any]) -> spoil.Spoil:
    patch = {"target": {"kind": kind}, "patch": yaml.safe_dump(list(operations))}
    return lambda tree: rewrite(tree, lambda own: own.update(patches=[*own.get("patches", []), patch]))


def setting(kind: str, path: str, value: Any, op: str = "replace") -> spoil.Spoil:
    return patched(kind, {"op": op, "path": path, "value": value})


def added(item: dict[str, Any]) -> spoil.Spoil:
    """One more object, in a file of the environment."""

    def do(tree: Path) -> None:
        (tree / "staging" / "more.yaml").write_text(yaml.safe_dump(item))
        rewrite(tree, lambda own: own["resources"].append("more.yaml"))

    return do


def unrendered(tree: Path, change: spoil.Spoil) -> None:
    """Hold that a change of files that nobody but Lockstep writes is refused."""
    change(tree)
    found = failures(tree)
    assert found
    assert all(UNRENDERED.search(failure) and "\n" not in failure for failure in found), found


def built(tree: Path, environment: str = "staging") -> list[dict[str, Any]]:
    items = kubernetes_tools.build(tree / environment)
    for item in items:
        kubernetes_tools.validate(item, kubernetes_tools.VERSIONS[0])
    return items


def test_what_the_page_puts_beside_and_into_an_environment_is_valid_and_accepted(tree: Path) -> None:
    *beside, own = examples("environments.md", "What the cluster has beside it")
    assert [item["kind"] for item in beside] == ["Namespace", "PriorityClass"]
    for item in beside:
        kubernetes_tools.validate(item, kubernetes_tools.VERSIONS[0])
    knobs(tree, **own)
    assert failures(tree) == []
    pod = kubernetes_tools.pod(built(tree))
    assert pod["nodeSelector"] == {"nvidia.com/gpu.product": "NVIDIA-L4"}
    assert (pod["priorityClassName"], pod["imagePullSecrets"]) == ("serving", [{"name": "registry"}])


def test_the_pages_limit_for_a_quota_of_cpu_is_accepted(tree: Path) -> None:
    (own,) = examples("environments.md", "What a pod may do")
    knobs(tree, **own)
    assert failures(tree) == []
    (server,) = kubernetes_tools.pod(built(tree))["containers"]
    assert server["resources"]["limits"]["cpu"] == "4"


# Routes.


def gatewayed(tree: Path, environment: str = "staging", **more: Any) -> None:
    """Put a gateway that asks for keys before the environment."""
    knobs(tree, environment, gateway={"image": GATEWAY, "settings": KEYS}, **more)


@pytest.fixture
def exposed(tree: Path) -> Path:
    """The environment of the page, reached from outside."""
    *_, own = examples("gateway.md", "From outside the cluster")
    assert own["gateway"]["settings"] == KEYS
    gatewayed(tree, route=own["route"])
    return tree


def test_the_pages_route_is_accepted_and_leads_to_the_gateway(exposed: Path) -> None:
    cluster, _ = examples("gateway.md", "From outside the cluster")
    kubernetes_tools.validate(cluster, kubernetes_tools.VERSIONS[0])
    assert failures(exposed) == []
    items = built(exposed)
    (route,) = [item["spec"] for item in items if item["kind"] == "HTTPRoute"]
    assert route["hostnames"] == ["models.example.org"]
    assert (cluster["metadata"]["name"], cluster["metadata"]["namespace"], cluster["spec"]["listeners"][0]["name"]) == (
        route["parentRefs"][0]["name"], route["parentRefs"][0]["namespace"], route["parentRefs"][0]["sectionName"],
    )  # fmt: skip
    (backend,) = route["rules"][0]["backendRefs"]
    services = {item["metadata"]["name"]: item["spec"] for item in items if item["kind"] == "Service"}
    assert backend["port"] in [port["port"] for port in services[backend["name"]]["ports"]]


RULE = "/spec/rules/0"
BACKENDS = f"{RULE}/backendRefs"
HOME = {"name": "gateway", "port": 80}
MIRROR = [{"type": "RequestMirror", "requestMirror": {"backendRef": HOME}}]
UNEXPOSED: dict[str, spoil.Spoil] = {
    "no host": setting("HTTPRoute", "/spec/hostnames", ["lockstep.invalid"]),
    "every host": patched("HTTPRoute", {"op": "remove", "path": "/spec/hostnames"}),
    "every listener": patched("HTTPRoute", {"op": "remove", "path": "/spec/parentRefs/0/sectionName"}),
    "a mesh": setting("HTTPRoute", "/spec/parentRefs", [{"kind": "Service", "group": "", "name": "gateway", "sectionName": "x"}]),
    "every Gateway": setting("HTTPRoute", "/spec/useDefaultGateways", "All", "add"),
    "no rules": setting("HTTPRoute", "/spec/rules", []),
    "no backend": patched("HTTPRoute", {"op": "remove", "path": BACKENDS}),
    "the server itself": setting("HTTPRoute", f"{BACKENDS}/0/name", "server"),
    "a bucket": setting("HTTPRoute", f"{BACKENDS}/0/kind", "ServiceImport", "add"),
    "a namespace of nobody": setting("HTTPRoute", f"{BACKENDS}/0/namespace", "other", "add"),
    "a backend's filter": setting("HTTPRoute", f"{BACKENDS}/0/filters", MIRROR, "add"),
    "a copy of each request": setting("HTTPRoute", f"{RULE}/filters", MIRROR, "add"),
    "mostly another release": setting("HTTPRoute", BACKENDS, [HOME | {"weight": 4}, HOME | {"weight": 5, "namespace": "model-production"}]),
    "leave for everyone": added({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "ReferenceGrant", "metadata": {"name": "x"}, "spec": {"from": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": "other"}], "to": [{"group": "", "kind": "Secret"}]}}),
}  # fmt: skip


@pytest.mark.parametrize("case", UNEXPOSED)
def test_a_route_that_leads_past_the_gateways_keys_is_refused(case: str, exposed: Path) -> None:
    unrendered(exposed, UNEXPOSED[case])


# The hosts of production; staging's is models.example.org.
TAKEN = (
    ("models.example.org",),
    ("other.example.org", "models.example.org"),
    ("*.example.org",),
    ("*.org",),
)


@pytest.mark.parametrize("names", TAKEN)
def test_a_route_with_the_host_of_another_environment_is_refused(names: tuple[str, ...], exposed: Path) -> None:
    gatewayed(exposed, "production", route={"hosts": list(names)})
    refused(exposed, "route: models.example.org overlaps with .* of production")
    # Another environment blocks no rollback.
    assert edits.failures("staging", lying(exposed), rendered(), lambda: (), rollback=True) == []


def test_a_wildcard_that_covers_the_host_of_another_environment_is_refused(exposed: Path) -> None:
    gatewayed(exposed, "production", route={"hosts": ["models.example.org"]})
    knobs(exposed, route={"hosts": ["*.example.org"]})
    refused(exposed, "route: \\*.example.org overlaps with .* of production")


def test_hosts_of_other_environments_that_differ_are_no_gap(exposed: Path) -> None:
    hosts = ["models.example.com", "*.models.example.org", "example.org"]
    gatewayed(exposed, "production", route={"hosts": hosts})
    assert failures(exposed) == []


def test_a_route_is_refused_where_the_hosts_of_another_environment_are_not_known(exposed: Path) -> None:
    spoil.replace("production/environment.yaml", "namespace:", "x:")(exposed)
    refused(exposed, "route: cannot be compared with that of production: .*production/environment.yaml: ")


@pytest.mark.parametrize("kind", ["HTTPRoute", "Service"])
@pytest.mark.parametrize(
    "key", ["external-dns.alpha.kubernetes.io/hostname", "tailscale.com/expose", "coredns.io/hostname"]
)
def test_a_name_that_a_tool_would_give_is_refused(key: str, kind: str, exposed: Path) -> None:
    unrendered(exposed, setting(kind, "/metadata/annotations", {key: "models.example.com"}, "add"))


def test_the_pages_weights_are_accepted_in_both_environments(exposed: Path) -> None:
    """The page's production is staging here, and its canary is production."""
    share, grant = examples("rollout.md", "Canary")[:2]
    canary = share["route"]["canary"] | {"namespace": "model-production"}
    knobs(exposed, route={"hosts": ["models.example.org"], "canary": canary})
    assert failures(exposed) == []
    (route,) = [item["spec"] for item in built(exposed) if item["kind"] == "HTTPRoute"]
    assert [(each["weight"], each.get("namespace")) for each in route["rules"][0]["backendRefs"]] == [
        (95, None), (5, "model-production"),
    ]  # fmt: skip
    alone = {path: data for path, data in lying(exposed).items() if "production" not in path.parts}
    assert edits.failures("staging", alone, rendered(), lambda: (), rollback=True) == []
    (failure,) = edits.failures("staging", alone, rendered(), lambda: ())
    assert failure.endswith("route: canary: 'model-production' is the namespace of no other environment")

    put(exposed, rendered("production"))
    production = grant["canary_of"] | {"environment": "staging", "namespace": "model-staging"}
    gatewayed(exposed, "production", canary_of=production)
    assert edits.failures("production", lying(exposed), rendered("production"), lambda: ()) == []
    items = built(exposed, "production")
    (item,) = [each for each in items if each["kind"] == "ReferenceGrant"]
    assert item["spec"]["from"][0]["namespace"] == "model-staging"
    (config,) = [each for each in items if each["kind"] == "ConfigMap"]
    assert config["data"] == {"LOCKSTEP_GATEWAY_ENVIRONMENT": "staging", **KEYS}
    gatewayed(exposed, "production", canary_of=production | {"namespace": "other"})
    (failure,) = edits.failures("production", lying(exposed), rendered("production"), lambda: ())
    assert failure.endswith("canary_of: 'other' is not the namespace of an environment 'staging'")


# Step by step.


@pytest.fixture
def stepwise(tree: Path) -> Path:
    """The release, brought by the Rollout."""
    knobs(tree, variant="rollout")
    return tree


def test_the_pods_of_a_rollout_are_those_of_the_release_and_it_asks_about_that_release(stepwise: Path) -> None:
    knobs(stepwise, **examples("rollout.md", "Canary")[2])
    assert failures(stepwise) == []
    items = built(stepwise)
    assert deployed.failures(items, "staging", rendered()) == []
    found = {item["kind"]: item for item in items}
    (server, moved, template) = (found[kind] for kind in ("Deployment", "Rollout", "AnalysisTemplate"))
    assert "replicas" not in server["spec"]
    assert moved["spec"]["replicas"] == 4
    assert moved["spec"]["workloadRef"]["name"] == server["metadata"]["name"]
    assert moved["metadata"]["annotations"] == server["metadata"]["annotations"]
    (analysis,) = [step["analysis"] for step in moved["spec"]["strategy"]["canary"]["steps"] if "analysis" in step]
    assert [each["templateName"] for each in analysis["templates"]] == [template["metadata"]["name"]]
    (model,) = [arg["valueFrom"]["fieldRef"]["fieldPath"] for arg in analysis["args"] if arg["name"] == "model"]
    assert model == "metadata.annotations['lockstep/model']"
    assert {arg["name"] for arg in analysis["args"]} == {arg["name"] for arg in template["spec"]["args"]}


def test_a_rollout_of_nothing_is_nothing(stepwise: Path) -> None:
    put(stepwise, overlays.nothing("staging"))
    assert kubernetes_tools.build(stepwise / "staging") == []


STEPS = "/spec/strategy/canary/steps"
TARGET = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout", "name": "server"}


def scaler(**target: str) -> spoil.Spoil:
    spec = {"scaleTargetRef": TARGET | target, "minReplicas": 1, "maxReplicas": 4}
    return added(
        {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "x"}, "spec": spec}
    )


METRIC = "/spec/metrics/0"
UNROLLED: dict[str, spoil.Spoil] = {
    "no analysis": patched("Rollout", {"op": "remove", "path": f"{STEPS}/1"}),
    "another analysis": setting("Rollout", f"{STEPS}/1/analysis/templates/0/templateName", "other"),
    "another model's verdict": setting("Rollout", f"{STEPS}/1/analysis/args/1", {"name": "model", "value": f"sha256:{'0' * 64}"}),
    "most pods before it": setting("Rollout", f"{STEPS}/0/setWeight", 90),
    "no pods before it": patched("Rollout", {"op": "remove", "path": f"{STEPS}/0"}),
    "another kind of step": setting("Rollout", f"{STEPS}/-", {"setCanaryScale": {"replicas": 9}}, "add"),
    "another workload": setting("Rollout", "/spec/workloadRef/name", "other"),
    "pods of its own": setting("Rollout", "/spec/template", {"spec": {"containers": []}}, "add"),
    "blue and green": setting("Rollout", "/spec/strategy/blueGreen", {"activeService": "server"}, "add"),
    "a rollback that waits": patched("Rollout", {"op": "remove", "path": "/spec/rollbackWindow"}),
    "nothing to roll back to": setting("Rollout", "/spec/revisionHistoryLimit", 0),
    "paused": setting("Rollout", "/spec/paused", True, "add"),
    "another release's name": setting("Rollout", "/metadata/annotations/lockstep~1model", "sha256:0"),
    "a verdict that is always good": setting("AnalysisTemplate", f"{METRIC}/successCondition", "true"),
    "a verdict of another server": setting("AnalysisTemplate", f"{METRIC}/provider/web/url", "http://evil.example"),
    "a verdict that does not count": setting("AnalysisTemplate", "/spec/dryRun", [{"metricName": "lockstep"}], "add"),
    "no template": patched("AnalysisTemplate", {"op": "replace", "path": "/kind", "value": "ConfigMap"}),
    "servers of the Deployment too": setting("Deployment", "/spec/replicas", 2, "add"),
    "a scaler that it undoes": scaler(),
    "a scaler of the Deployment": scaler(apiVersion="apps/v1", kind="Deployment"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNROLLED)
def test_a_rollout_that_could_pass_over_the_verdict_is_refused(case: str, stepwise: Path) -> None:
    unrendered(stepwise, UNROLLED[case])


def test_a_rollout_that_the_component_does_not_bring_is_refused(stepwise: Path) -> None:
    unrendered(stepwise, spoil.replace("components/rollout/objects.yaml", "setWeight: 10", "setWeight: 90"))
